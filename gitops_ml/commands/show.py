"""``show``: one record or report in full, by key, by commit or by the folder that ``report`` named."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from gitops_ml import html, markdown, reports, wording
from gitops_ml.commands.report import write_all
from gitops_ml.comparison import Comparison, ExperimentComparison
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.history import matching_keys
from gitops_ml.records import Record, record_to_json
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", metavar="KEY|REPORT|COMMIT", help="a record's key (8 characters will do), or a report")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write it as a page instead")
    parser.add_argument("--format", choices=("text", "json", "md"), default="text")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print it, or write the page."""
    tools.results.refresh()
    found = list(reports_named(args.what, tools))
    if found:
        comparison = Comparison(head=found[0].head, baseline=found[0].baseline, experiments=tuple(found))
        return _show_reports(comparison, args, tools)
    return _show_record(record_named(args.what, tools), args, tools)


def reports_named(name: str, tools: Tools) -> Iterator[ExperimentComparison]:
    """Yield the reports in the folder of that name, or of the commit."""
    path = name.strip("/")
    start = path.find("reports/")
    folders = [path[start:]] if start >= 0 else []
    if not folders:
        commit = tools.repository.resolve(name)
        every = tools.results.report_files("reports") or {} if commit else {}
        folders = sorted(
            {
                f"reports/{p.rsplit('/', 1)[0]}"
                for p in every
                if p.endswith("/report.json") and f"/{(commit or '')[:12]}-" in p
            }
        )
    for folder in folders:
        content = (tools.results.report_files(folder) or {}).get("report.json")
        if content is not None:
            yield from _reports(content, f"{folder}/report.json", tools)


def _reports(content: bytes, where: str, tools: Tools) -> Iterator[ExperimentComparison]:
    for experiment in reports.comparison_from(content, where).experiments:
        yield reports.with_curves(experiment, tools.results.records(reports.all_keys([experiment])))


def record_named(name: str, tools: Tools) -> Record:
    """Return the record whose key starts with the name."""
    keys = matching_keys(name, tools.results.keys())
    if len(keys) > 1:
        raise UserError(
            f"`{name}` names {len(keys)} records: {', '.join(key[:12] for key in keys[:5])}; give more characters"
        )
    records = tools.results.records(keys)
    if not keys or keys[0] not in records:
        raise UserError(
            f"nothing is called `{name}`: no record's key starts so, and no report has that folder or commit"
        )
    return records[keys[0]]


def _show_reports(comparison: Comparison, args: argparse.Namespace, tools: Tools) -> int:
    if args.html:
        _write(tools.cwd / args.html, reports.page(comparison), tools)
    elif args.format == "json":
        for experiment in comparison.experiments:
            tools.say(reports.report_bytes(experiment).decode().rstrip("\n"))
    elif args.format == "md":
        tools.say("\n".join(markdown.report(experiment, {}) for experiment in comparison.experiments).rstrip("\n"))
    else:
        tools.say(markdown.terminal(comparison).rstrip("\n"))
    return ExitCode.OK


def _show_record(record: Record, args: argparse.Namespace, tools: Tools) -> int:
    if args.html:
        _write(tools.cwd / args.html, html.record_page(record), tools)
        return ExitCode.OK
    if args.format == "json":
        tools.say(json.dumps(record_to_json(record), indent=1, sort_keys=True, allow_nan=False))
        return ExitCode.OK
    rows = [(name, value) for name, value in record_facts(record)]
    if args.format == "md":
        cells = [[markdown.code(name), markdown.code(value, 300)] for name, value in rows]
        tools.say(f"# {markdown.code(record.experiment)}\n\n{markdown.table(['what', 'value'], cells)}")
    else:
        tools.say("\n".join(markdown.columns([[wording.clean(n, 48), wording.clean(v, 200)] for n, v in rows])))
    return ExitCode.OK


def record_facts(record: Record) -> Iterator[tuple[str, str]]:
    """Yield what a record says, as names and values."""
    attempt = record.attempt
    yield "experiment", record.experiment
    yield "key", record.key
    yield "commit", record.commit + (" and uncommitted work" if record.dirty else "")
    yield "spec", record.path
    if record.derived_from:
        yield "derived from", record.derived_from
    yield from ((f"params.{name}", wording.value_text(value)) for name, value in record.params.items())
    yield "seed", str(record.seed)
    yield "started", attempt.started_at
    yield "time", wording.duration(attempt.duration_s)
    yield "cost", wording.money(attempt.cost_usd)
    yield "backend", attempt.backend
    yield from ((scalar.name, f"{scalar.value:.6g}") for scalar in record.scalars)
    yield from (
        (f"{series.name} (last of {len(series.values)})", f"{series.values[-1]:.6g}") for series in record.series
    )
    yield from ((file.path, f"{file.size_bytes} bytes, {file.store}, sha256:{file.sha256}") for file in record.files)
    yield from ((f"problem in {problem.file}", f"{problem.where}: {problem.message}") for problem in record.problems)


def _write(file: Path, page: str, tools: Tools) -> None:
    write_all(file.parent, {file.name: page.encode()})
    tools.say(f"page: {file}")

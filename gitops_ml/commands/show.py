"""``show``: one record or report in full, by key, by commit or by the folder that ``report`` named."""

import argparse
import json
import re
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
    parser.add_argument(
        "what",
        metavar="KEY|REPORT|COMMIT|EXPERIMENT",
        help="a record's key or a commit (the first characters will do), a report's folder, or an experiment's name "
        "for what it gave last",
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write it as a page instead")
    parser.add_argument("--format", choices=("text", "json", "md"), default="text")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print it, or write the page."""
    if not args.offline:
        tools.results.refresh()
    name = args.what
    if not args.what.strip("/").count("/") and not re.fullmatch("[0-9a-f]{4,64}", args.what):
        name = _latest(args.what, tools) or args.what
    found = list(reports_named(name, tools))
    if found:
        comparison = Comparison(head=found[0].head, baseline=found[0].baseline, experiments=tuple(found))
        return _show_reports(comparison, args, tools)
    return _show_record(record_named(name, tools), args, tools)


def _latest(experiment: str, tools: Tools) -> str | None:
    """Return the folder of an experiment's newest report, else the key of its newest record; None: it has none.

    Reports carry no time: the newest is the one on what was trained last.
    """
    entries, reports = tools.results.entries()
    trained = {entry.key: entry.started_at for entry in entries if entry.experiment == experiment}
    if not trained:
        return None
    dated = [
        (max((trained.get(key, "") for _, keys in report.verdicts for key in keys), default=""), report.folder)
        for report in reports
        if report.experiment == experiment
    ]
    return max(dated)[1] if dated else max(trained, key=lambda key: (trained[key], key))


def reports_named(name: str, tools: Tools) -> Iterator[ExperimentComparison]:
    """Yield the reports in the folder of that name, or of the commit."""
    path = name.strip("/")
    start = path.find("reports/")
    folders = [path[start:]] if start >= 0 else []
    if not folders:
        known = tools.results.report_folders()
        commit = tools.repository.resolve(name)
        # One whose branch is gone is known by its reports alone.
        short = commit[:12] if commit else name[:12] if re.fullmatch("[0-9a-f]{4,64}", name) else None
        folders = [folder for folder in known if short and folder.rpartition("/")[2].startswith(short)]
        if commit is None and len({folder.rpartition("/")[2].partition("-")[0] for folder in folders}) > 1:
            raise UserError(f"`{name}` is the start of several commits with a report; give more of it")
        if commit is None and folders and matching_keys(name, tools.results.keys()):
            raise UserError(f"`{name}` is the start of a commit and of a record's key; give more of it")
    for folder in folders:
        content = (tools.results.report_files(folder) or {}).get("report.json")
        if content is not None:
            yield from _reports(content, f"{folder}/report.json", tools)


def _reports(content: bytes, where: str, tools: Tools) -> Iterator[ExperimentComparison]:
    for experiment in reports.comparison_from(content, where).experiments:
        yield reports.with_curves(experiment, tools.results.records(reports.all_keys([experiment])))


def record_named(name: str, tools: Tools) -> Record:
    """Return the record whose key starts with the name.

    Raises:
        UserError: there is none, or more than one.
    """
    keys = matching_keys(name, tools.results.keys())
    if len(keys) > 1:
        raise UserError(
            f"`{name}` names {len(keys)} records: {', '.join(key[:12] for key in keys[:5])}; give more characters"
        )
    records = tools.results.records(keys)
    if not keys or keys[0] not in records:
        commit = tools.repository.resolve(name) or name
        of_commit = [entry.key[:12] for entry in tools.results.entries()[0] if entry.commit == commit]
        if of_commit:
            some = ", ".join(of_commit[:5]) + (f" and {len(of_commit) - 5} more" if len(of_commit) > 5 else "")
            raise UserError(f"`{name[:80]}` has no report; its records are: {some}")
        raise UserError(
            f"nothing is called `{name[:80]}`: no record's key starts so, no report has that folder or commit, and no "
            "experiment is called so"
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

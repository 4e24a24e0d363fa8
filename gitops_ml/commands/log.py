"""``gitops-ml log``: what was tried, as a table over the ledger and what is kept here."""

import argparse
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gitops_ml import expressions, history
from gitops_ml.commands._tracked import tracked
from gitops_ml.entries import Entry, ReportEntry
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.expressions import MISSING, ExpressionError
from gitops_ml.history import NAMES, Row
from gitops_ml.tools import Tools

ROWS = 50
"""What a table shows unless it is asked for more."""
METRICS = 4
COLUMNS = ("experiment", "commit", "date", "point", "n", "verdict")

_Value = Callable[[Mapping[str, Any]], Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    several = ", ".join(name for name, holds in NAMES.items() if holds)
    single = ", ".join(name for name, holds in NAMES.items() if not holds)
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="only rows that fulfil it, such as 'params.lr < 0.1 and metrics[\"accuracy\"] > 0.95'",
    )
    parser.add_argument("--experiment", metavar="NAME", action="append", default=[], help="only of it; may be repeated")
    parser.add_argument(
        "--data",
        metavar="NAME=VERSION",
        action="append",
        default=[],
        help="only trained on this version of a data entry, or what begins like it; may be repeated",
    )
    parser.add_argument("--since", metavar="WHEN", help="only trained since then: 2026-01-31, 2026-01-31T12:00 or 7d")
    parser.add_argument("--sort", metavar="NAME", help="by this value, least first (default: date, newest first)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--columns", metavar="NAME,...", help="what to show, such as commit,params.lr,metrics.accuracy")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        help=f"at most so many rows, 0: all (default: {ROWS} in text and md, else all)",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="text", help="how to print it (default: text)")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw a metric along a branch's history instead, with changes of its level and releases, as .svg or .png",
    )
    parser.add_argument("--metric", metavar="NAME", help="what --plot draws (default: what decides)")
    parser.add_argument("--ref", metavar="BRANCH", help="whose history --plot draws (default: the default branch)")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")
    parser.epilog = (
        f"names: {single}; and by name: {several}. A metric is the mean over the seeds of its final value, lowest and "
        "highest are the extremes of its series; cost is in USD, duration in seconds, date in UTC. A comparison with "
        "what a row does not have is false."
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the table."""
    # All that can be wrong about the question is said before anything is read.
    where = _expression("--where", expressions.condition, args.where) if args.where is not None else None
    by = _named("--sort", args.sort) if args.sort is not None else None
    columns = _columns(args.columns) if args.columns is not None else None
    since = history.since(args.since, tools.now()) if args.since is not None else ""
    data = [history.data_version(text) for text in args.data]
    if args.plot is not None and args.plot.suffix not in (".svg", ".png"):
        raise UserError(f"--plot: {args.plot.name[:80]} is neither an .svg nor a .png")
    if not args.offline:
        tools.results.refresh()
    entries, reports = tools.results.entries()
    _check_experiments(args.experiment, {entry.experiment for entry in entries})
    found = history.rows(entries, reports)
    if args.experiment:
        found = [row for row in found if row.experiment in args.experiment]
    if data:
        found = history.trained_on(found, data)
    if since:
        found = [row for row in found if row.date >= since]
    if where is not None:
        found = [row for row in found if where(history.values(row))]
    if by is not None:
        found = history.ordered(found, by, reverse=args.reverse)
    elif args.reverse:
        found.reverse()
    if args.plot is not None:
        return _plot(found, entries, reports, args, tools)
    limit = args.limit if args.limit is not None else ROWS if args.format in ("text", "md") else 0
    shown = found[:limit] if limit else found
    if columns is None and args.format == "json":
        columns = {}
    elif columns is None:
        more = ["derived_from"] if any(row.derived_from for row in shown) else []
        metrics = history.usual_metrics(shown, reports, tracked(shown, reports, tools))
        if args.format in ("text", "md"):
            metrics = metrics[:METRICS]
        wanted = [*COLUMNS, *more, *(f"metrics.{name}" for name in metrics), "cost"]
        columns = {name: _named("--columns", name) for name in wanted}
    text = FORMATS[args.format](shown, columns)
    if text:
        tools.say(text)
    if not found:
        tools.note(f"nothing to show: {len(entries)} records, and none of them fits" if entries else "no records yet")
    elif len(shown) < len(found):
        tools.note(f"{len(found) - len(shown)} more; --limit 0 shows all")
    return ExitCode.OK


def _plot(
    found: Sequence[Row],
    entries: Sequence[Entry],
    reports: Sequence[ReportEntry],
    args: argparse.Namespace,
    tools: Tools,
) -> int:
    from gitops_ml import plots, wording
    from gitops_ml.commands.report import write_all
    from gitops_ml.trends import trends

    repository = tools.repository
    ref = args.ref if args.ref is not None else tools.default_branch
    tip = repository.resolve_ref(ref, tools.project.ledger.remote)
    if tip is None:
        raise UserError(f"there is no branch `{ref[:80]}` here; --ref names the one whose history is drawn")
    specs = tracked(found, reports, tools) if args.metric is None else {}
    names = history.usual_metrics(found, reports, specs)
    metric = args.metric if args.metric is not None else next(iter(names), "")
    if names and metric not in names:
        from gitops_ml.schema import nearest_or_all

        raise UserError(f"--metric: no row has a metric `{metric[:80]}`{nearest_or_all(metric, names)}")
    line = repository.line(tip)
    shown = {key for row in found for key in row.keys}
    wanted = {row.experiment: [metric] for row in found}
    of = trends([entry for entry in entries if entry.key in shown], reports, [commit for commit, _ in line], wanted)
    if not of:
        tools.note(f"nothing to draw: no record is of a commit of {ref}" if found else "nothing to draw: no rows")
        return ExitCode.OK
    measured = {one.position for trend in of for one in trend.measured}
    positions = {commit: position for position, (commit, _) in enumerate(line)}
    releases = sorted((positions[oid], name) for name, oid in repository.tags().items() if oid in positions)
    labels = {position: f"{_day(line[position][1])}\n{line[position][0][:8]}" for position in measured}
    picture = plots.history(of, plots.Axis(labels=labels, releases=releases))
    data = picture.svg if args.plot.suffix == ".svg" else picture.png()
    file = tools.cwd / args.plot
    write_all(file.parent, {file.name: data})
    for trend in of:
        name = wording.clean(trend.experiment) + (f" ({wording.point_text(trend.point)})" if trend.point else "")
        for before, level in zip(trend.levels, trend.levels[1:]):
            commit, time_s = line[trend.measured[level.first].position]
            tools.say(
                f"{name}: {wording.clean(metric)} went from {before.mean:.4g} to {level.mean:.4g} at {commit[:12]} "
                f"({_day(time_s)})"
            )
    experiments = {trend.experiment for trend in of}
    if len(experiments) > plots.MAX_PANELS:
        tools.note(f"note: {plots.MAX_PANELS} of {len(experiments)} experiments are drawn; --experiment chooses")
    tools.say(f"plot: {file}")
    return ExitCode.OK


def _day(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")


# The question


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"`{text[:40]}` is no number of rows")
    return int(text)


def _expression(option: str, read: Callable[[str, Mapping[str, bool]], _Value], text: str) -> _Value:
    try:
        return read(text, NAMES)
    except ExpressionError as error:
        raise UserError(f"{option}: {error}") from error


def _named(option: str, name: str) -> _Value:
    """Return what takes a value from a row; beside the language's own way ``metrics.val/loss`` will do."""
    holder, dot, key = name.partition(".")
    if dot and key and NAMES.get(holder):
        return lambda row: row[holder].get(key, MISSING)
    if NAMES.get(name) and name == "point":
        return lambda row: row["point"]
    return _expression(option, expressions.value, name)


def _columns(text: str) -> dict[str, _Value]:
    names = [name.strip() for name in re.findall(r"""(?:"[^"]*"|'[^']*'|[^,"'])+""", text)]
    if not any(names):
        raise UserError(f"--columns: no name is given; known are: {', '.join(NAMES)}")
    return {name: _named("--columns", name) for name in names if name}


def _check_experiments(wanted: Sequence[str], known: set[str]) -> None:
    import difflib

    for name in wanted:
        if known and name not in known:
            near = difflib.get_close_matches(name, sorted(known)[:1000], 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(sorted(known)[:20])}"
            raise UserError(f"no record is of an experiment `{name[:80]}`; {hint}")


# The forms


def _text(found: Sequence[Row], columns: Mapping[str, _Value]) -> str:
    if not found:
        return ""
    from gitops_ml import markdown, wording

    rows = [[wording.clean(cell, 60) for cell in line] for line in _cells(found, columns)]
    header = [wording.clean(title, 40) for title in _titles(columns)]
    right = [index for index, name in enumerate(columns) if _is_number(name)]
    return "\n".join(markdown.columns([header, *rows], right=right))


_HARMLESS_NUMBER = re.compile(r"|-?[0-9][0-9.:-]*(e[+-]?[0-9]+)?( [0-9:]+| USD)?")
"""What means nothing else in Markdown; empty, a number, an amount or a time."""


def _md(found: Sequence[Row], columns: Mapping[str, _Value]) -> str:
    if not found:
        return ""
    from gitops_ml import markdown

    def shown(cell: str) -> str:
        # As code every sign is an entity, which nobody can read where the table is pasted.
        return cell if _HARMLESS_NUMBER.fullmatch(cell) else markdown.code(cell)

    rows = [[shown(cell) for cell in line] for line in _cells(found, columns)]
    right = [index for index, name in enumerate(columns) if _is_number(name)]
    return markdown.table([markdown.code(title) for title in _titles(columns)], rows, right=right)


def _csv(found: Sequence[Row], columns: Mapping[str, _Value]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_harmless(name) for name in columns])
    for row in found:
        of = history.values(row)
        writer.writerow([_csv_cell(take(of)) for take in columns.values()])
    return out.getvalue().rstrip("\n")


def _json(found: Sequence[Row], columns: Mapping[str, _Value]) -> str:  # noqa: ARG001 a form has them all
    # A row a line: indented, they would be written by Python instead of C, in four times the time.
    lines = [json.dumps(_document(row), allow_nan=False) for row in found]
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


FORMATS: Mapping[str, Callable[[Sequence[Row], Mapping[str, _Value]], str]] = {
    "text": _text,
    "md": _md,
    "csv": _csv,
    "json": _json,
}


def _document(row: Row) -> dict[str, Any]:
    return {
        "experiment": row.experiment,
        "commit": row.commit,
        "dirty": row.dirty,
        "date": row.date,
        "point": dict(row.point),
        "params": dict(row.params),
        "data": dict(row.data),
        "seeds": list(row.seeds),
        "keys": list(row.keys),
        "verdict": row.verdict or None,
        "gate": row.gate or None,
        "metrics": _finite(row.metrics),
        "lowest": _finite(row.lowest),
        "highest": _finite(row.highest),
        "cost_usd": row.cost_usd,
        "duration_s": row.duration_s,
        "backend": row.backend,
        "origin": row.origin,
        "user": row.user or None,
        "derived_from": row.derived_from,
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float | str]:
    from gitops_ml.records import number_json

    return {name: number_json(value) for name, value in metrics.items()}


def _cells(found: Sequence[Row], columns: Mapping[str, _Value]) -> Iterator[list[str]]:
    for row in found:
        of = history.values(row)
        yield [_shown(name, take(of)) for name, take in columns.items()]


def _shown(name: str, value: Any) -> str:
    from gitops_ml import wording

    if value is MISSING:
        return ""
    if name in ("commit", "key", "derived_from"):
        return str(value)[:12]
    if name == "date":
        return str(value)[:16].replace("T", " ")
    if name == "cost":
        return wording.money(value)
    if name == "duration":
        return wording.duration(value)
    if name == "point":
        return wording.point_text(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return wording.value_text(value)


def _titles(columns: Iterable[str]) -> list[str]:
    """Return the headings; a metric that is called like a column keeps its whole name."""
    return [name if (short := name.removeprefix("metrics.")) in columns else short for name in columns]


def _is_number(name: str) -> bool:
    return name in ("n", "cost", "duration") or name.startswith(("metrics", "lowest", "highest"))


def _csv_cell(value: Any) -> Any:
    if value is MISSING:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    return _harmless(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _harmless(text: str) -> str:
    # A spreadsheet runs what begins like a formula: https://owasp.org/www-community/attacks/CSV_Injection
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

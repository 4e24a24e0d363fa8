"""``gitops-ml diff A B``: how two records differ in what determined them, and in what came out."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gitops_ml import history
from gitops_ml.commands._commits import obtained
from gitops_ml.commands.show import record_named
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.history import RecordDifference, matching_keys
from gitops_ml.planning import Difference, TreeFile
from gitops_ml.records import Record, number_json
from gitops_ml.tools import Tools

FILES = 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("before", metavar="A", help="a record's key (the first 4 characters or more will do)")
    parser.add_argument("after", metavar="B", help="the other record's key")
    parser.add_argument("--format", choices=("text", "md", "json"), default="text", help="how to print it")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the difference."""
    if not args.offline:
        tools.results.refresh()
    found = history.record_difference(_named(args.before, tools), _named(args.after, tools))
    files, note = changed_files(found, tools, offline=args.offline)
    if args.format == "json":
        tools.say(json.dumps(_document(found, files, note), indent=1, allow_nan=False))
    else:
        tools.say((_md if args.format == "md" else _text)(_sections(found, files, note)))
    return ExitCode.OK


def _named(name: str, tools: Tools) -> Record:
    if not matching_keys(name, tools.results.keys()) and tools.repository.resolve(name) is not None:
        raise UserError(
            f"`{name[:80]}` is a commit and no record's key; `gitops-ml log --columns key,commit,point` shows keys, "
            "`gitops-ml compare A B` compares commits"
        )
    return record_named(name, tools)


def changed_files(found: RecordDifference, tools: Tools, *, offline: bool) -> tuple[Sequence[str] | None, str]:
    """Return the tracked files that differ between the commits, or None with why that is not known."""
    sides = []
    for record in (found.before, found.after):
        if record.dirty:
            return None, f"{record.key[:12]} was trained on uncommitted work on top of {record.commit[:12]}"
        files = _files_of(record, tools, offline=offline)
        if files is None:
            return None, f"commit {record.commit[:12]} is not in this repository"
        sides.append(files)
    before, after = sides
    changed = (path for path in {*before, *after} if before.get(path) != after.get(path))
    return sorted(changed), ""


def _files_of(record: Record, tools: Tools, *, offline: bool) -> Mapping[str, TreeFile] | None:
    commit = obtained(record.commit, tools, offline=offline)
    return None if commit is None else tools.repository.tree(commit, commit[:12]).files


_Section = tuple[str, Sequence[Sequence[str]], str]
"""Title, rows, and a sentence where there are none."""


def _sections(found: RecordDifference, files: Sequence[str] | None, note: str) -> Iterator[_Section]:
    before, after = found.before, found.after
    yield "records", [(record.experiment, record.key[:12], record.commit[:12]) for record in (before, after)], ""
    yield "parameters", _changes(found.parameters), "the same"
    yield "code", _code(found, files), note if found.code and note else "the same"
    yield "data", _changes(found.data), "the same"
    yield "environment", _changes(found.environment), "the same"
    metrics = [
        (one.name, _number(one.before), _number(one.after), "" if one.difference is None else f"{one.difference:+.6g}")
        for one in found.metrics
    ]
    yield "metrics", metrics, "none on either side"


def _code(found: RecordDifference, files: Sequence[str] | None) -> Sequence[Sequence[str]]:
    if not found.code or files is None:
        return []
    rows = [(f"git diff {found.before.commit[:12]} {found.after.commit[:12]}",), *((path,) for path in files[:FILES])]
    return rows if len(files) <= FILES else [*rows, (f"and {len(files) - FILES} more",)]


def _changes(found: Sequence[Difference]) -> Sequence[Sequence[str]]:
    return [(one.where, _shown(one.before), _shown(one.after)) for one in found]


def _shown(value: object) -> str:
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"


def _text(sections: Iterator[_Section]) -> str:
    from gitops_ml import markdown, wording

    lines = []
    for title, rows, sentence in sections:
        lines.append(title)
        cells = [[wording.clean(cell, 70) for cell in row] for row in rows]
        lines += [f"  {line}" for line in (markdown.columns(cells) if cells else [wording.clean(sentence, 200)])]
    return "\n".join(lines)


def _md(sections: Iterator[_Section]) -> str:
    from gitops_ml import markdown

    headers: Mapping[int, Sequence[str]] = {
        1: ("what",),
        3: ("what", "before", "after"),
        4: ("metric", "before", "after", "change"),
    }
    parts = []
    for title, rows, sentence in sections:
        header = ("experiment", "key", "commit") if title == "records" else headers[len(rows[0])] if rows else ()
        body = markdown.table(header, [[markdown.code(cell) for cell in row] for row in rows]) if rows else sentence
        parts.append(f"**{title}**\n\n{body}")
    return "\n\n".join(parts)


def _document(found: RecordDifference, files: Sequence[str] | None, note: str) -> dict[str, Any]:
    def changes(of: Sequence[Difference]) -> list[dict[str, Any]]:
        return [{"where": one.where, "before": one.before, "after": one.after} for one in of]

    def side(record: Record) -> dict[str, Any]:
        return {
            "experiment": record.experiment,
            "key": record.key,
            "commit": record.commit,
            "dirty": record.dirty,
            "seed": record.seed,
            "cost_usd": record.attempt.cost_usd,
            "duration_s": record.attempt.duration_s,
        }

    return {
        "before": side(found.before),
        "after": side(found.after),
        "parameters": changes(found.parameters),
        "code": {"changed": found.code, "files": None if files is None else list(files), "note": note},
        "data": changes(found.data),
        "environment": changes(found.environment),
        "metrics": [
            {
                "name": one.name,
                "before": None if one.before is None else number_json(one.before),
                "after": None if one.after is None else number_json(one.after),
                "difference": None if one.difference is None else number_json(one.difference),
            }
            for one in found.metrics
        ],
    }

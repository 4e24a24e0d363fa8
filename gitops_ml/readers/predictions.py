"""Per-example predictions, for tests that pair two versions example by example.

A CSV (or TSV) or JSONL file with the column ``id`` and one of: ``correct`` (1 or 0, true or false), ``score`` (more is
better), or ``target`` and ``prediction``. These are compared as texts; when one of them has a fraction they are
numbers of a regression and the absolute error is kept.

    metrics: {predictions: out/predictions.csv}
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import UnreadableError
from gitops_ml.readers.findings import Findings, number
from gitops_ml.readers.table import delimiter_of
from gitops_ml.records import Predictions, Problem

MAX_EXAMPLES = 2_000_000
_TRUTH = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0}


def read_predictions(file: Path, name: str) -> tuple[Predictions | None, tuple[Problem, ...]]:
    """Return the predictions, or None, and what is wrong with the file; raises nothing for any bytes.

    An id that stands twice pairs with nothing for certain, so none of its rows is used.
    """
    findings = Findings(name, "predictions")
    found: Predictions | None = None
    with findings.guarded():
        found = _scored(findings, _rows(findings, file))
    return found, findings.problems


def _rows(findings: Findings, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with text.open_text(file) as stream:
        first = stream.readline(2**20).removeprefix("\ufeff")
        stream.seek(0)
        if not first.strip():
            raise UnreadableError("", "is empty")
        if first.lstrip().startswith("{"):
            for place, line in enumerate(iter(lambda: stream.readline(2**20), ""), start=1):
                try:
                    row = text.loads_line(line.removeprefix("\ufeff")) if not line.isspace() else {}
                except (json.JSONDecodeError, RecursionError):
                    findings.problem(f"line {place}", "is no JSON and is not used")
                    continue
                if isinstance(row, dict) and row:
                    yield place, row
            return
        try:
            rows = csv.reader(stream, delimiter=delimiter_of(first))
            header = [cell.strip().removeprefix("\ufeff") for cell in next(rows)]
            if len(set(header)) < len(header):
                raise UnreadableError("line 1", "has a name that heads two columns")
            for place, cells in enumerate(rows, start=2):
                if len(cells) == len(header):
                    yield place, dict(zip(header, cells, strict=True))
                elif cells:
                    findings.problem(f"row {place}", f"has {len(cells):,} cells where the header has {len(header):,}")
        except csv.Error as error:
            raise UnreadableError("", f"is no table: {error}") from error


def _scored(findings: Findings, rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Predictions | None:
    kind = ""
    raw: dict[str, Any] = {}
    repeated: set[str] = set()
    for place, row in rows:
        kind = kind or _kind(row)
        if len(raw) >= MAX_EXAMPLES:
            raise UnreadableError("", f"has more than {MAX_EXAMPLES:,} examples; none is used")
        identity = str(row.get("id", "")).strip() if not isinstance(row.get("id"), list | dict) else ""
        value = (row.get("target"), row.get("prediction")) if kind == "pair" else row.get(kind)
        if not identity or len(identity) > 500 or value is None:
            findings.problem(f"row {place}", "has no id or no value; it is not used")
        elif identity in raw:
            repeated.add(identity)
        else:
            raw[identity] = value
    if repeated:
        shown = ", ".join(f"`{identity}`" for identity in sorted(repeated)[:3])
        findings.problem(shown, f"{len(repeated):,} ids stand there more than once; none of their rows is used")
    kept = {identity: value for identity, value in raw.items() if identity not in repeated}
    if not kept:
        raise UnreadableError("", "has no usable row")
    kind, scores = _scores(kind, kept)
    sound = {identity: score for identity, score in zip(kept, scores, strict=True) if math.isfinite(score)}
    if len(sound) < len(kept):
        first = next(identity for identity in kept if identity not in sound)
        findings.problem(first, f"{len(kept) - len(sound):,} examples have no finite score; they are not used")
    if not sound:
        return None
    ids = tuple(identity.encode("utf-8", "replace").decode() for identity in sound)
    return Predictions(ids=ids, scores=tuple(sound.values()), kind=kind)


def _kind(row: Mapping[str, Any]) -> str:
    if "id" in row:
        for name in ("correct", "score"):
            if name in row:
                return name
        if "target" in row and "prediction" in row:
            return "pair"
    found = ", ".join(f"`{str(name)[:40]}`" for name in list(row)[:10])
    raise UnreadableError("", f"needs `id` and `correct`, `score`, or `target` and `prediction`; found are: {found}")


def _scores(kind: str, raw: Mapping[str, Any]) -> tuple[str, list[float]]:
    if kind == "correct":
        return kind, [_TRUTH.get(str(value).strip().lower(), math.nan) for value in raw.values()]
    if kind == "score":
        return kind, [_number(value) for value in raw.values()]
    pairs = [(_number(target), _number(prediction)) for target, prediction in raw.values()]
    if all(target == target and guess == guess for target, guess in pairs) and any(
        not part.is_integer() for pair in pairs for part in pair if math.isfinite(part)
    ):
        return "error", [abs(target - guess) for target, guess in pairs]
    same = [str(target).strip() == str(prediction).strip() for target, prediction in raw.values()]
    return "correct", [float(equal) for equal in same]


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value) if "_" not in value and len(value) < 400 else math.nan
        except ValueError:
            return math.nan
    found = number(value)
    return math.nan if found is None else found

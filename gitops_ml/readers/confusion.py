"""Confusion matrices, for a plot of which classes are taken for which.

A JSON file ``{"labels": ["cat", "dog"], "matrix": [[9, 1], [2, 8]]}`` whose rows are the actual classes and columns the
predicted ones (without labels they are numbered from 0), or the list ``[{"actual": "cat", "predicted": "dog"}, ...]``
that DVCLive writes as ``plots/sklearn/confusion_matrix.json``.

    artifacts: [{path: out/confusion.json, store: git}]
"""

from collections import Counter
from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import UnreadableError
from gitops_ml.readers.findings import Findings, describe, number
from gitops_ml.records import ConfusionMatrix, Problem

MAX_LABELS = 1000


def read_confusion(file: Path, name: str) -> tuple[ConfusionMatrix | None, tuple[Problem, ...]]:
    """Return the matrix, or None, and what is wrong with the file; raises nothing for any bytes."""
    findings = Findings(name, "confusion")
    found: ConfusionMatrix | None = None
    with findings.guarded():
        data = text.read_json(file)
        found = _from_matrix(data) if isinstance(data, dict) else _from_pairs(data)
    return found, findings.problems


def _from_matrix(data: dict[str, Any]) -> ConfusionMatrix:
    matrix = data.get("matrix")
    labels = data.get("labels", list(range(len(matrix))) if isinstance(matrix, list) else None)
    if not isinstance(labels, list) or not isinstance(matrix, list):
        raise UnreadableError("", 'holds no {"labels": [...], "matrix": [[...]]}')
    _limit(len(labels))
    if len(matrix) != len(labels) or not all(isinstance(row, list) and len(row) == len(labels) for row in matrix):
        raise UnreadableError("matrix", f"has not {len(labels)} rows of {len(labels)} numbers, one per label")
    counts = []
    for place, row in enumerate(matrix, start=1):
        values = [number(cell) for cell in row]
        if any(value is None or not 0 <= value < 1e100 for value in values):
            raise UnreadableError(f"matrix, row {place}", "holds something that is no count")
        counts.append(tuple(value for value in values if value is not None))
    return ConfusionMatrix(labels=_named(labels), counts=tuple(counts))


def _from_pairs(data: Any) -> ConfusionMatrix:
    if not isinstance(data, list) or not data:
        raise UnreadableError("", f"holds no confusion matrix but: {describe(data)}")
    pairs: Counter[tuple[Any, Any]] = Counter()
    for place, row in enumerate(data, start=1):
        actual, predicted = (row.get("actual"), row.get("predicted")) if isinstance(row, dict) else (None, None)
        if not isinstance(actual, str | int | float) or not isinstance(predicted, str | int | float):
            raise UnreadableError(f"row {place}", "has no `actual` and `predicted` label")
        pairs[str(actual), str(predicted)] += 1
        _limit(len(pairs) // MAX_LABELS)
    labels = sorted({label for pair in pairs for label in pair})
    _limit(len(labels))
    counts = tuple(tuple(float(pairs[actual, predicted]) for predicted in labels) for actual in labels)
    return ConfusionMatrix(labels=_named(labels), counts=counts)


def _limit(labels: int) -> None:
    if not labels <= MAX_LABELS:
        raise UnreadableError("labels", f"are {labels:,}; at most {MAX_LABELS:,} are read")


def _named(labels: list[Any]) -> tuple[str, ...]:
    if not labels:
        raise UnreadableError("labels", "are none")
    names = tuple(str(label)[:200].encode("utf-8", "replace").decode() for label in labels)
    if any(isinstance(label, list | dict) for label in labels) or len(set(names)) < len(names):
        raise UnreadableError("labels", "are not distinct texts or numbers")
    return names

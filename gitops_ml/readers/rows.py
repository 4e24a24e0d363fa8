"""Rows of names and values, such as lines of JSON: each name becomes a series over the rows' steps."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gitops_ml.readers.base import UnreadableError
from gitops_ml.readers.findings import MAX_NAMES, STEP_NAMES, TIME_NAMES, Findings, describe, epoch_seconds, number

_BATCH = 4096
ENDED = "{}, as many programs write a value that is not a number"


def add_rows(findings: Findings, rows: Iterable[tuple[int, dict[str, Any]]], word: str) -> None:
    """Add the series of rows; each comes with its number, of what ``word`` says. A row need not have every name.

    The step is the value of the first of ``STEP_NAMES`` that stands in every row; else the rows are counted.
    """
    columns: dict[str, tuple[list[int], list[float]]] = {}
    skipped: dict[str, tuple[int, str, str]] = {}
    count = 0
    rows = iter(rows)
    while batch := list(itertools.islice(rows, _BATCH)):
        flat = [row for _, row in batch]
        alike = _add_alike(columns, flat, count)
        if not alike:
            flat = [findings.flat(row) for row in flat]
            alike = _add_alike(columns, flat, count)
        findings.count(sum(map(len, flat)))
        if not alike:
            for place, ((number_there, _), row) in enumerate(zip(batch, flat, strict=True), start=count):
                _add_row(columns, skipped, place, f"{word} {number_there}", row)
        count += len(batch)
    add_columns(findings, columns, count)
    _report_skipped(findings, skipped, columns)
    nulls = {name: first for name, (times, what, first) in skipped.items() if what == "empty"}
    for name in ended({name: rows for name, (rows, _) in columns.items()}, count, among=nulls):
        findings.problem(name, ENDED.format(f"is null from {nulls[name]} on"))


def ended(columns: Mapping[str, Sequence[int]], count: int, *, among: Iterable[str]) -> Iterator[str]:
    """Yield the columns that lack a value from some row on though the training went on: most likely it diverged.

    Such a column has a number in every row before. Rows of another kind do not count, which hold numbers of columns
    that the rows before do not have: a last row with the scores on the test set leaves all others empty.

    Args:
        columns: the rows that hold a number, ascending, by column; axes that count or time the rows are left out.
        count: how many rows there are.
        among: the columns to look at.
    """
    axes = {*STEP_NAMES, *TIME_NAMES}
    metrics = {name: rows for name, rows in columns.items() if rows and name not in axes}
    unexplained: dict[int, bool] = {}
    for name in among:
        rows = metrics.get(name, ())
        end = len(rows)
        if not 0 < end < count or rows[-1] != end - 1:
            continue
        if end not in unexplained:
            of_another_kind = {row for others in metrics.values() if others[0] >= end for row in others}
            unexplained[end] = any(row not in of_another_kind for row in range(end, count))
        if unexplained[end]:
            yield name


def _add_alike(columns: dict[str, tuple[list[int], list[float]]], rows: list[dict[str, Any]], first: int) -> bool:
    """Add rows that have the same names, all with numbers, column by column; False: they are not alike."""
    names = list(rows[0])
    if not names or len(names) > 1000 or any(list(row) != names for row in rows):
        return False
    cells = list(zip(*(row.values() for row in rows), strict=True))
    if any(not set(map(type, column)) <= {float, int} for column in cells):
        return False
    try:
        numbers = [list(map(float, column)) for column in cells]
    except OverflowError:
        return False
    for name, values in zip(names, numbers, strict=True):
        column = columns.setdefault(name, ([], []))
        column[0].extend(range(first, first + len(rows)))
        column[1].extend(values)
    return True


def _add_row(
    columns: dict[str, tuple[list[int], list[float]]],
    skipped: dict[str, tuple[int, str, str]],
    place: int,
    where: str,
    row: dict[str, Any],
) -> None:
    for name, value in row.items():
        found = number(value)
        if found is None:
            times, _, first = skipped.get(name, (0, "", where))
            if len(skipped) < MAX_NAMES:
                skipped[name] = (times + 1, describe(value), first)
            continue
        column = columns.get(name)
        if column is None:
            if len(columns) >= MAX_NAMES:
                raise UnreadableError(where, f"has more than {MAX_NAMES:,} names")
            column = columns[name] = ([], [])
        column[0].append(place)
        column[1].append(found)


def add_columns(findings: Findings, columns: dict[str, tuple[list[int], list[float]]], count: int) -> None:
    """Add columns of (row numbers, values) as series over the step column, if one counts every row."""
    if not columns:
        return
    everywhere = [name for name in STEP_NAMES if name in columns and len(columns[name][0]) == count]
    partly = [name for name in STEP_NAMES if name in columns and name not in everywhere]
    axis = everywhere[0] if everywhere else None
    steps = tuple(columns[axis][1]) if axis else tuple(float(row) for row in range(count))
    if axis is None and partly:
        findings.problem(partly[0], "is not in every row, so the rows are counted instead")
    clock = next((name for name in TIME_NAMES if name in columns and len(columns[name][0]) == count), None)
    times = epoch_seconds(columns[clock][1]) if clock else None
    for name, (rows, values) in columns.items():
        if name == axis or (name == clock and times is not None):
            continue
        whole = len(rows) == count
        findings.uncount(len(values))
        findings.series(
            name,
            steps if whole else tuple(map(steps.__getitem__, rows)),
            values,
            times if whole or times is None else tuple(map(times.__getitem__, rows)),
        )


def _report_skipped(
    findings: Findings,
    skipped: dict[str, tuple[int, str, str]],
    columns: dict[str, tuple[list[int], list[float]]],
) -> None:
    for name, (times, what, first) in skipped.items():
        if name not in columns:
            findings.ignore(name, what)
        elif what != "empty":
            findings.problem(name, f"is no number in {times:,} rows, the first at {first}: {what}; the others are used")

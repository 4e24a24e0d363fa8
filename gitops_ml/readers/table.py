"""CSV and TSV: a header of names, then one row per step; each column is a series.

Needs nothing. The delimiter is found out (comma, semicolon, tab or ``|``). The step is the column ``step``,
``global_step``, ``iteration`` or ``epoch``; else rows are counted. Empty cells, ``NA`` and ``null`` are missing
values, but a column that is full up to some row and empty from there on is reported, because many programs write a
value that is not a number so; ``nan`` and ``inf`` are values and are reported. A table of two columns ``metric`` (or
``name``) and ``value`` gives final values. A name that heads two columns gives no value at all, because nobody can say
which of the two was meant. A row of another length than the header is reported and not used.

    metrics: {read: [out/history.csv]}
"""

import csv
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import MAX_NAMES, STEP_NAMES, TIME_NAMES, Findings, epoch_seconds, not_finite
from gitops_ml.readers.rows import ENDED, ended
from gitops_ml.records import Reading

DELIMITERS = ",;\t|"
MISSING = frozenset({"", "na", "n/a", "null", "none", "<na>"})
_CHUNK = 8192
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class CsvReader(Reader):
    """A table with any delimiter."""

    rank = 90

    def detect(self, file: Path, head: bytes) -> bool:
        """By its suffix, or by a header that is followed by a row of equally many cells, one of them a number."""
        if file.suffix.lower() == ".csv":
            return True
        if file.suffix.lower() not in ("", ".txt", ".log", ".dat"):
            return False
        header, rows = head_rows(head, 1)
        alike = len(rows) == 1 and len(rows[0]) == len(header) > 1
        return alike and not _numbers(header) and _numbers(rows[0]) > 0

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per column."""
        return read_table(Findings(name, "csv"), file)


class TsvReader(Reader):
    """A table with tabs."""

    rank = 85

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By its suffix."""
        return file.suffix.lower() in (".tsv", ".tab")

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per column."""
        return read_table(Findings(name, "tsv"), file, delimiter="\t")


def read_table(
    findings: Findings, file: Path, *, delimiter: str | None = None, steps: Sequence[str] = STEP_NAMES
) -> Reading:
    """Return the series of a table; ``steps`` are the names of the column that counts, best first."""
    with findings.guarded(), text.open_text(file) as stream:
        _read(findings, stream, delimiter, steps)
    return findings.reading()


def head_rows(head: bytes, count: int) -> tuple[list[str], list[list[str]]]:
    """Return the header and the next rows of the table that starts with these bytes, for ``detect``."""
    lines = text.head_text(head).splitlines()[: count + 1]
    if not lines:
        return [], []
    try:
        rows = list(csv.reader(lines, delimiter=delimiter_of(lines[0])))
    except csv.Error:
        return [], []
    return ([cell.strip() for cell in rows[0]], rows[1:]) if rows else ([], [])


def delimiter_of(header: str) -> str:
    """Return the delimiter that the header has most often outside of quotes; a comma if it has none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)


class _Column:
    """The values of one column, with the rows that have them while some are missing."""

    __slots__ = ("name", "rows", "text", "values")

    def __init__(self, name: str) -> None:
        self.name = name
        self.values = array("d")
        self.rows: array[int] | None = None
        self.text = ""

    def add(self, cells: Sequence[str], first_row: int, *, plain: bool) -> int:
        """Add the cells of consecutive rows; return how many texts there were among them."""
        if plain:
            try:
                values = array("d", map(float, cells))
            except ValueError:
                pass
            else:
                if self.rows is not None:
                    self.rows.extend(range(first_row, first_row + len(cells)))
                self.values.extend(values)
                return 0
        if self.rows is None:
            self.rows = array("q", range(first_row))
        texts = 0
        for row, cell in enumerate(cells, start=first_row):
            value = _value(cell)
            if value is not None:
                self.rows.append(row)
                self.values.append(value)
            elif cell.strip().lower() not in MISSING:
                texts += 1
                self.text = self.text or cell
        return texts


def _value(cell: str) -> float | None:
    bare = cell.strip()
    if len(bare) < 5000 and _NUMBER.fullmatch(bare):
        return float(bare)
    return not_finite(bare)


def _read(findings: Findings, stream: TextIO, delimiter: str | None, step_names: Sequence[str]) -> None:
    header_line = stream.readline(2**20).removeprefix("\ufeff")
    if not header_line.strip():
        raise UnreadableError("", "is empty" if not header_line else "begins with an empty line, not a header of names")
    stream.seek(0)
    guard = _Lines(stream)
    rows = csv.reader(guard, delimiter=delimiter or delimiter_of(header_line))
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(rows)]
    except csv.Error as error:
        raise UnreadableError("line 1", f"is no table: {error}") from error
    if _numbers(header) == len(header):
        raise UnreadableError("line 1", "holds numbers where the names of the columns should stand")
    if len(header) > MAX_NAMES:
        raise UnreadableError("line 1", f"has {len(header):,} columns; at most {MAX_NAMES:,} are read")
    columns = [_Column(name) for name in header]
    count, text_counts = _fill(findings, columns, rows, guard, header)
    if len(header) == 2 and header[0].lower() in ("metric", "name", "key") and header[1].lower() == "value":
        stream.seek(0)
        _add_pairs(findings, csv.reader(stream, delimiter=delimiter or delimiter_of(header_line)))
        return
    _add(findings, columns, count, text_counts, step_names)


class _Lines:
    """The lines of a stream, with a note of how the last one ended and whether numbers can be misread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.number = 0
        self.ended = True
        self.plain = True

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.number += 1
            self.ended = line[-1] in "\r\n"
            # Python reads `1_0` as 10 and digits of other scripts as digits; no table means that.
            if self.number > 1 and ("_" in line or not line.isascii()):
                self.plain = False
            yield line.removeprefix("\ufeff") if self.number == 1 else line


def _fill(
    findings: Findings, columns: list[_Column], rows: Iterator[list[str]], lines: _Lines, header: list[str]
) -> tuple[int, list[int]]:
    width = len(columns)
    text_counts = [0] * width
    count = 0
    while True:
        chunk: list[list[str]] = []
        failed: csv.Error | None = None
        start = lines.number
        try:
            chunk.extend(itertools.islice(rows, _CHUNK))
        except csv.Error as error:
            failed = error
        at_end = failed is not None or len(chunk) < _CHUNK
        if any(len(row) != width for row in chunk):
            chunk = list(_sound(findings, chunk, header, start, lines, at_end=at_end and failed is None))
        elif chunk and at_end and failed is None and not lines.ended:
            findings.problem(f"line {lines.number}", "the last line has no line end; its last value may be cut off")
        if chunk:
            findings.count(len(chunk) * width)
            for index, cells in enumerate(zip(*chunk, strict=True)):
                text_counts[index] += columns[index].add(cells, count, plain=lines.plain)
            count += len(chunk)
        if failed is not None:
            findings.problem(f"line {lines.number}", f"is no table from here on: {failed}; the rows before it are used")
        if at_end:
            return count, text_counts


def _sound(
    findings: Findings, chunk: list[list[str]], header: list[str], start: int, lines: _Lines, *, at_end: bool
) -> Iterator[list[str]]:
    """Yield the rows that have one cell per column; report the others."""
    width = len(header)
    for place, row in enumerate(chunk, start=start + 1):
        if len(row) == width:
            yield row
        elif len(row) > width and not any(cell.strip() for cell in row[width:]):
            yield row[:width]  # a delimiter at the end of each row
        elif not row or (len(row) == 1 and not row[0].strip()):
            continue
        elif at_end and place == start + len(chunk) and not lines.ended:
            findings.problem(f"line {lines.number}", "is cut off and is not used")
        else:
            findings.problem(
                f"row {place}", f"has {len(row):,} cells where the header has {width:,}; the row is not used"
            )


def _add(
    findings: Findings, columns: list[_Column], count: int, text_counts: list[int], step_names: Sequence[str]
) -> None:
    if not count:
        raise UnreadableError("", "has a header and no rows")
    sound = {column.name: column for column in _unique(findings, columns)}
    whole = {name for name, column in sound.items() if len(column.values) == count}
    axis = next((name for name in step_names if name in whole), None)
    partial = next((name for name in step_names if name in sound and sound[name].values), None)
    if axis is None and partial is not None:
        findings.problem(partial, "has no number in some rows, so the rows are counted instead")
    steps = tuple(sound[axis].values) if axis else tuple(float(row) for row in range(count))
    clock = next((name for name in TIME_NAMES if name in whole), None)
    times = epoch_seconds(sound[clock].values) if clock else None
    text_of = dict(zip((column.name for column in columns), text_counts, strict=True))
    for name, column in sound.items():
        if name == axis or (name == clock and times is not None):
            continue
        findings.uncount(count)
        if not column.values:
            findings.ignore(name, "text" if column.text else "empty column")
            continue
        if column.text:
            findings.problem(
                name,
                f"is no number in {text_of[name]:,} rows, the first is `{column.text[:40]}`; the others are used",
            )
        rows = column.rows
        if name in whole or rows is None:
            findings.series(name, steps, column.values, times)
        else:
            here = times and tuple(times[row] for row in rows)
            findings.series(name, tuple(steps[row] for row in rows), column.values, here)
    filled = {name: range(count) if column.rows is None else column.rows for name, column in sound.items()}
    holed = [name for name, column in sound.items() if column.rows is not None and not column.text]
    for name in ended(filled, count, among=holed):
        findings.problem(name, ENDED.format(f"is empty from row {len(sound[name].values) + 1} on"))


def _unique(findings: Findings, columns: list[_Column]) -> Iterator[_Column]:
    uses = Counter(column.name for column in columns)
    for name, times in uses.items():
        if name and times > 1:
            findings.problem(name, f"heads {times} columns; none of them is used")
    for place, column in enumerate(columns, start=1):
        if not column.name:
            findings.ignore(f"column {place}", "it has no name")
        elif uses[column.name] == 1:
            yield column


def _add_pairs(findings: Findings, rows: Iterator[list[str]]) -> None:
    """Add a table of names and final values."""
    next(rows, None)
    try:
        for name, cell, *_ in (row for row in rows if len(row) >= 2):
            value = _value(cell)
            if value is not None:
                findings.scalar(name.strip(), value)
            elif cell.strip().lower() not in MISSING:
                findings.ignore(name.strip(), "text")
    except csv.Error:
        return  # reported when the rows were counted


def _numbers(cells: Sequence[str]) -> int:
    return sum(_value(cell) is not None for cell in cells)

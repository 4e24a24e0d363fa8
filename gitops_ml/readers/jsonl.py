"""Lines of JSON (JSONL, NDJSON): one mapping per line, one line per step.

Needs nothing. Recognised by the suffix ``.jsonl`` or ``.ndjson``, or by its content: Detectron2 writes such lines
into ``metrics.json``. The step is ``step``, ``global_step``, ``iteration`` or ``epoch``, whichever stands in every
line; else lines are counted. A line need not have every name; ``null`` is a missing
value, but reported where a name has nothing else from some line on. A last line that was cut off is reported and the
lines before it are used.

    metrics: {read: [out/log.jsonl]}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader
from gitops_ml.readers.findings import Findings, describe
from gitops_ml.readers.rows import add_rows
from gitops_ml.records import Reading

MAX_LINE = 2**20


class JsonlReader(Reader):
    """Lines of JSON."""

    rank = 80

    def detect(self, file: Path, head: bytes) -> bool:
        """By its suffix, or by two lines that are a mapping each."""
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            return True
        lines = [line for line in text.head_text(head).split("\n", 3) if line.strip()]
        return len(lines) > 1 and _is_row(lines[0]) and lines[1].lstrip().startswith("{")

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per name."""
        findings = Findings(name, "jsonl")
        with findings.guarded():
            add_rows(findings, _rows(findings, file), "line")
        return findings.reading()


def _rows(findings: Findings, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with text.open_text(file) as stream:
        place = 0
        while line := stream.readline(MAX_LINE):
            place += 1
            if place == 1:
                line = line.removeprefix("\ufeff")
                if not line:
                    break
            complete = line.endswith("\n")
            if not complete and len(line) == MAX_LINE:
                findings.problem(f"line {place}", f"is longer than {MAX_LINE:,} characters and is not read")
                while line and not line.endswith("\n"):
                    line = stream.readline(MAX_LINE)
                continue
            if line.isspace():
                continue
            try:
                row = text.loads_line(line)
            except json.JSONDecodeError:
                findings.problem(
                    f"line {place}", "is no JSON and is not used" if complete else "is cut off and is not used"
                )
                continue
            except RecursionError:
                findings.problem(f"line {place}", "is nested too deeply and is not used")
                continue
            if isinstance(row, dict):
                yield place, row
            else:
                findings.problem(f"line {place}", f"holds no mapping but: {describe(row)}")
        if not place:
            findings.problem("", "is empty")


def _is_row(line: str) -> bool:
    try:
        return isinstance(text.loads(line), dict)
    except (ValueError, RecursionError):
        return False

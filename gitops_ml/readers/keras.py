"""Keras' ``CSVLogger``: a table whose first column is ``epoch``.

Needs nothing; the separator may be any. ``NA`` is a missing value; arrays are ignored with a word. With
``append=True`` a second ``fit`` starts its epochs from 0 again: all rows are kept as written, and it is said.

    metrics: {read: [out/training.log]}
"""

from pathlib import Path

from gitops_ml.readers.base import Reader
from gitops_ml.readers.findings import Findings
from gitops_ml.readers.table import head_rows, read_table
from gitops_ml.records import Reading


class KerasReader(Reader):
    """One log of ``CSVLogger``."""

    rank = 30

    def detect(self, file: Path, head: bytes) -> bool:
        """By the first column, with no column for steps."""
        if file.suffix.lower() not in (".csv", ".log", ".txt", ""):
            return False
        header, rows = head_rows(head, 1)
        named = len(header) > 1 and header[0] == "epoch" and "step" not in header
        return named and bool(rows) and rows[0][:1] != [] and rows[0][0].isdigit()

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per column."""
        return read_table(Findings(name, "keras"), file, steps=("epoch",))

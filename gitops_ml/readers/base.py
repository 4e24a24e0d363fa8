"""The contract of a metrics reader.

A reader is a class without arguments in one file and one line under ``gitops_ml.readers`` in
``pyproject.toml``; its name there is what ``metrics.read[].format`` accepts. It is lenient in what it
uses and strict in what it says: NaN and infinities are kept, torn tails, duplicates and wrong types become
``Problem``s, what is no metric is named in ``ignored``. It raises nothing for any bytes.
"""

from pathlib import Path
from typing import Protocol

from gitops_ml.records import Reading

MAX_BYTES = 100 * 2**20
"""A larger metrics file is reported, not read."""


class Reader(Protocol):
    """Reads one format."""

    rank: int
    """Order in which formats are tried when none is named: special formats 10, general ones 90."""

    def detect(self, file: Path, head: bytes) -> bool:
        """Say whether the file is of this format, from its name, its neighbours and its first 64 KiB."""

    def read(self, file: Path, name: str) -> Reading:
        """Return what the file says; ``name`` is its path as the user knows it.

        A reader may also look at the file's neighbours (DVCLive's ``plots/metrics``).
        """

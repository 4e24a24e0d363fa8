"""The contract of a kind of data URI. Resolving happens where the spec is planned, fetching in the agent."""

from pathlib import Path
from typing import Protocol


class DatasetError(Exception):
    """The data is not there, or not what was pinned; the text names both digests."""


class Dataset(Protocol):
    """One kind of data URI."""

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the data into the folder, verify it against the version, and return its path.

        Raises:
            DatasetError: missing, or different from what was pinned.
        """

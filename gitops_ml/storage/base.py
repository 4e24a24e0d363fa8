"""The contract of a storage: a flat space of objects under ``/``-separated names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class StorageError(Exception):
    """The storage refused or could not be reached; the text says which object and why."""


class Storage(Protocol):
    """Where code, logs, checkpoints and large outputs go."""

    def put(self, name: str, data: bytes) -> None:
        """Write the object, whole or not at all."""

    def put_file(self, name: str, file: Path) -> None:
        """Write the file's content as the object, whole or not at all."""

    def create(self, name: str, data: bytes) -> bool:
        """Write the object unless it exists; False: it was there. The base of leases."""

    def get(self, name: str) -> bytes | None:
        """Return the object; None: there is none."""

    def get_file(self, name: str, file: Path) -> bool:
        """Bring the object into the file, whole or not at all; False: there is none."""

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with the prefix, sorted."""

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""

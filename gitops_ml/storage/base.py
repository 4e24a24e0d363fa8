"""The contract of a storage: a flat space of objects under ``/``-separated names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

MAX_NAME_BYTES = 900
"""S3 takes 1024 for prefix and name together."""


class StorageError(Exception):
    """The storage refused or could not be reached; the text says which object and why."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        """``lasting``: asking again does not help before somebody has done something."""
        super().__init__(text)
        self.lasting = lasting


class FileError(StorageError):
    """Not the storage but the file beside it could not be read or written; trying again will not help."""


class Storage(Protocol):
    """Where code, logs, checkpoints and large outputs go. May be used from several threads."""

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

    def names(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that start with the prefix and sort after ``after``, sorted."""

    def written_at(self, name: str) -> float | None:
        """Return when the object was last written, in Unix seconds by the storage's clock; None: there is none."""

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""


def parts(name: str) -> list[str]:
    """Return the parts of an object's name.

    Raises:
        StorageError: it is none that every storage takes.
    """
    found = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in found):
        raise StorageError(f"{name!r} is no name of an object: it is a relative path without empty or dot parts")
    if _CONTROL.search(name):
        raise StorageError(f"{name!r} is no name of an object: it holds control characters")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise StorageError(f"{name!r} is no name of an object: it is no Unicode text") from None
    if size > MAX_NAME_BYTES:
        raise StorageError(f"{name[:80]!r}... is no name of an object: it is longer than {MAX_NAME_BYTES} bytes")
    return found


TEMPORARY = ".part-"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

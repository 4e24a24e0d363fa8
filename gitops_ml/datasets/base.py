"""The contract of a kind of data URI: pin it where it is now, and bring it here as it was pinned.

Resolving is what ``gitops-ml lock`` does, fetching what the agent does. What a kind needs besides is in ``Outside``: it
looks at no environment, clock or folder of its own accord.
"""

import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

_AT_ONCE = 8
_CHUNK_BYTES = 1 << 20


class DatasetError(Exception):
    """The data is not there, cannot be reached, or is not what was pinned; the text names both digests."""


class UnreachableError(DatasetError):
    """The source does not answer; another time it may."""


class Dataset(Protocol):
    """One kind of data URI."""

    def resolve(self, uri: str, *, like: str = "") -> str:
        """Return the version that pins the data as it is now.

        Args:
            uri: which data.
            like: a version that it had; the answer is of the same form, so that the two can be compared.

        Raises:
            DatasetError: missing, refused or not reachable.
        """

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the data into the folder, verify it against the version, and return its path.

        Raises:
            DatasetError: missing, not reachable, or different from what was pinned.
        """


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One file that somebody asks for."""

    name: str
    """For people: its address, without anything secret."""
    digest: str = ""
    """What its content must be: ``sha256:``, ``md5:``, ``md5-dos2unix:`` or ``git:``; empty: not known beforehand."""
    identity: str = ""
    """Without a digest: what names this content for ever, such as an address with a version."""
    size_bytes: int | None = None


class Cache(Protocol):
    """Keeps files by their content, for all who fetch on this machine."""

    def place(self, wanted: Wanted, target: Path, get: Callable[[Path], None]) -> None:
        """Put the file at the target, read-only and verified; ``get`` writes it, or the rest of it, if it is not here.

        Raises:
            DatasetError: what was got is not what is wanted.
        """

    def learn(self, name: str, get: Callable[[Path], None]) -> str:
        """Get a file of which nothing is known, keep it, and return its ``sha256:`` digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outside:
    """What datasets need of the world."""

    environ: Mapping[str, str] = dataclasses.field(repr=False)
    """Credentials, endpoints and allowed hosts."""
    cache: Cache
    wait: Callable[[float], None]
    """Sleep for some seconds; 0 is asked often, and may raise to give up."""
    say: Callable[[str], None] = lambda _: None
    workdir: Path = Path()
    """Where paths of the repository start, once the bundle is unpacked."""
    clone: Path | None = None
    """The user's own repository on this machine, whose LFS objects and DVC cache are looked at first."""


def digest_of(path: Path, algorithm: str) -> str:
    """Return a file's digest with its algorithm before it.

    Args:
        path: the file.
        algorithm: ``sha256``, ``md5``, ``git`` (the id of a blob) or ``md5-dos2unix`` (as DVC before 3.0 took it).
    """
    if algorithm == "md5-dos2unix":
        return f"{algorithm}:{_dos2unix_md5(path)}"
    if algorithm == "git":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    elif algorithm == "md5":
        digest = hashlib.md5(usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def manifest(entries: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of many files, given as (path, size, digest), whatever their order."""
    text = json.dumps(sorted(map(list, entries)), separators=(",", ":"), ensure_ascii=True)
    return f"manifest:{hashlib.sha256(text.encode()).hexdigest()}"


def changed(name: str, found: str, pinned: str) -> DatasetError:
    """Return the error for data that is not what was pinned."""
    return DatasetError(
        f"{name} is {found}, but {pinned} is pinned; if the change is meant, take it with `gitops-ml lock --update`"
    )


def file_name(uri: str) -> str:
    """Return a name for the file that a URI leads to: its last part, as far as that can be a file's name."""
    if uri.startswith(("https:", "http:")):
        uri = urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    last = uri.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.+=-]", "_", last)[-200:].lstrip(".")
    return name or "data"


def below(folder: Path, path: str) -> Path:
    """Return the place of a file of a listing below the folder.

    Raises:
        DatasetError: the listing's path leads elsewhere, or is none.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path or PurePosixPath(path).is_absolute():
        raise DatasetError(f"a listing holds the path {path[:200]!r}, which cannot be a file below a folder")
    return folder.joinpath(*parts)


def all_at_once(act: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do something for each item, several at a time; the first error ends it."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        futures = [pool.submit(act, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _dos2unix_md5(path: Path) -> str:
    """MD5 as DVC before 3.0 took it: of text files with their line ends made Unix's.

    Source: dvc-data, hashfile/hash.py and hashfile/istextfile.py.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        chunk = file.read(1 << 20)  # DVC's own size: a line end that it cuts stays as it is
        text = _is_text(chunk[:512])
        while chunk:
            digest.update(chunk.replace(b"\r\n", b"\n") if text else chunk)
            chunk = file.read(1 << 20)
    return digest.hexdigest()


def _is_text(block: bytes) -> bool:
    if not block:
        return True
    if b"\0" in block:
        return False
    printable = bytes(range(32, 127)) + b"\n\r\t\f\b"
    return len(block.translate(None, printable)) / len(block) <= 0.3

"""Checkpoints in storage: what a training has saved outlives its machine, whole or not at all.

jobs/KEY/checkpoints/files/ATTEMPT/SHA256       a file's content
jobs/KEY/checkpoints/manifests/ATTEMPT-NUMBER   which files make a checkpoint; written last, two are kept

An attempt names files of its own alone, and removes nothing of a later one. A machine that was given up may go on for a
while beside the next attempt's; whatever either does at any moment, the later one's checkpoints stay whole.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from gitops_ml.agent.unpack import sha256
from gitops_ml.storage.base import Storage, StorageError

KEPT = 2
_AT_ONCE = 4
_RESTORES = 10
"""How often it is looked anew for what to restore while somebody else goes on saving."""
_Stamp = tuple[int, int, int]
"""Size, time of change and inode of a file: while it is the same, so is the content."""


class Checkpoints:
    """The folder that a training saves into, and its image in storage. For one thread at a time."""

    def __init__(self, storage: Storage, key: str, number: int, folder: Path) -> None:
        self._storage = storage
        self._prefix = f"jobs/{key}/checkpoints/"
        self._files = f"{self._prefix}files/"
        self._number = number
        self._folder = folder
        self._count = 0
        self._stored: set[str] = set()
        """Digests whose files are in storage, as this attempt's."""
        self._known: dict[str, tuple[_Stamp, str]] = {}
        """Path -> stamp and digest, as last read."""
        self._saved: Mapping[str, Any] | None = None

    def restore(self, *, after: int = 0) -> str | None:
        """Fill the folder with the newest whole checkpoint and return its name; None: there is none.

        Args:
            after: checkpoints of this attempt and of those before it are not taken.
        """
        seen: list[str] = []
        for _ in range(_RESTORES):
            names = [name for name in self._manifests() if _attempt(name) > after]
            if names == seen:
                break
            for name in reversed(names):
                manifest = self._manifest(name)
                if manifest is not None and self._fetch(manifest):
                    self._saved = manifest
                    return name.removeprefix(self._prefix + "manifests/")
            # An attempt before this one may have saved meanwhile, and removed what was listed.
            seen = names
        return None

    def changed(self) -> bool:
        """Say whether the folder holds something else than what was saved or restored last."""
        files, links = self._scan()
        if self._saved is None:
            return bool(files)
        saved = self._saved["files"]
        return (
            files.keys() != saved.keys()
            or links != self._saved["links"]
            or any(self._known.get(path, (None,))[0] != stamp for path, stamp in files.items())
        )

    def stamp(self) -> object:
        """Return a value that stays the same as long as nobody writes to the folder."""
        return self._scan()

    def save(self) -> bool:
        """Bring the folder into storage; False: it changed meanwhile, and nothing was saved.

        Raises:
            StorageError: the storage refused. The checkpoint before this one is as it was.
        """
        before = self._scan()
        files, links = before
        manifest: dict[str, Any] = {"attempt": self._number, "files": {}, "links": links}
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                sending = {path: pool.submit(self._send, path, stamp) for path, stamp in files.items()}
                for path, done in sending.items():
                    entry = done.result()
                    if entry is None:
                        return False
                    manifest["files"][path] = entry
        except FileNotFoundError:
            return False
        if self._scan() != before:
            return False
        if manifest == self._saved:
            return True
        self._count += 1
        name = f"{self._prefix}manifests/{self._number:06d}-{self._count:06d}"
        self._storage.put(name, json.dumps(manifest, sort_keys=True).encode())
        self._saved = manifest
        self._sweep()
        return True

    def clear(self) -> None:
        """Remove what is in storage, the manifests first, so that nothing half there is ever taken."""
        for name in self._manifests():
            if _attempt(name) <= self._number:
                self._storage.delete(name)
        for name in self._ours():
            self._storage.delete(name)

    def _send(self, path: str, stamp: _Stamp) -> dict[str, Any] | None:
        """Put a file into storage unless its content is there; None: it was written to meanwhile."""
        file = self._folder / path
        known = self._known.get(path)
        digest = known[1] if known and known[0] == stamp else sha256(file)
        fresh = digest not in self._stored
        name = self._file(self._number, digest)
        if fresh:
            self._storage.put_file(name, file)
        if _stamp(file) != stamp:
            if fresh:
                self._storage.delete(name)  # it may hold something else than its name says
            return None
        self._stored.add(digest)
        self._known[path] = (stamp, digest)
        return {"sha256": digest, "size_bytes": stamp[0], "modified_ns": stamp[1]}

    def _fetch(self, manifest: Mapping[str, Any]) -> bool:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            attempt = manifest.get("attempt")
            done = list(pool.map(lambda item: self._fetch_file(attempt, *item), manifest["files"].items()))
        if not all(done):
            self._empty()
            return False
        for path, to in manifest["links"].items():
            link = self._folder / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(to)
        for path, entry in manifest["files"].items():
            file = self._folder / path
            # Some trainings look for the newest file.
            os.utime(file, ns=(entry["modified_ns"], entry["modified_ns"]))
            self._known[path] = (_stamp(file), entry["sha256"])
        return True

    def _fetch_file(self, attempt: int | None, path: str, entry: Mapping[str, Any]) -> bool:
        file = self._folder / path
        if not self._storage.get_file(self._file(attempt, entry["sha256"]), file):
            return False
        return sha256(file) == str(entry["sha256"])

    def _empty(self) -> None:
        for folder, folders, files in os.walk(self._folder, topdown=False):
            for name in files:
                Path(folder, name).unlink()
            for name in folders:
                path = Path(folder, name)
                path.unlink() if path.is_symlink() else path.rmdir()

    def _file(self, attempt: int | None, digest: str) -> str:
        """Return the name of a file's content; None: of a version whose attempts shared them."""
        return f"{self._files}{digest}" if attempt is None else f"{self._files}{attempt:06d}/{digest}"

    def _ours(self) -> list[str]:
        """Return the names of all files that no later attempt has."""
        names = list(self._storage.names(self._files))
        return [name for name in names if _owner(name[len(self._files) :]) <= self._number]

    def _manifests(self) -> list[str]:
        return list(self._storage.names(self._prefix + "manifests/"))

    def _manifest(self, name: str) -> Mapping[str, Any] | None:
        """Return what the manifest holds; None: it is gone, or nothing that we wrote."""
        try:
            data = json.loads(self._storage.get(name) or b"null")
            good = isinstance(data, dict) and all(map(_inside, (*data["files"], *data["links"])))
            good = good and all(_leads_inside(path, to) for path, to in data["links"].items())
            good = good and isinstance(data.get("attempt"), int | None)
        except (ValueError, TypeError, KeyError):
            return None
        return data if good else None

    def _sweep(self) -> None:
        """Remove checkpoints but the newest two. What cannot be removed now is removed later."""
        try:
            names = self._manifests()
            kept = [self._manifest(name) for name in names[-KEPT:]]
            for name in names[:-KEPT]:
                if _attempt(name) <= self._number:
                    self._storage.delete(name)
            needed = {
                self._file(manifest.get("attempt"), entry["sha256"])
                for manifest in kept
                if manifest
                for entry in manifest["files"].values()
            }
            for name in self._ours():
                if name not in needed:
                    if name == self._file(self._number, digest := name.rpartition("/")[2]):
                        self._stored.discard(digest)
                    self._storage.delete(name)
        except StorageError:
            pass

    def _scan(self) -> tuple[dict[str, _Stamp], dict[str, str]]:
        """Return path -> stamp of all files, and path -> target of the links that stay inside."""
        files: dict[str, _Stamp] = {}
        links: dict[str, str] = {}
        for folder, folders, names in os.walk(self._folder):
            for name in sorted((*folders, *names)):
                file = Path(folder, name)
                path = file.relative_to(self._folder).as_posix()
                try:
                    if file.is_symlink():
                        to = str(file.readlink())
                        if _leads_inside(path, to):
                            links[path] = to
                    elif file.is_file():
                        files[path] = _stamp(file)
                except FileNotFoundError:
                    continue
        return files, links


def _stamp(file: Path) -> _Stamp:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _leads_inside(link: str, to: str) -> bool:
    return not to.startswith("/") and _inside(f"{PurePosixPath(link).parent}/{to}")


def _inside(path: str) -> bool:
    depth = 0
    for part in PurePosixPath(path).parts:
        depth += -1 if part == ".." else 1
        if part == "/" or depth < 0:
            return False
    return depth > 0


def _attempt(name: str) -> int:
    """Return whose a manifest is."""
    number = name.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _owner(file: str) -> int:
    """Return whose a file is; 0: all attempts' of an earlier version."""
    number, _, digest = file.partition("/")
    return int(number) if digest and number.isdecimal() else 0

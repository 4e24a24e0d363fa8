"""Data files by their content, for all trials of this machine: fetched once, verified at every use, within a limit.

    data/objects/sha256/9f/9f2c...      a file that is known by that digest; read-only
    data/known/77/77ab...               of a version without a digest: the SHA-256 that arrived, by what names it
    data/partial/77ab...                what has arrived of a file so far; the next try goes on with it
    data/locks/77ab...                  held while a file is got, checked and handed out

The holder of a file's lock gets it, all others wait; a process that dies lets go. What was used longest ago is removed
when all together are larger than the limit.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gitops_ml.agent.files import Lock, write_whole
from gitops_ml.datasets.base import DatasetError, Wanted, changed, digest_of

LIMIT_BYTES = 50 * 2**30
"""Unless ``GITOPS_ML_CACHE_SIZE`` says otherwise."""
_FICLONE = 0x40049409
_STALE_S = 7 * 86400
_SIZES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def limit_from(environ: Mapping[str, str]) -> int:
    """Return the cache's limit in bytes, from ``GITOPS_ML_CACHE_SIZE``, such as ``200GB``.

    Raises:
        DatasetError: it is no size.
    """
    text = environ.get("GITOPS_ML_CACHE_SIZE", "")
    if not text:
        return LIMIT_BYTES
    found = re.fullmatch(r"([0-9]{1,9})\s*([MGT]i?B)", text.strip())
    if found is None:
        raise DatasetError(f"GITOPS_ML_CACHE_SIZE is `{text[:40]}`; give a size such as 200GB or 64GiB")
    return int(found[1]) * _SIZES[found[2]]


class DataCache:
    """One folder, safe to be used by many processes and threads at once.

    ``alone``: no other trial will use it, as on a machine that is rented for one. Then nothing is copied for its sake.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int = LIMIT_BYTES,
        alone: bool = False,
        wait: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._root = root / "data"
        self._limit_bytes = limit_bytes
        self._alone = alone
        self._wait = wait
        self._say = say

    def place(self, wanted: Wanted, target: Path, get: Callable[[Path], None]) -> None:
        """Put the file at the target, read-only and verified; what is not here is got."""
        identity = wanted.digest or wanted.identity
        with self._locked(identity, wanted.name):
            for _ in range(3):
                kept = self._kept(wanted) or self._got(wanted, identity, get)
                if self._handed_out(kept, target, wanted):
                    return
        raise DatasetError(f"{wanted.name}: others remove it from the cache as fast as it comes; raise its limit")

    def learn(self, name: str, get: Callable[[Path], None]) -> str:
        """Get a file of which nothing is known, keep it, and return its ``sha256:`` digest."""
        self._say(f"reading {name} to learn its digest")
        partial = self._partial(f"{name} {os.getpid()} {threading.get_ident()} {time.monotonic_ns()}")
        try:
            get(partial)
            digest = digest_of(partial, "sha256")
            with self._locked(digest, name):
                self._keep(partial, digest)
            return digest
        finally:
            partial.unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove what was used longest ago until the rest fits the limit."""
        if self._alone:
            return
        files = []
        for file in self._root.glob("objects/*/*/*"):
            with contextlib.suppress(FileNotFoundError):
                found = file.stat()
                files.append((found.st_mtime, found.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self._limit_bytes:
                break
            lock = Lock(self._lock_path(f"{file.parent.parent.name}:{file.name}"))
            if lock.try_acquire():
                file.unlink(missing_ok=True)
                lock.path.unlink(missing_ok=True)  # whoever waits for it looks whether it is still the one
                total -= size
                lock.release()
        for partial in self._root.glob("partial/*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > _STALE_S:
                    partial.unlink()

    def _handed_out(self, kept: Path, target: Path, wanted: Wanted) -> bool:
        """Put the file at the target; False: it was trimmed in this moment."""
        # Trimming respects the lock of the content, which is not yet held for what has another identity.
        digest = f"{kept.parent.parent.name}:{kept.name}"
        with contextlib.nullcontext() if wanted.digest else self._locked(digest, wanted.name):
            if not kept.is_file():
                return False
            os.utime(kept)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            _hand_out(kept, target, alone=self._alone)
            return True

    def _kept(self, wanted: Wanted) -> Path | None:
        """Return the file if it is here and still what it was."""
        digest = wanted.digest
        if not digest:
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                digest = self._known(wanted.identity).read_text(encoding="ascii")
            if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
                return None
        path = self._object(digest)
        try:
            if digest_of(path, digest.partition(":")[0]) == digest:
                return path
        except FileNotFoundError:
            return None
        self._say(f"{wanted.name}: the cached file was changed, by a training perhaps; it is fetched anew")
        path.unlink(missing_ok=True)
        return None

    def _got(self, wanted: Wanted, identity: str, get: Callable[[Path], None]) -> Path:
        self._say(f"fetching {wanted.name}" + (f" ({wanted.size_bytes:,} bytes)" if wanted.size_bytes else ""))
        partial = self._partial(identity)
        algorithm = wanted.digest.partition(":")[0] or "sha256"
        continued = partial.exists()
        get(partial)
        found = digest_of(partial, algorithm)
        if wanted.digest and found != wanted.digest and continued:
            # What an earlier try had left may have been of another file.
            partial.unlink()
            get(partial)
            found = digest_of(partial, algorithm)
        if wanted.digest and found != wanted.digest:
            partial.unlink()
            raise changed(wanted.name, found, wanted.digest)
        if not wanted.digest:
            known = self._known(wanted.identity)
            known.parent.mkdir(parents=True, exist_ok=True)
            write_whole(known, found.encode())
        return self._keep(partial, found)

    def _keep(self, partial: Path, digest: str) -> Path:
        path = self._object(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.chmod(0o444)
        partial.replace(path)
        return path

    @contextlib.contextmanager
    def _locked(self, identity: str, name: str) -> Iterator[None]:
        lock = Lock(self._lock_path(identity))
        said = False
        while not (lock.try_acquire() and _is_there(lock)):
            lock.release()
            if not said and lock.path.exists():
                self._say(f"{name}: another trial is fetching it; waiting")
                said = True
            self._wait(0.1)
        try:
            yield
        finally:
            lock.release()

    def _object(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self._root / "objects" / algorithm / value[:2] / value

    def _known(self, identity: str) -> Path:
        return self._place("known", identity)

    def _partial(self, identity: str) -> Path:
        path = self._place("partial", identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _lock_path(self, identity: str) -> Path:
        path = self._place("locks", identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _place(self, folder: str, identity: str) -> Path:
        return self._root / folder / hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()


def _is_there(lock: Lock) -> bool:
    """Say whether the lock that we hold is the one that others will find."""
    assert lock.descriptor is not None
    try:
        return os.path.samestat(os.fstat(lock.descriptor), lock.path.stat())
    except FileNotFoundError:
        return False


def _hand_out(kept: Path, target: Path, *, alone: bool) -> None:
    """Put the cached file at the target so that what happens there does not change it, as cheaply as that can be."""
    if _cloned(kept, target):
        return
    # Read-only does not bind root: a copy then, unless the disk has no room for two.
    size = kept.stat().st_size
    if alone or os.geteuid() != 0 or shutil.disk_usage(target.parent).free < 2 * size:
        with contextlib.suppress(OSError):  # another disk, or a file system without links
            target.hardlink_to(kept)
            return
    shutil.copyfile(kept, target)
    target.chmod(0o444)


def _cloned(kept: Path, target: Path) -> bool:
    """Copy by sharing blocks, where the file system can do that (Btrfs, XFS; APFS)."""
    try:
        if sys.platform == "darwin":
            clone = ctypes.CDLL(None, use_errno=True).clonefile
            return int(clone(os.fsencode(kept), os.fsencode(target), 0)) == 0
        with kept.open("rb") as source, target.open("xb") as copy:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except (OSError, AttributeError):
        target.unlink(missing_ok=True)
        return False
    target.chmod(0o444)
    return True

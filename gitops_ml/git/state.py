"""Files of the ``.gitops-ml`` folder: whole or not at all, and one process at a time where that matters."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gitops_ml.errors import GitError

_LOCK_LIMIT_S = 600.0


def state_folder(state: Path) -> None:
    """Make the ``.gitops-ml`` folder, which hides itself from git."""
    state.mkdir(exist_ok=True)
    if not (state / ".gitignore").exists():
        replace_file(state / ".gitignore", b"*\n")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it is still there after a power cut."""
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 a descriptor
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 beside its try
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise


@contextlib.contextmanager
def locked(path: Path, *, limit_s: float = _LOCK_LIMIT_S) -> Iterator[None]:
    """Hold a lock among the processes of this clone; a process that dies lets go of it.

    Raises:
        GitError: another process held it longer than the limit.
    """
    if sys.platform == "win32":
        # Only reading is promised there, which needs no lock but against a second reader's fetch.
        yield
        return
    import fcntl

    with path.open("ab") as file:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GitError(f"another gitops-ml has held {path} for {limit_s:.0f} s; is it stuck?") from None
                time.sleep(0.02)
        yield


def write_if_different(path: Path, data: bytes) -> None:
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    replace_file(path, data)


def make_store(store: Path) -> None:
    """Make the bare repository beside its place and move it there; whoever comes second keeps the first one."""
    import shutil
    import tempfile

    fresh = Path(tempfile.mkdtemp(dir=store.parent, prefix=".git-new-"))
    for folder in ("objects/info", "objects/pack", "refs/heads"):
        (fresh / folder).mkdir(parents=True)
    (fresh / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    try:
        fresh.rename(store)
    except OSError:
        shutil.rmtree(fresh)
        if not store.is_dir():
            raise


_SETTINGS = """\
\tbare = true
\tlogallrefupdates = false
\thooksPath = /dev/null
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
STORE_CONFIG = {
    "sha1": f"[core]\n\trepositoryformatversion = 0\n{_SETTINGS}".encode(),
    "sha256": (f"[core]\n\trepositoryformatversion = 1\n{_SETTINGS}[extensions]\n\tobjectformat = sha256\n".encode()),
}


def lines_of(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()

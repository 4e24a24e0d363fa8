"""Files that others read while we write them, and locks that die with their holder."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def disk_is_full(error: OSError) -> bool:
    """Say whether the error means that nothing more fits on the disk."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write the file so that a reader sees the old or the new content, never half; durable: survives a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write a JSON file whole."""
    write_whole(path, json.dumps(data, sort_keys=True).encode(), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what the JSON file holds; None: there is none, or it is no JSON object."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


class Lock:
    """An exclusive lock on a file; the kernel frees it when the last holder of the descriptor ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        self._open()
        assert self.descriptor is not None
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        self._open()
        assert self.descriptor is not None
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give up our descriptor; a process that inherited it keeps the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> "Lock":  # noqa: PYI034 typing.Self needs Python 3.11, the agent runs on 3.10
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> None:
        if self.descriptor is None:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)


def acquire_patiently(lock: Lock, wait: Callable[[float], None]) -> None:
    """Take the lock, calling ``wait(seconds)`` between tries: it may raise to give up."""
    while not lock.try_acquire():
        wait(0.2)


def is_locked(path: Path) -> bool:
    """Say whether a process holds the exclusive lock on the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two that ask at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

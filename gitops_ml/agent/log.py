"""The training's log: one file, redacted while it is written, never larger than a limit."""

import collections
import re
from collections.abc import Iterable
from pathlib import Path

from gitops_ml.agent.redaction import Redactor

MAX_BYTES = 100 * 2**20
TAIL_BYTES = 64 * 2**10
"""Of a longer log the end is kept too: it says why the training failed."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Log:
    """Takes the training's output; ``progress`` is its newest line."""

    def __init__(self, path: Path, secrets: Iterable[str] = (), *, max_bytes: int = MAX_BYTES) -> None:
        self._file = path.open("ab", buffering=0)
        self._redactor = Redactor(secrets)
        self._room = max_bytes
        self._tail: collections.deque[bytes] = collections.deque()
        self._tail_bytes = 0
        self._dropped = 0
        self._newest = b""
        self._at_line_start = True

    def write(self, data: bytes) -> None:
        """Take some output."""
        self._keep(self._redactor.feed(data))

    def say(self, text: str) -> None:
        """Write a line of our own."""
        start = b"" if self._at_line_start else b"\n"
        self._keep(start + f"gitops-ml: {text}\n".encode(errors="replace"))

    def close(self) -> None:
        """Write what is left."""
        self._keep(self._redactor.flush())
        if self._dropped:
            self._file.write(
                f"\ngitops-ml: the log is over its limit; {self._dropped} bytes are left out here\n".encode()
            )
            self._file.write(b"".join(self._tail))
        self._file.close()

    @property
    def progress(self) -> str:
        """The newest line that is not empty, fit to be shown."""
        lines = re.split(rb"[\r\n]+", self._newest)
        newest = next((line for line in reversed(lines) if line.strip()), b"")
        return _CONTROL.sub("", newest.decode(errors="replace")).strip()[:160]

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._at_line_start = data.endswith(b"\n")
        self._newest = (self._newest + data)[-2048:]
        now, later = data[: self._room], data[self._room :]
        if now:
            self._file.write(now)
            self._room -= len(now)
        if later:
            self._tail.append(later)
            self._tail_bytes += len(later)
            while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
                gone = len(self._tail.popleft())
                self._tail_bytes -= gone
                self._dropped += gone

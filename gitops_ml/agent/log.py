"""The training's log: one file, redacted while it is written, never larger than a limit."""

import collections
import re
from collections.abc import Iterable
from pathlib import Path

from gitops_ml.agent.files import disk_is_full
from gitops_ml.agent.redaction import Redactor

MAX_BYTES = 100 * 2**20
TAIL_BYTES = 64 * 2**10
"""Of a longer log the end is kept too: it says why the training failed."""
NEWEST_BYTES = 8 * 2**10

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
        self._did_not_fit = 0
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
            self._write(f"\ngitops-ml: the log is over its limit; {self._dropped} bytes are left out here\n".encode())
            self._write(b"".join(self._tail))
        if self._did_not_fit:
            self._write(f"\ngitops-ml: the disk was full; {self._did_not_fit} bytes of the log are lost\n".encode())
        self._file.close()

    @property
    def progress(self) -> str:
        """The newest line that is not empty, fit to be shown."""
        lines = re.split(rb"[\r\n]+", self._newest[-2048:])
        newest = next((line for line in reversed(lines) if line.strip()), b"")
        return _CONTROL.sub("", newest.decode(errors="replace")).strip()[:160]

    @property
    def newest(self) -> str:
        """The last that was written, for whoever looks for a cause."""
        return self._newest.decode(errors="replace")

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._at_line_start = data.endswith(b"\n")
        self._newest = (self._newest + data)[-NEWEST_BYTES:]
        now, later = data[: self._room], data[self._room :]
        if now:
            self._write(now)
            self._room -= len(now)
        if later:
            self._tail.append(later)
            self._tail_bytes += len(later)
            while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
                gone = len(self._tail.popleft())
                self._tail_bytes -= gone
                self._dropped += gone

    def _write(self, data: bytes) -> None:
        """Write what fits: a full disk may end the training, but not the one who says why."""
        while data:
            try:
                data = data[self._file.write(data) :]
            except OSError as error:
                if not disk_is_full(error):
                    raise
                self._did_not_fit += len(data)
                return

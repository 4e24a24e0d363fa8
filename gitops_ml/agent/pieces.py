"""The log on its way to storage, in pieces that never change: whoever has read up to a byte goes on from there."""

from collections.abc import Callable
from pathlib import Path

from gitops_ml.agent import objects
from gitops_ml.storage.base import Storage

MAX_PIECE_BYTES = 2**20


class LogPieces:
    """Sends what a log file has grown by. For one thread."""

    def __init__(self, storage: Storage, key: str, number: int, file: Path) -> None:
        self._storage = storage
        self._key = key
        self._number = number
        self._file = file
        self._pending = b""
        self.sent_bytes = 0
        """How much of the log is in storage."""

    def push(self, before: Callable[[], None] = lambda: None) -> None:
        """Send all that is new; ``before`` is called when there is something, before others can see it.

        Raises:
            StorageError: not all of it could be sent; the next call goes on.
        """
        while True:
            # A piece whose sending failed may be there all the same, and may have been read: the next try must send
            # the very same bytes, not more, or that reader would look for a piece that never comes.
            self._pending = self._pending or self._read()
            if not self._pending:
                return
            before()
            self._storage.put(objects.log_piece(self._key, self._number, self.sent_bytes), self._pending)
            self.sent_bytes += len(self._pending)
            self._pending = b""

    def _read(self) -> bytes:
        try:
            with self._file.open("rb") as file:
                file.seek(self.sent_bytes)
                return file.read(MAX_PIECE_BYTES)
        except FileNotFoundError:
            return b""

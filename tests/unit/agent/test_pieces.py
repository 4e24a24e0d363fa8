"""Log pieces: no gap and no change, also where a sending that failed had worked."""

from pathlib import Path

import pytest

from gitops_ml.agent.pieces import MAX_PIECE_BYTES, LogPieces
from gitops_ml.storage.base import Storage, StorageError
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.far import Attempt


class Losing:
    """A storage whose answers are lost while it is told so: what was asked is done."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.loses = False

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(name, data)
        if self.loses:
            raise StorageError("the answer is lost")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


def test_push__answer_lost_and_more_was_written__pieces_still_follow(storage: Storage, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    losing = Losing(storage)
    pieces = LogPieces(losing, "k", 1, log)  # type: ignore[arg-type]
    pieces.push()
    log.write_text("one\n")
    losing.loses = True
    with pytest.raises(StorageError):
        pieces.push()
    read = storage.get("jobs/k/1/logs/000000000000000")

    losing.loses = False
    log.write_text("one\ntwo\n")
    pieces.push()

    assert read == b"one\n"
    assert storage.get("jobs/k/1/logs/000000000000000") == read, "a piece that may have been read never changes"
    assert Attempt(storage, "k").log == "one\ntwo\n"
    assert pieces.sent_bytes == 8


def test_push__much_at_once__is_cut(storage: Storage, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * (2 * MAX_PIECE_BYTES + 1))

    LogPieces(storage, "k", 1, log).push()

    assert len(list(storage.names("jobs/k/1/logs/"))) == 3
    assert len(Attempt(storage, "k").log) == 2 * MAX_PIECE_BYTES + 1


def test_push__nothing_new__says_nothing_before(storage: Storage, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("x")
    pieces = LogPieces(storage, "k", 1, log)
    said: list[int] = []

    for _ in range(3):
        pieces.push(lambda: said.append(len(list(storage.names("jobs/")))))

    assert said == [0], "once, and before it could be seen"

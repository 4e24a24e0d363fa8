"""A folder as storage."""

import threading
from pathlib import Path

import pytest

from gitops_ml.storage.base import StorageError
from gitops_ml.storage.folder import FolderStorage


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "root")


def test_put__then_get__gives_the_newest(storage: FolderStorage, tmp_path: Path) -> None:
    storage.put("a/b", b"one")
    storage.put("a/b", b"two")

    assert storage.get("a/b") == b"two"
    assert storage.get_file("a/b", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"two"
    assert storage.get("a") is None
    assert not storage.get_file("a/c", tmp_path / "none")


def test_create__many_at_once__one_wins(storage: FolderStorage) -> None:
    won: list[bytes] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        data = str(number).encode()
        start.wait(10)
        if storage.create("lease", data):
            won.append(data)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(won) == 1
    assert storage.get("lease") == won[0]
    assert list(storage.names("")) == ["lease"]


def test_names__prefix__sorted_and_whole(storage: FolderStorage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for name in ("logs/b", "logs/a/x", "login", "other"):
        storage.put_file(name, tmp_path / "file")

    assert list(storage.names("log")) == ["login", "logs/a/x", "logs/b"]
    assert list(storage.names("logs/")) == ["logs/a/x", "logs/b"]
    assert list(storage.names("none/")) == []


def test_delete__twice__is_quiet(storage: FolderStorage) -> None:
    storage.put("a", b"")
    storage.delete("a")
    storage.delete("a")

    assert storage.get("a") is None


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a//b", "a/./b", "a/../../b", "a\0b"])
def test_put__hostile_name__is_refused(storage: FolderStorage, name: str) -> None:
    with pytest.raises(StorageError, match="is no name of an object"):
        storage.put(name, b"")


def test_put__not_writable__says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="file"):
        FolderStorage(tmp_path / "file" / "below").put("a", b"")

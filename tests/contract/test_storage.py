"""What every storage promises: a folder, and S3 as moto serves it over real HTTP."""

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitops_ml.storage import opened
from gitops_ml.storage.base import Storage, StorageError
from tests.fakes.s3 import BUCKET, PAGE, S3, serving


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Return a new and empty storage of each kind."""
    if request.param == "folder":
        return opened("storage", tmp_path, {})
    server: S3 = request.getfixturevalue("s3")
    return opened(f"s3://{BUCKET}/storages/{uuid.uuid4()}", tmp_path, server.environ)


def test_put__then_get__gives_the_newest(storage: Storage, tmp_path: Path) -> None:
    storage.put("a/b", b"one")
    storage.put("a/b", b"two")

    assert storage.get("a/b") == b"two"
    assert storage.get_file("a/b", tmp_path / "below/copy")
    assert (tmp_path / "below/copy").read_bytes() == b"two"
    assert storage.get("a") is None
    assert storage.get("a/c") is None
    assert not storage.get_file("a/c", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_put_file__large__comes_back_whole(storage: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * (40 * 2**20 // 256) + b"end"
    (tmp_path / "large").write_bytes(content)

    storage.put_file("large", tmp_path / "large")

    assert storage.get_file("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy", "large"]


def test_put_file__empty__is_an_object(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    storage.put_file("empty", tmp_path / "empty")

    assert storage.get("empty") == b""


def test_put_file__that_is_not_there__is_an_error(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        storage.put_file("a", tmp_path / "none")

    assert storage.get("a") is None


def test_get_file__into_what_is_no_folder__is_an_error(storage: Storage, tmp_path: Path) -> None:
    storage.put("a", b"x")
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="file"):
        storage.get_file("a", tmp_path / "file/below")


def test_create__many_at_once__one_wins(storage: Storage) -> None:
    won: list[bytes] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        data = str(number).encode()
        start.wait(10)
        if storage.create("leases/one", data):
            won.append(data)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(won) == 1
    assert storage.get("leases/one") == won[0]
    assert list(storage.names("leases/")) == ["leases/one"]
    assert not storage.create("leases/one", won[0])


def test_names__prefix__sorted_and_whole(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for name in ("logs/b", "logs/a/x", "login", "other"):
        storage.put_file(name, tmp_path / "file")

    assert list(storage.names("log")) == ["login", "logs/a/x", "logs/b"]
    assert list(storage.names("logs/")) == ["logs/a/x", "logs/b"]
    assert list(storage.names("logs/", after="logs/a/x")) == ["logs/b"]
    assert list(storage.names("logs/", after="logs/b")) == []
    assert list(storage.names("none/")) == []


def test_names__more_than_one_answer_holds__all_of_them(storage: Storage) -> None:
    for number in range(2 * PAGE + 1):
        storage.put(f"many/{number:04d}", b"")

    assert list(storage.names("many/")) == [f"many/{number:04d}" for number in range(2 * PAGE + 1)]
    assert list(storage.names("many/", after=f"many/{2 * PAGE - 1:04d}")) == [f"many/{2 * PAGE:04d}"]


def test_written_at__an_object__is_when_it_was_last_written(storage: Storage) -> None:
    storage.put("a/b", b"")
    storage.put("a/b.part", b"")
    first = storage.written_at("a/b")
    storage.put("a/b", b"again")
    second = storage.written_at("a/b")

    assert first is not None
    assert second is not None
    assert abs(second - time.time()) < 3600
    assert second >= first
    assert (storage.written_at("a"), storage.written_at("a/b.")) == (None, None)


def test_delete__twice__is_quiet(storage: Storage) -> None:
    storage.put("a", b"")
    storage.delete("a")
    storage.delete("a")

    assert storage.get("a") is None


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a//b", "a/./b", "a/../../b", "a\0b", "a/", "a/\udcff", "a\nb", "x" * 1000]
)
def test_put__hostile_name__is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(StorageError, match="is no name of an object"):
        storage.put(name, b"")


_PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.lists(_PART, min_size=1, max_size=3).map("/".join), data=st.binary(max_size=99))
def test_put__any_name__comes_back_or_is_refused(storage: Storage, name: str, data: bytes) -> None:
    folder = str(uuid.uuid4())
    name = f"{folder}/{name}"
    try:
        storage.put(name, data)
    except StorageError as error:
        assert "is no name of an object" in str(error)  # noqa: PT017 either answer is fine
        return

    assert storage.get(name) == data
    assert list(storage.names(f"{folder}/")) == [name]
    storage.delete(name)
    assert storage.get(name) is None

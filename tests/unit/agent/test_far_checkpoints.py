"""Checkpoints in storage: whole or not at all, the newest two, and nothing outside of their folder."""

import json
import os
from pathlib import Path

import pytest

from gitops_ml.agent.checkpoints import Checkpoints
from gitops_ml.storage.base import Storage, StorageError
from gitops_ml.storage.folder import FolderStorage

PREFIX = "jobs/k/checkpoints/"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


def folder(tmp_path: Path, name: str = "saved") -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def restored(storage: Storage, tmp_path: Path, after: int = 0) -> tuple[str | None, Path]:
    into = folder(tmp_path, f"restored-{len(list(tmp_path.iterdir()))}")
    return Checkpoints(storage, "k", 9, into).restore(after=after), into


def manifests(storage: Storage) -> list[str]:
    return [name.removeprefix(PREFIX + "manifests/") for name in storage.names(PREFIX + "manifests/")]


def test_save__then_restore__is_the_same_tree(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    (saved / "step-10").mkdir()
    (saved / "step-10/model.bin").write_bytes(b"weights")
    (saved / "step-10/copy.bin").write_bytes(b"weights")
    (saved / "step-10/odd name\n\udcff").write_bytes(b"")
    (saved / "last").symlink_to("step-10")
    (saved / "out").symlink_to("/etc/passwd")
    (saved / "up").symlink_to("../../x")
    os.utime(saved / "step-10/model.bin", ns=(10**18, 10**18))

    assert Checkpoints(storage, "k", 1, saved).save()
    name, into = restored(storage, tmp_path)

    assert name == "000001-000001"
    found = sorted(path.relative_to(into).as_posix() for path in into.rglob("*"))
    assert found == ["last", "step-10", "step-10/copy.bin", "step-10/model.bin", "step-10/odd name\n\udcff"]
    assert (into / "last/model.bin").read_bytes() == b"weights"
    assert (into / "step-10/model.bin").stat().st_mtime_ns == 10**18
    assert len(list(storage.names(PREFIX + "files/"))) == 2, "equal files are one object"


def test_save__again__sends_what_is_new_and_keeps_two(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    checkpoints = Checkpoints(storage, "k", 1, saved)
    for step in range(4):
        (saved / "model").write_text(str(step))
        (saved / "same").write_text("x")
        assert checkpoints.changed()
        assert checkpoints.save()
        assert not checkpoints.changed()

    assert manifests(storage) == ["000001-000003", "000001-000004"]
    assert len(list(storage.names(PREFIX + "files/"))) == 3
    _, into = restored(storage, tmp_path)
    assert (into / "model").read_text() == "3"


def test_restore__newest_is_not_whole__the_one_before_is_taken(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    checkpoints = Checkpoints(storage, "k", 1, saved)
    for step in ("old", "new"):
        (saved / "model").write_text(step)
        checkpoints.save()
    newest = json.loads(storage.get(f"{PREFIX}manifests/000001-000002") or b"")["files"]["model"]["sha256"]
    storage.put(f"{PREFIX}files/{newest}", b"torn")

    name, into = restored(storage, tmp_path)

    assert name == "000001-000001"
    assert (into / "model").read_text() == "old"
    storage.delete(f"{PREFIX}manifests/000001-000001")
    name, into = restored(storage, tmp_path)
    assert (name, list(into.iterdir())) == (None, [])


def test_restore__after_a_failed_attempt__takes_later_ones_alone(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    (saved / "model").write_text("of 2")
    Checkpoints(storage, "k", 2, saved).save()

    assert restored(storage, tmp_path, after=2)[0] is None
    assert restored(storage, tmp_path, after=1)[0] == "000002-000001"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{",
        b'{"files": {"../x": {"sha256": "%s", "size_bytes": 1, "modified_ns": 1}}, "links": {}}' % (b"a" * 64),
        b'{"files": {"/etc/x": {"sha256": "%s", "size_bytes": 1, "modified_ns": 1}}, "links": {}}' % (b"a" * 64),
        b'{"files": {}, "links": {"a": "/etc"}}',
        b'{"files": {}, "links": {"a/b": "../../etc"}}',
    ],
)
def test_restore__manifest_that_leads_out_or_is_none__is_passed_over(
    storage: Storage, tmp_path: Path, manifest: bytes
) -> None:
    storage.put(f"{PREFIX}manifests/000001-000001", manifest)
    storage.put(f"{PREFIX}files/{'a' * 64}", b"x")

    name, into = restored(storage, tmp_path)

    assert (name, list(into.iterdir())) == (None, [])


class Writing:
    """A storage that is slow enough for a training to go on meanwhile, or that refuses."""

    def __init__(self, storage: Storage, file: Path, *, refuses: bool = False) -> None:
        self._storage = storage
        self._file = file
        self._refuses = refuses

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def put_file(self, name: str, file: Path) -> None:
        if self._refuses:
            raise StorageError("refused")
        self._storage.put_file(name, file)
        with self._file.open("a") as more:
            more.write("more")


def test_save__written_to_meanwhile__leaves_no_manifest(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    (saved / "model").write_text("first")
    busy = Writing(storage, saved / "model")

    assert not Checkpoints(busy, "k", 1, saved).save()  # type: ignore[arg-type]

    assert list(storage.names(PREFIX)) == [], "the file may hold something else than its name says"


def test_save__refused__keeps_the_one_before(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    (saved / "model").write_text("first")
    Checkpoints(storage, "k", 1, saved).save()
    (saved / "model").write_text("second")

    with pytest.raises(StorageError):
        Checkpoints(Writing(storage, saved / "model", refuses=True), "k", 2, saved).save()  # type: ignore[arg-type]

    assert (restored(storage, tmp_path)[1] / "model").read_text() == "first"


def test_clear__leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    (saved / "model").write_text("x")
    checkpoints = Checkpoints(storage, "k", 1, saved)
    checkpoints.save()

    checkpoints.clear()

    assert list(storage.names("jobs/")) == []

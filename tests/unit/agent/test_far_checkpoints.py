"""Checkpoints in storage: whole or not at all, the newest two, and nothing outside of their folder."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
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
    storage.put(f"{PREFIX}files/000001/{newest}", b"torn")

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


class Meanwhile:
    """A storage on which something else happens right before one call, or right after a listing was answered."""

    def __init__(self, storage: Storage, at: int, act: Callable[[], object]) -> None:
        self._storage = storage
        self._left = at
        self._act = act
        self._lock = threading.Lock()
        self.happened = False

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            with self._lock:
                found = list(getattr(self._storage, name)(*args, **options)) if name == "names" else None
                self._left -= 1
                if self._left == 0:
                    self.happened = True
                    self._act()
                return getattr(self._storage, name)(*args, **options) if found is None else iter(found)

        return call


def resumed(storage: Storage, tmp_path: Path) -> Path:
    """What a second attempt does as long as the first may still be at work: restores, goes on, saves twice."""
    into = folder(tmp_path, f"second-{len(list(tmp_path.iterdir()))}")
    second = Checkpoints(storage, "k", 2, into)
    if second.restore() is None:  # the first has succeeded, and removed its own
        (into / "weights").write_text("afresh")
    for step in ("new", "newer"):
        (into / "step").write_text(step)
        assert second.save()
    return into


@pytest.mark.parametrize("ends", ["saves", "clears"])
def test_attempt_that_was_given_up__at_each_of_its_calls__leaves_the_later_ones_whole(
    storage: Storage, tmp_path: Path, ends: str
) -> None:
    calls = 0
    while True:
        calls += 1
        for there_still in list(storage.names(PREFIX)):
            storage.delete(there_still)
        saved = folder(tmp_path, f"first-{calls}")
        there: list[Path] = []
        (saved / "weights").write_text("never change")
        (saved / "step").write_text("old")
        Checkpoints(storage, "k", 1, saved).save()
        slow = Meanwhile(storage, calls, lambda into=there: into.append(resumed(storage, tmp_path)))  # type: ignore[misc]
        first = Checkpoints(slow, "k", 1, saved)  # type: ignore[arg-type]
        first.restore()
        for step in ("1", "2", "3"):
            (saved / "step").write_text(step)
            (saved / "weights").write_text(f"of {step}")
            first.save()
        if ends == "clears":
            first.clear()
        if not slow.happened:
            break
        name, into = restored(storage, tmp_path)

        assert name == "000002-000002", calls
        assert ends == "clears" or (into / "weights").read_text() != "afresh"
        assert (into / "step").read_text() == "newer"
        assert (into / "weights").read_text() == (there[0] / "weights").read_text()
    assert calls > 20


def test_restore__the_attempt_before_goes_on_saving__takes_what_is_there_then(storage: Storage, tmp_path: Path) -> None:
    saved = folder(tmp_path)
    first = Checkpoints(storage, "k", 1, saved)

    def save(*steps: str) -> None:
        for step in steps:
            (saved / "step").write_text(step)
            first.save()

    save("1")
    # Between the manifest and its file, the first attempt saves so often that both are gone.
    slow = Meanwhile(storage, 3, lambda: save("2", "3", "4"))
    into = folder(tmp_path, "second")

    name = Checkpoints(slow, "k", 2, into).restore()  # type: ignore[arg-type]

    assert slow.happened
    assert (name, (into / "step").read_text()) == ("000001-000004", "4")


def test_restore__of_a_version_whose_attempts_shared_files__is_taken_and_swept_later(
    storage: Storage, tmp_path: Path
) -> None:
    digest = hashlib.sha256(b"old").hexdigest()
    storage.put(f"{PREFIX}files/{digest}", b"old")
    entry = {"sha256": digest, "size_bytes": 3, "modified_ns": 10**18}
    storage.put(f"{PREFIX}manifests/000001-000001", json.dumps({"files": {"step": entry}, "links": {}}).encode())
    into = folder(tmp_path)
    second = Checkpoints(storage, "k", 2, into)

    assert second.restore() == "000001-000001"
    assert (into / "step").read_text() == "old"
    for step in ("new", "newer"):
        (into / "step").write_text(step)
        second.save()

    assert sorted(name.count("/") for name in storage.names(f"{PREFIX}files/")) == [5, 5]

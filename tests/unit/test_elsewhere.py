"""Where the files are that git's objects only point to: which LFS store, and what the clone has already."""

import hashlib
from pathlib import Path

import pytest

from gitops_ml.elsewhere import Elsewhere, store_address
from gitops_ml.errors import UserError
from gitops_ml.git import Repository
from gitops_ml.pointers import LfsPointer
from gitops_ml.records import Version
from tests.fakes.files import LfsStore
from tests.fakes.repositories import ENVIRON, commit, git, make_repository

CONTENT = b"weights" * 100
POINTER = LfsPointer(oid=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))


@pytest.mark.parametrize(
    ("remote", "store"),
    [
        ("https://github.com/acme/digits.git", "https://github.com/acme/digits.git/info/lfs"),
        ("https://github.com/acme/digits", "https://github.com/acme/digits.git/info/lfs"),
        ("https://github.com/acme/digits/", "https://github.com/acme/digits.git/info/lfs"),
        ("http://gitlab.local:8080/a/b/c.git", "http://gitlab.local:8080/a/b/c.git/info/lfs"),
        ("git@github.com:acme/digits.git", "https://github.com/acme/digits.git/info/lfs"),
        ("github.com:acme/digits", "https://github.com/acme/digits.git/info/lfs"),
        ("ssh://git@gitlab.example:2222/acme/digits.git", "https://gitlab.example/acme/digits.git/info/lfs"),
        ("ssh://gitlab.example/acme/digits", "https://gitlab.example/acme/digits.git/info/lfs"),
        ("file:///srv/digits.git", "file:///srv/digits.git"),
        ("/srv/digits.git", "file:///srv/digits.git"),
        ("../digits.git", ""),
        ("", ""),
    ],
)
def test_store_address__of_a_remote__as_git_lfs_has_it(remote: str, store: str) -> None:
    assert store_address(remote) == store


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = make_repository(tmp_path / "work", {"train.py": "pass"})
    git(top, "remote", "add", "origin", "https://user:s3cret@git.example/acme/digits.git")
    return top


def version(top: Path) -> Version:
    return Version(commit=git(top, "rev-parse", "HEAD"), tree=git(top, "rev-parse", "HEAD^{tree}"), label="HEAD")


def asked(top: Path) -> str:
    with Repository.find(top, ENVIRON) as repository:
        return Elsewhere(repository, ENVIRON).lfs_store(version(top))


def test_lfs_store__said_nowhere__is_that_of_the_remote(top: Path) -> None:
    assert asked(top) == "https://git.example/acme/digits.git/info/lfs"


def test_lfs_store__said_in_several_places__settings_before_the_repository_before_the_remote(top: Path) -> None:
    git(top, "config", "remote.origin.lfsurl", "https://third.example/lfs")
    third = asked(top)
    commit(top, {".lfsconfig": "[lfs]\n\turl = https://second.example/lfs\n"})
    second = asked(top)
    git(top, "config", "lfs.url", "https://first.example/lfs")
    first = asked(top)

    assert [first, second, third] == [f"https://{place}.example/lfs" for place in ("first", "second", "third")]


def test_lfs_store__repository_names_a_folder_of_this_machine__is_passed_over(top: Path) -> None:
    commit(top, {".lfsconfig": "[lfs]\n\turl = file:///etc\n"})

    assert asked(top) == "https://git.example/acme/digits.git/info/lfs"


def test_lfs_file__from_the_store__is_kept_for_the_next_time(top: Path) -> None:
    store = LfsStore()
    store.put(CONTENT)
    environ = {**ENVIRON, "GITOPS_ML_ALLOW_HOSTS": "127.0.0.1"}
    with store.running(), Repository.find(top, environ) as repository:
        git(top, "config", "lfs.url", store.store)
        for _ in range(2):
            elsewhere = Elsewhere(repository, environ)
            with elsewhere.lfs_file("model.bin", POINTER, version(top)) as found:
                assert found.read_bytes() == CONTENT
            assert not found.exists()

    assert len(store.sent("GET")) == 1


def test_lfs_file__the_clone_has_a_broken_one__is_not_taken(top: Path) -> None:
    oid = POINTER.oid
    kept = top / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"broken")
    git(top, "remote", "remove", "origin")

    with (
        Repository.find(top, ENVIRON) as repository,
        pytest.raises(UserError, match=r"^model\.bin: Git LFS keeps it, this clone does not have it"),
        Elsewhere(repository, ENVIRON).lfs_file("model.bin", POINTER, version(top)),
    ):
        pass

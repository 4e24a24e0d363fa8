"""The ledger over smart HTTP, as forges serve it: a token in the checkout's own config, and nowhere else."""

import pytest

from gitops_ml.errors import ServiceError
from gitops_ml.git import RejectedError, Repository
from tests.fakes.githttp import GitServer
from tests.fakes.repositories import ENVIRON, git, make_remote, make_repository


@pytest.fixture
def server(tmp_path):
    (tmp_path / "srv").mkdir()
    with GitServer(tmp_path / "srv").running() as running:
        make_remote(running.root / "vision.git")
        yield running


@pytest.fixture
def work(tmp_path, server):
    """A clone as a checkout action leaves it."""
    folder = make_repository(tmp_path / "work", {"train.py": "print(1)\n"})
    git(folder, "remote", "add", "origin", f"{server.url}/vision.git")
    git(folder, "config", f"http.{server.url}/.extraheader", server.header())
    return folder


def test_push_and_fetch__token_of_the_checkout__is_used(work, server):
    repository = Repository.find(work, ENVIRON)
    commit = repository.write_commit({"records/a": b"1" * 3_000_000}, parent=None, message="one")

    repository.push("origin", commit, "refs/heads/gitops-ml/reports", expected=None)

    assert git(server.root / "vision.git", "rev-parse", "gitops-ml/reports") == commit
    assert Repository.find(work, ENVIRON).fetch("origin", "refs/heads/gitops-ml/reports") == commit


def test_push__token_is_wrong__says_so_without_it(work, server):
    server.token = "ghs_another0"
    repository = Repository.find(work, ENVIRON)
    commit = repository.write_commit({"a": b"1"}, parent=None, message="one")

    with pytest.raises(ServiceError) as caught:
        repository.push("origin", commit, "refs/heads/gitops-ml/reports", expected=None)

    assert "canary" not in str(caught.value)
    assert "eC1hY2Nlc3MtdG9rZW46" not in str(caught.value)


def test_push__connection_breaks_after_the_server_took_it__a_second_look_finds_it(work, server):
    from tests.fakes.server import Fault

    repository = Repository.find(work, ENVIRON)
    commit = repository.write_commit({"a": b"1"}, parent=None, message="one")
    server.faults.append(Fault(kind="reset", method="POST", path=".*/git-receive-pack", after=True))

    # git's own HTTP library may send the request again, and is then told that the branch has moved.
    with pytest.raises((ServiceError, RejectedError)):
        repository.push("origin", commit, "refs/heads/gitops-ml/reports", expected=None)

    assert repository.fetch("origin", "refs/heads/gitops-ml/reports") == commit

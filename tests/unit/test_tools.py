"""What a command gets: the repository's name as forges write it, and a storage by its place."""

import subprocess
from pathlib import Path

import pytest

from gitops_ml.errors import UserError
from gitops_ml.storage.folder import FolderStorage
from gitops_ml.tools import Tools
from tests.fakes.repositories import git


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    top = tmp_path / "digits"
    subprocess.run(["git", "init", "-q", str(top)], check=True)
    return Tools(cwd=top, environ={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/acme/digits",
        "https://user:secret@github.com/acme/digits.git",
        "ssh://git@git.acme.example:2222/acme/digits.git/",
        "git@github.com:acme/digits.git",
    ],
)
def test_repository_name__of_a_remote__is_what_the_forge_says(tools: Tools, url: str) -> None:
    subprocess.run(["git", "-C", str(tools.cwd), "remote", "add", "origin", url], check=True)

    assert tools.repository_name == "acme/digits"


def test_repository_name__without_a_remote__is_the_folder(tools: Tools) -> None:
    assert tools.repository_name == "digits"


def test_storage__not_set__is_a_folder_of_ours(tools: Tools) -> None:
    tools.storage.put("a/b", b"x")

    assert isinstance(tools.storage, FolderStorage)
    assert (tools.cwd / ".gitops-ml" / "storage" / "a" / "b").read_bytes() == b"x"


def test_storage__of_an_unknown_kind__is_refused(tools: Tools) -> None:
    (tools.cwd / "gitops-ml.yaml").write_text("storage: gs://bucket\n")

    with pytest.raises(UserError):
        _ = tools.storage


@pytest.mark.parametrize(
    ("branches", "told", "said"),
    [
        ((), None, "main"),
        (("main", "master"), None, "main"),
        (("master",), None, "master"),
        (("main", "develop"), "develop", "develop"),
        (("main",), "gone", "main"),
        # The clone is older than the branch's new name.
        (("main", "master"), "master", "main"),
        (("master",), "master", "master"),
    ],
)
def test_default_branch__of_a_clone__is_what_it_was_told_and_is_there(
    branches: tuple[str, ...], told: str | None, said: str, tools: Tools
) -> None:
    commit = git(tools.cwd, "commit-tree", "-m", "x", git(tools.cwd, "write-tree"))
    for branch in branches:
        git(tools.cwd, "update-ref", f"refs/remotes/origin/{branch}", commit)
    if told is not None:
        git(tools.cwd, "symbolic-ref", "refs/remotes/origin/HEAD", f"refs/remotes/origin/{told}")

    assert tools.default_branch == said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"GITLAB_CI": "true", "CI_PROJECT_PATH": "acme/digits", "CI_DEFAULT_BRANCH": "trunk"}, "trunk"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/digits", "GITHUB_EVENT_NAME": "push"}, "trunk"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/digits", "GITHUB_EVENT_PATH": "gone.json"}, "main"),
    ],
)
def test_default_branch__in_ci__is_what_the_ci_says(environ: dict[str, str], said: str, tools: Tools) -> None:
    event = tools.cwd / "event.json"
    event.write_text('{"repository": {"default_branch": "trunk"}}')
    found = Tools(cwd=tools.cwd, environ={**tools.environ, "GITHUB_EVENT_PATH": str(event), **environ})

    assert found.default_branch == said

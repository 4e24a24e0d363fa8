"""What a command gets: the repository's name as forges write it, and a storage by its place."""

import subprocess
from pathlib import Path

import pytest

from gitops_ml.errors import UserError
from gitops_ml.storage.folder import FolderStorage
from gitops_ml.tools import Tools


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

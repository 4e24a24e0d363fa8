"""Packages: from the index once, then from the storage; never others than the lock file's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.agent import archive
from gitops_ml.agent.environment import pip_for
from gitops_ml.planning import Trial
from gitops_ml.spec import Environment
from gitops_ml.storage.base import Storage
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.far import Attempt, Running, around, submit
from tests.fakes.packages import wheel
from tests.fakes.s3 import serving
from tests.fakes.trials import Objects, trial

ENVIRON = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(Path(__file__).parents[3]),
    "PIP_NO_INDEX": "1",
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


def using(digest: str, run: str = "python -c 'import tinything; print(tinything.__file__)'") -> tuple[Trial, Objects]:
    held = Objects()
    lock = held.file("requirements.lock", f"tinything==1.0 --hash=sha256:{digest}\n")
    return trial(run, [lock], environment=Environment(requirements="requirements.lock")), held


def test_packages__second_machine_without_an_index__gets_them_from_the_storage(
    storage: Storage, index: Path, tmp_path: Path
) -> None:
    of, held = using(wheel(index))
    environ = {**ENVIRON, "PIP_FIND_LINKS": str(index)}

    first = Running(storage, submit(storage, of, held), around(tmp_path / "1", environ)).end(120)
    second = Running(storage, submit(storage, of, held, 2), around(tmp_path / "2", ENVIRON)).end(120)

    assert (first["outcome"], first["reason"]) == ("succeeded", "")
    assert (second["outcome"], second["reason"]) == ("succeeded", "")
    log = Attempt(storage, of.key, 2).log
    assert log.startswith("gitops-ml: packages of environment ")
    assert " from the storage\n" in log
    assert [name for name in storage.names("environments/") if name.endswith(".json")]


@pytest.mark.parametrize("by", ["lease", "secret"])
def test_packages__index_that_is_configured__is_asked(storage: Storage, index: Path, tmp_path: Path, by: str) -> None:
    folder = tmp_path / "simple/tinything"
    folder.mkdir(parents=True)
    of, held = using(wheel(folder))
    (folder / "index.html").write_text("<a href='tinything-1.0-py3-none-any.whl'>tinything-1.0-py3-none-any.whl</a>")
    url = f"file://{tmp_path}/simple/"
    environ = {name: value for name, value in ENVIRON.items() if name != "PIP_NO_INDEX"}
    with serving() as cloud:
        ssm: Any = cloud.client("ssm")
        ssm.put_parameter(Name="/digits/PIP_INDEX_URL", Value=url, Type="SecureString", Overwrite=True)
        ssm.close()
        told = (
            {"index_url": url}
            if by == "lease"
            else {"index_url": "file:///nowhere/", "secrets": {"PIP_INDEX_URL": "/digits/PIP_INDEX_URL"}}
        )
        machine = around(tmp_path / "1", {**environ, **cloud.environ, "PIP_CONFIG_FILE": os.devnull})
        result = Running(storage, submit(storage, of, held, **told), machine).end(120)

    assert (result["outcome"], result["reason"]) == ("succeeded", "")
    assert [name for name in storage.names("environments/") if name.endswith(".json")]


def test_packages__file_in_the_storage_was_changed__is_not_installed(
    storage: Storage, index: Path, tmp_path: Path
) -> None:
    of, held = using(wheel(index))
    environ = {**ENVIRON, "PIP_FIND_LINKS": str(index)}
    Running(storage, submit(storage, of, held), around(tmp_path / "1", environ)).end(120)
    (listed,) = [name for name in storage.names("environments/") if name.endswith(".json")]
    (index / "tinything-1.0-py3-none-any.whl").write_bytes(b"something else")
    storage.put("environments/files/" + "e" * 64, b"something else")
    storage.put(listed, json.dumps({"files": {"tinything-1.0-py3-none-any.whl": "e" * 64}}).encode())

    result = Running(storage, submit(storage, of, held, 2), around(tmp_path / "2", ENVIRON)).end(120)

    assert (result["outcome"], result["cause"]) == ("failed", "environment")


def test_packages__whose_hash_is_another__are_refused(storage: Storage, index: Path, tmp_path: Path) -> None:
    wheel(index)
    of, held = using("0" * 64)
    environ = {**ENVIRON, "PIP_FIND_LINKS": str(index)}

    result = Running(storage, submit(storage, of, held), around(tmp_path / "1", environ)).end(120)

    assert (result["outcome"], result["cause"]) == ("failed", "environment")
    assert result["reason"].startswith("the environment could not be built (")
    assert list(storage.names("environments/")) == []


def test_pip_for__python_without_pip__is_the_one_that_came_along(tmp_path: Path, index: Path) -> None:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive.built().data)) as packed:
        packed.extractall(tmp_path / "agent")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    python = tmp_path / "bare/bin/python"
    assert pip_for(python) is None, "beside a checkout there is none"
    code = (
        "from gitops_ml.agent.environment import pip_for; import pathlib, json, sys; "
        "print(json.dumps(pip_for(pathlib.Path(sys.argv[1]))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(python)],
        cwd=tmp_path / "agent",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"tinything==1.0 --hash=sha256:{wheel(index)}\n")

    subprocess.run(
        [*json.loads(found), "install", "--require-hashes", "--no-index", "--find-links", str(index), "-r", str(lock)],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip

    done = subprocess.run(
        [python, "-c", "import tinything; print('there')"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "there\n"

"""The agent program: complete, small, and the same from the same installation."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gitops_ml.agent import archive
from gitops_ml.agent.objects import agent as agent_name
from gitops_ml.storage.folder import FolderStorage

IMPORTS = """
import importlib, pathlib, sys
top = pathlib.Path(sys.path[0])
names = [file.relative_to(top).with_suffix("").parts for file in (top / "gitops_ml").rglob("*.py")]
for name in sorted(".".join(part for part in parts if part != "__init__") for parts in names):
    importlib.import_module(name)
import boto3
from gitops_ml import aws
environ = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
print([aws.client(service, environ).meta.service_model.service_name for service in ("s3", "ssm", "sts")])
outside = {name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", None) or "")}
assert not outside, outside
"""
PYTHONS = sorted({sys.executable, *map(str, Path.home().glob(".pyenv/versions/3.1[0-9]*/bin/python"))})


@pytest.mark.parametrize("python", PYTHONS)
def test_built__in_an_empty_python__every_module_and_client_is_there(python: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(archive.built().data)) as packed:
        packed.extractall(tmp_path)
    (tmp_path / "imports.py").write_text(IMPORTS)

    done = subprocess.run(
        [python, "-S", str(tmp_path / "imports.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"]},
    )

    assert done.stdout == "['s3', 'ssm', 'sts']\n", done.stderr


def test_built__again__is_the_same() -> None:
    first = archive.built()
    archive.built.cache_clear()

    assert archive.built() == first
    assert len(first.data) < 12 * 2**20


def test_upload__twice__is_sent_once(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    program = archive.Agent("d" * 64, b"first")
    program.upload(storage)

    archive.Agent("d" * 64, b"never").upload(storage)

    assert storage.get(agent_name("d" * 64)) == b"first"

"""Plug-ins are found as the format of entry points says, wherever what brings them is installed."""

import importlib.metadata
import sys
import zipfile
from pathlib import Path

import pytest

from gitops_ml import plugins
from gitops_ml.errors import UserError

BACKENDS = "gitops_ml.backends"
TEXT = """\
[console_scripts]
slurm = other:main

# ours
[gitops_ml.backends]
slurm = lab.slurm:Backends.Slurm
# pbs = lab.pbs:Pbs
local=lab.local:Local [extra]

[ gitops_ml.readers ]
npz = lab.npz:Reader
"""


def install(folder: Path, name: str, text: str) -> str:
    info = folder / f"{name}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\n")
    (info / "entry_points.txt").write_text(text)
    return str(folder)


@pytest.mark.parametrize("family", plugins.FAMILIES)
def test_known__this_installation__is_what_python_itself_finds(family):
    points = importlib.metadata.entry_points(group=plugins.FAMILIES[family])

    assert plugins.known(family) == {point.name: point.value for point in points}


def test_entry_points__of_a_foreign_package__are_found_by_group(tmp_path):
    path = [install(tmp_path / "site", "lab-1.0", TEXT), str(tmp_path / "missing"), str(Path(__file__))]

    assert plugins.entry_points(BACKENDS, path) == {"local": "lab.local:Local", "slurm": "lab.slurm:Backends.Slurm"}
    assert plugins.entry_points("gitops_ml.readers", path) == {"npz": "lab.npz:Reader"}


def test_entry_points__of_one_name__ours_wins_else_the_first(tmp_path):
    ours = "[gitops_ml.backends]\nlocal = gitops_ml.backends.local:LocalBackend\nslurm = other:Slurm\n"
    path = [install(tmp_path / "a", "lab-1.0", TEXT), install(tmp_path / "b", "gitops_ml-1.0", ours)]

    found = {"local": "gitops_ml.backends.local:LocalBackend", "slurm": "lab.slurm:Backends.Slurm"}
    assert plugins.entry_points(BACKENDS, path) == found


def test_entry_points__in_a_zip_file__are_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "lab.zip", "w") as file:
        file.writestr("lab-1.0.dist-info/METADATA", "Name: lab\n")
        file.writestr("lab-1.0.dist-info/entry_points.txt", TEXT)

    assert "slurm" in plugins.entry_points(BACKENDS, [str(tmp_path / "lab.zip")])


@pytest.fixture
def afresh():
    """Look for plug-ins anew in this test, and once more after it."""
    plugins.known.cache_clear()
    yield
    plugins.known.cache_clear()


def test_load__foreign_plugin__is_what_its_entry_point_names(tmp_path, monkeypatch, afresh):
    install(tmp_path, "lab-1.0", TEXT)
    (tmp_path / "lab_slurm.py").write_text("class Backends:\n    class Slurm: pass\n")
    text = TEXT.replace("lab.slurm", "lab_slurm")
    (tmp_path / "lab-1.0.dist-info" / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert plugins.load("backend", "slurm") is sys.modules["lab_slurm"].Backends.Slurm


def test_load__unknown_name__names_the_known_ones():
    with pytest.raises(UserError) as caught:
        plugins.load("forge", "gitea")

    assert str(caught.value) == "no forge is called `gitea`; known are: github, gitlab, local"

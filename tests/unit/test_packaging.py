"""What is built is what works: the sdist, and the wheel made from that sdist, far from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    build("sdist", TOP, folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.2, which Debian 12 has
        archive.extractall(folder)
    return next(folder.glob("gitops_ml-*/"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The unpacked wheel that was built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    build("wheel", sdist, folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def build(target, source, into):
    # hatchling is the build backend itself, so this needs no network, unlike an isolated build.
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(into)],
        cwd=source,
        env={"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": "1700000000"},
        check=True,
        capture_output=True,
        timeout=120,
    )


def gitops_ml(site, cwd, *words):
    return subprocess.run(
        [sys.executable, "-P", "-m", "gitops_ml", *words],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("folder", ["schemas", "examples"])
def test_sdist__holds_what_the_symlinks_name_in_both_places(folder, sdist):
    expected = {
        file.relative_to(TOP / folder)
        for file in (TOP / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    for place in (sdist / folder, sdist / "gitops_ml" / folder):
        assert {file.relative_to(place) for file in place.rglob("*") if file.is_file()} == expected


def test_wheel__of_the_sdist__holds_schemas_examples_and_types(wheel):
    schemas = {file.name for file in (TOP / "schemas").glob("*.json")}

    assert {file.name for file in (wheel / "gitops_ml" / "schemas").glob("*.json")} == schemas
    assert schemas
    assert (wheel / "gitops_ml" / "py.typed").exists()
    for name in ("board.js", "board.css"):
        assert (wheel / "gitops_ml" / name).read_bytes() == (TOP / "gitops_ml" / name).read_bytes()
    for name in ("experiment.yaml", "train.py", "data/digits-train.csv.gz", "data/SOURCE.md"):
        packed = wheel / "gitops_ml" / "examples" / "digits" / name
        assert packed.read_bytes() == (TOP / "examples" / "digits" / name).read_bytes()


def test_wheel__elsewhere__validates_its_own_example(wheel, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(wheel / "gitops_ml" / "examples" / "digits", repository)
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)

    where = subprocess.run(
        [sys.executable, "-P", "-c", "import gitops_ml; print(gitops_ml.__file__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    done = gitops_ml(wheel, repository, "validate")

    assert where.stdout.strip() == str(wheel / "gitops_ml" / "__init__.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_wheel__metadata__names_licence_and_plugins(wheel):
    info = next(wheel.glob("*.dist-info"))

    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text(encoding="utf-8")
    assert (info / "licenses" / "LICENSE").read_bytes() == (TOP / "LICENSE").read_bytes()
    assert "[gitops_ml.backends]" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_wheel__of_the_checkout__holds_the_same_files_as_that_of_the_sdist(wheel, tmp_path):
    build("wheel", TOP, tmp_path)

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert names == {str(file.relative_to(wheel)) for file in wheel.rglob("*") if file.is_file()}

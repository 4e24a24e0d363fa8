"""`make`'s set-up on machines that lack something: it says what, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path):
    """What the set-up reads, and a PATH with the tools that every machine has."""
    top = tmp_path / "checkout"
    (top / ".ci").mkdir(parents=True)
    shutil.copy(TOP / ".ci" / "setup", top / ".ci")
    shutil.copy(TOP / "pyproject.toml", top)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "mkdir", "rm", "tail"):
        (tools / name).symlink_to(shutil.which(name))
    return top, tools


def setup(copy, level="demo", **environ):
    top, tools = copy
    return subprocess.run(
        [str(top / ".ci" / "setup"), level],
        env={"PATH": str(tools), "HOME": str(top), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def program(copy, name, text):
    file = copy[1] / name
    file.unlink(missing_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)


@pytest.mark.parametrize("found", ["Python 3.9.2", None], ids=["too old", "none"])
def test_setup__no_fitting_python__says_what_was_found_and_what_to_install(found, copy):
    if found:
        program(copy, "python3", f'[ "$1" = --version ] && echo "{found}" && exit 0; exit 1')

    done = setup(copy)

    assert done.returncode == 2
    assert done.stderr.startswith("gitops-ml needs Python 3.11 or later; found: ")
    assert (found or "no python3") in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
    assert "PYTHON=/path/to/python3.12 make" in done.stderr


def test_setup__python_without_venv__names_the_package(copy):
    program(copy, "python3", f'[ "$1" = -m ] && echo "No module named venv" && exit 1; exec {sys.executable} "$@"')

    done = setup(copy)

    assert done.returncode == 2
    assert "No module named venv" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert not (copy[0] / ".venv").exists()


def test_setup__no_index__says_how_to_name_one_and_is_not_taken_for_done(copy):
    environ = {
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(copy[0]),
        "PIP_CONFIG_FILE": os.devnull,
    }

    for _ in range(2):
        done = setup(copy, **environ)

        assert done.returncode == 5
        assert "Installing into .venv failed" in done.stderr
        assert "PIP_INDEX_URL=" in done.stderr
        assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels" in done.stderr


def test_setup__made_from_the_same_pyproject__asks_for_nothing(copy):
    top, _ = copy
    made_from = f"{sum_of(top)} {top.resolve()}\n"
    (top / ".venv" / "bin").mkdir(parents=True)
    (top / ".venv" / "bin" / "python").symlink_to(shutil.which("true"))
    (top / ".venv" / ".made-dev").write_text(made_from)

    # There is no Python to be found, so that any attempt to install would fail.
    assert setup(copy, "dev").returncode == 0
    assert setup(copy, "demo").returncode == 0
    os.utime(top / "pyproject.toml")
    assert setup(copy, "demo").returncode == 0
    with (top / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert setup(copy, "demo").returncode == 2


def sum_of(top):
    with (top / "pyproject.toml").open("rb") as file:
        return subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout.strip()

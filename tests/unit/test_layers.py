"""The shape of the package: layers, plug-in folders against entry points, docstrings."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "gitops_ml"
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(
    file for file in PACKAGE.rglob("*.py") if not {"schemas", "examples"} & set(file.relative_to(PACKAGE).parts)
)


LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"


def lint_imports(top):
    return subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=top,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(top)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_layers__as_they_stand__are_kept():
    done = lint_imports(TOP)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("stats.py", "import gitops_ml.git\n", "gitops_ml.stats -> gitops_ml.git"),
        ("agent/__init__.py", "import gitops_ml.spec\n", "gitops_ml.agent -> gitops_ml.spec"),
        ("planning.py", "import subprocess\n", "gitops_ml.planning -> subprocess"),
        ("nowhere.py", '"""A module that nobody placed."""\n', "gitops_ml.nowhere"),
    ],
    ids=["upward", "out of the agent", "process in the core", "module without a place"],
)
def test_layers__planted_violation__is_seen(module, line, said, tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "examples", "schemas")
    shutil.copytree(PACKAGE, tmp_path / "gitops_ml", ignore=ignored)
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    with (tmp_path / "gitops_ml" / module).open("a", encoding="utf-8") as file:
        file.write(line)

    done = lint_imports(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(("family", "ending"), [("backends", "Backend"), ("forges", "Forge"), ("readers", "Reader")])
def test_entry_points__of_a_family__name_exactly_its_classes(family, ending):
    named = set(PYPROJECT["project"]["entry-points"][f"gitops_ml.{family}"].values())
    found = {
        f"{'.'.join(file.relative_to(TOP).with_suffix('').parts).removesuffix('.__init__')}:{node.name}"
        for file in MODULES
        if file.is_relative_to(PACKAGE / family) and file.stem != "base"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith(ending) and not node.name.startswith("_")
    }

    assert named == found


def test_entry_points__of_this_installation__are_those_of_pyproject():
    for family in ("backends", "forges", "readers"):
        installed = {point.name: point.value for point in importlib.metadata.entry_points(group=f"gitops_ml.{family}")}
        declared = PYPROJECT["project"]["entry-points"][f"gitops_ml.{family}"]
        assert declared.items() <= installed.items(), "install again: `.ci/setup dev`, or `pip install -e .`"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module__has_a_docstring(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))

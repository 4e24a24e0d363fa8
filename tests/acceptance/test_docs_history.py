"""Every command that docs/history.md shows works as it stands there."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.fakes.ledgers import command
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository, write

PAGE = Path(__file__).parents[2] / "docs" / "history.md"
COMMANDS = [line[2:] for line in re.findall(r"^\$ .*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]

TRAIN = """
import json, pathlib, sys
pathlib.Path("out").mkdir(exist_ok=True)
rows = len(pathlib.Path(sys.argv[3]).read_text())
metrics = {"accuracy": 0.5 + float(sys.argv[1]) + int(sys.argv[2]) / 1000, "rows": rows}
pathlib.Path("out/metrics.json").write_text(json.dumps(metrics))
"""
SPEC = """\
version: 1
name: digits-mlp
run: python3 train.py ${params.lr} ${trial.seed} ${data.train}
data: [{name: train, uri: data/train.txt}]
params: {lr: 0.1}
seeds: [0, 1]
metrics:
  read: [out/metrics.json]
  track: [{name: accuracy, goal: maximize}]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    files = {"train.py": TRAIN, "experiment.yaml": SPEC, "data/train.txt": "1"}
    work = make_repository(folder / "work", files, remote=make_remote(folder / "remote.git"))
    for number in range(4):
        assert call(work, "run").code == 0
        assert call(work, "report", "--push").code == 0
        if number == 1:
            git(work, "tag", "v1.0")
        commit(work, {"data/train.txt": "1" * (number + 2)})
    assert call(work, "run").code == 0
    assert call(work, "report", "--push").code == 0
    write(work, {"data/other.txt": "12345678"})
    return work


def call(folder, *words):
    path = f"{Path(sys.executable).parent}:{ENVIRON['PATH']}"
    return command(folder, *words, environ={**ENVIRON, "PATH": path, "HOME": str(folder.parent)})


def test_page__shows_every_command_of_the_history():
    shown = {shlex.split(line)[1] for line in COMMANDS}

    assert shown == {"log", "show", "diff", "compare", "rerun", "board", "verify"}


@pytest.mark.parametrize("line", COMMANDS)
def test_page__command__works(line, work):
    keys = call(work, "log", "--offline", "--columns", "key", "--format", "csv").out.split()[1:]
    for shown, real in (("3f9a2c1b", keys[-1][:12]), ("77d0e4aa", keys[-2][:12])):
        line = line.replace(shown, real)
    program, *words = shlex.split(line)

    said = call(work, *words)

    assert program == "gitops-ml"
    assert said.code == 0, said.err
    assert said.out

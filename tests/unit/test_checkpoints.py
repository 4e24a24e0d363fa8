"""Two checkpoints on one test set: what is said, and that it comes from what the trainings left."""

import io
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scipy import stats as oracle

from gitops_ml.checkpoints import BOOTSTRAP_MAX, paired_sentence
from gitops_ml.main import main
from gitops_ml.records import Predictions
from gitops_ml.tools import Tools
from tests.fakes.repositories import ENVIRON, commit, git, make_repository

CAVEAT = "these two checkpoints on this test set; another training may differ by more"
SPEC = """\
version: 1
name: digits
run: python train.py ${params.wrong}
code: {include: [train.py]}
params: {wrong: 30}
metrics:
  read: [m.json]
  predictions: ./out/predictions.csv
  track: [{name: accuracy, goal: maximize, tolerance: 0.01, gate: fail}]
"""
TRAIN = """\
import json, os, sys
wrong = int(sys.argv[1])
os.makedirs("out", exist_ok=True)
with open("out/predictions.csv", "w") as file:
    file.write("id,correct\\n" + "".join(f"{i},{int(i >= wrong)}\\n" for i in range(100)))
json.dump({"accuracy": 1 - wrong / 100}, open("m.json", "w"))
"""


def predictions(scores: list[float], kind: str = "correct", first: int = 0) -> Predictions:
    return Predictions(ids=tuple(str(first + i) for i in range(len(scores))), scores=tuple(scores), kind=kind)


def test_paired_sentence__right_and_wrong__mcnemar_as_scipy_has_it() -> None:
    base = predictions([1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    head = predictions([1, 0, 1, 1, 1, 1, 1, 1, 0, 1])
    p = oracle.binomtest(5, 6, 0.5).pvalue

    found = paired_sentence(base, head, 0.9, keys=("a", "b"))

    assert found == (f"10 examples: 5 are right only here, 1 only on the baseline (McNemar, p = {p:.2g}); {CAVEAT}")


def test_paired_sentence__scores__the_same_interval_every_time() -> None:
    base = predictions([i / 10 for i in range(20)], "score")
    head = predictions([i / 10 + 0.1 * (i % 3) for i in range(20)], "score")

    found = [paired_sentence(base, head, 0.9, keys=("a", "b")) for _ in range(2)]

    assert found[0] == found[1]
    assert found[0].startswith("20 examples: the mean score differs by +0.095 (90 % interval +0.06")


def test_paired_sentence__more_examples_than_a_bootstrap_bears__normal_interval() -> None:
    draw = random.Random(1).gauss
    before = [draw(0, 1) for _ in range(BOOTSTRAP_MAX + 1)]
    after = [value + draw(0.02, 0.5) for value in before]

    found = paired_sentence(predictions(before, "score"), predictions(after, "score"), 0.9, keys=("a", "b"))

    differences = [h - b for h, b in zip(after, before, strict=True)]
    low, high = oracle.norm.interval(0.9, sum(differences) / len(differences), oracle.sem(differences))
    assert f"(90 % interval {low:+.4g} to {high:+.4g}, normal)" in found


def test_paired_sentence__other_examples__said() -> None:
    base, head = predictions([1, 0, 1]), predictions([1, 1, 1], first=1)

    assert paired_sentence(base, head, 0.9, keys=("a", "b")).startswith("2 examples, 2 more stand on one side only: ")
    assert paired_sentence(base, predictions([1], first=9), 0.9, keys=("a", "b")) == (
        "the predictions cannot be paired: no example stands on both sides"
    )


def test_paired_sentence__other_kinds__not_paired() -> None:
    found = paired_sentence(predictions([1.0]), predictions([0.5], "error"), 0.9, keys=("a", "b"))

    assert found == "the predictions cannot be paired: the baseline's hold `correct`, the change's `error`"


@pytest.mark.parametrize("wrong", [10, 30])
def test_compare__trainings_that_left_predictions__paired_example_by_example(tmp_path: Path, wrong: int) -> None:
    folder = make_repository(tmp_path / "r", {"experiment.yaml": SPEC, "train.py": TRAIN})
    git(folder, "switch", "-q", "-c", "change")
    commit(folder, {"experiment.yaml": SPEC.replace("wrong: 30", f"wrong: {wrong}"), "train.py": TRAIN + "# new\n"})

    assert _command(folder, "run")[0] == 0
    code, out = _command(folder, "compare")

    alone = 30 - wrong
    p = oracle.binomtest(alone, alone, 0.5).pvalue if alone else 1
    assert f"100 examples: {alone} are right only here, 0 only on the baseline (McNemar, p = {p:.2g}); {CAVEAT}" in out
    # It informs: one run per side is still one run per side.
    assert "not tested" in out
    assert code == 0


def test_compare__evaluation_data_changed__examples_are_not_paired(tmp_path: Path) -> None:
    spec = f"{SPEC}data: [{{name: test, uri: test.csv, role: eval}}]\n"
    folder = make_repository(tmp_path / "r", {"experiment.yaml": spec, "train.py": TRAIN, "test.csv": "1"})
    git(folder, "switch", "-q", "-c", "change")
    commit(folder, {"test.csv": "2"})
    assert _command(folder, "run")[0] == 0

    code, out = _command(folder, "compare")

    assert (code, "not comparable" in out, "examples" in out) == (1, True, False)


def test_compare__training_left_no_predictions__warned(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "r", {"experiment.yaml": SPEC, "train.py": TRAIN})
    git(folder, "switch", "-q", "-c", "change")
    commit(folder, {"train.py": TRAIN.replace("out/predictions", "out/other")})
    assert _command(folder, "run")[0] == 0

    assert "example" not in _command(folder, "compare")[1]
    assert "left no out/predictions.csv; nothing is compared example by example" in _notes(folder, "compare")


def _command(folder: Path, *argv: str) -> tuple[int, str]:
    code, out, _ = _called(folder, *argv)
    return code, out


def _notes(folder: Path, *argv: str) -> str:
    return _called(folder, *argv)[2]


def _called(folder: Path, *argv: str) -> tuple[int, str, str]:
    tools = Tools(
        cwd=folder,
        environ=ENVIRON,
        out=io.StringIO(),
        err=io.StringIO(),
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
    )
    tools.interpreter = {"python": "3.11", "platform": "linux-x86_64", "packages": []}
    code = main([*argv, "--offline"], tools)
    assert isinstance(tools.out, io.StringIO)
    assert isinstance(tools.err, io.StringIO)
    return code, tools.out.getvalue(), tools.err.getvalue()

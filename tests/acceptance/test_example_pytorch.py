"""``examples/pytorch-gpu``: its specs and what needs no PyTorch always, its training where PyTorch is installed."""

import ast
import importlib.util
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gitops_ml.main import main
from gitops_ml.tools import Tools

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "pytorch-gpu"
FILES = ("train.py", "pictures.py")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = load("pictures")


def test_specs__of_a_repository_with_the_example__are_found_and_valid(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "example")
    (tmp_path / "example/.git").mkdir()
    out = io.StringIO()

    code = main(["validate"], Tools(cwd=tmp_path / "example", environ={}, out=out))

    assert (code, out.getvalue()) == (0, "2 specs: nothing found\n")


def test_readme__commands__name_the_experiments():
    named = set(
        re.findall(
            r"^\$ gitops-ml (?:plan|run) ([\w-]+)", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    specs = {yaml.safe_load(file.read_text(encoding="utf-8"))["name"] for file in EXAMPLE.glob("experiments/*.yaml")}

    assert named == specs == {"digits-cnn", "digits-cnn-cpu"}


@pytest.mark.parametrize("name", FILES)
def test_code__imports__the_standard_library_and_pytorch_alone(name):
    tree = ast.parse((EXAMPLE / name).read_text(encoding="utf-8"))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = sys.stdlib_module_names | ({"torch", "pictures"} if name == "train.py" else set())

    assert imported <= allowed
    compile(tree, name, "exec")


def test_requirements__each_line__is_pinned_by_version_and_hash():
    lines = (EXAMPLE / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]

    assert any(line.startswith("torch==") for line in pinned)
    for line in pinned:
        name, _, digest = line.partition(" --hash=sha256:")
        assert name.count("==") == 1, line
        assert len(digest) == 64, line


@pytest.mark.parametrize("name", ["digits-train.csv.gz", "digits-eval.csv.gz"])
def test_data__is_that_of_the_other_example(name):
    assert (EXAMPLE / "data" / name).read_bytes() == (EXAMPLES / "digits/data" / name).read_bytes()


def test_read__evaluation_data__has_pictures_and_classes():
    found, classes = pictures.read(EXAMPLE / "data/digits-eval.csv.gz")

    assert len(found) == len(classes) == 599
    assert {len(one) for one in found} == {64}
    assert {value for one in found for value in one} <= {step / 16 for step in range(17)}
    assert set(classes) == set(range(10))


def test_batches__of_an_epoch__show_each_picture_once_and_do_not_depend_on_what_was_before():
    first = pictures.batches(100, 32, seed=1, epoch=3)
    random.random()  # whoever else asks for chance

    assert [len(one) for one in first] == [32, 32, 32, 4]
    assert sorted(index for one in first for index in one) == list(range(100))
    assert pictures.batches(100, 32, seed=1, epoch=3) == first
    assert pictures.batches(100, 32, seed=1, epoch=4) != first
    assert pictures.batches(100, 32, seed=2, epoch=3) != first


def test_shifts__of_a_batch__are_small_and_repeatable():
    found = pictures.shifts(200, seed=0, epoch=1, batch=2)

    assert {value for pair in found for value in pair} == {-1, 0, 1}
    assert pictures.shifts(200, seed=0, epoch=1, batch=2) == found
    assert pictures.shifts(200, seed=0, epoch=1, batch=3) != found


def test_learning_rate__rises_in_a_line_and_falls_to_nothing():
    rates = [pictures.learning_rate(step, 100, peak=0.1, warmup=10) for step in range(101)]

    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0)
    assert pictures.learning_rate(0, 0, peak=0.1, warmup=0) == pytest.approx(0.1)


def test_confusion__counts_what_was_taken_for_what():
    table = pictures.confusion([0, 0, 1, 9], [0, 1, 1, 9])

    assert (table[0][:2], table[1][:2], table[9][9]) == ([1, 1], [0, 1], 1)
    assert sum(map(sum, table)) == 4


# Not skipped without PyTorch: it is no dependency of the tests, and a skip in CI is a failure.
if importlib.util.find_spec("torch"):

    def command(*more):
        return [
            sys.executable, "train.py", "--train", "data/digits-train.csv.gz", "--eval", "data/digits-eval.csv.gz",
            "--checkpoints", "checkpoints", "--channels", "4", "--dropout", "0.2", "--lr", "0.005", "--warmup", "5",
            "--batch", "128", "--epochs", "3", "--seed", "1", *more,
        ]  # fmt: skip

    def copied(folder):
        folder.mkdir()
        for name in FILES:
            shutil.copy(EXAMPLE / name, folder)
        shutil.copytree(EXAMPLE / "data", folder / "data")
        return folder

    ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}

    def test_training__interrupted_in_the_middle__ends_with_the_same_bits(tmp_path):
        whole, torn = copied(tmp_path / "whole"), copied(tmp_path / "torn")
        subprocess.run(command(), cwd=whole, env=ENVIRON, check=True, timeout=300)

        with subprocess.Popen(command(), cwd=torn, env=ENVIRON, stdout=subprocess.PIPE, text=True) as first:
            for line in first.stdout:
                if line.startswith("epoch 1/"):
                    first.send_signal(signal.SIGTERM)
                    break
            said = first.stdout.read()
        assert first.returncode == 128 + signal.SIGTERM, said
        assert not (torn / "out").exists()
        # One that was cut off while it wrote is no checkpoint.
        (torn / "checkpoints/run.part").write_bytes(b"half")
        second = subprocess.run(command(), cwd=torn, env=ENVIRON, capture_output=True, text=True, timeout=300)

        assert second.returncode == 0, second.stderr
        assert "goes on in epoch" in second.stdout
        for name in ("curves.csv", "metrics.json", "predictions.csv", "confusion.json"):
            assert (torn / "out" / name).read_bytes() == (whole / "out" / name).read_bytes(), name
        import torch

        one, other = (torch.load(folder / "out/model.pt", weights_only=True) for folder in (whole, torn))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_training__after_three_epochs__has_learned(tmp_path):
        folder = copied(tmp_path / "run")
        subprocess.run(command("--channels", "16"), cwd=folder, env=ENVIRON, check=True, timeout=300)

        rows = (folder / "out/curves.csv").read_text(encoding="utf-8").splitlines()
        assert rows[0] == "epoch,train_loss,loss,accuracy,lr"
        assert float(rows[-1].split(",")[3]) > 0.8
        matrix = json.loads((folder / "out/confusion.json").read_text(encoding="utf-8"))["matrix"]
        assert sum(map(sum, matrix)) == 599

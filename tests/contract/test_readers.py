"""What every registered reader must keep: it knows its own, raises for nothing, and explains itself."""

import gzip
import importlib
import inspect
import shutil
import tomllib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitops_ml.readers.base import Reader, read_outputs
from gitops_ml.records import Reading
from gitops_ml.spec import Read

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "readers"

# A module of the folder that is no reader of metrics.
HELPERS = {"__init__", "base", "confusion", "findings", "predictions", "protobuf", "rows", "text"}

# For each fixture (a glob), who reads it when no format is named, and what one reading is called.
WINNERS = {
    "coco/stats.json": ("coco", "coco/stats.json"),
    "detectron/metrics.json": ("jsonl", "detectron/metrics.json"),
    "dvclive/dvc.yaml": ("dvc", "dvclive/dvc.yaml"),
    "dvclive/live/**": ("dvclive", "dvclive/live"),
    "dvclive/live": ("dvclive", "dvclive/live"),
    "huggingface/**": ("huggingface", "huggingface"),
    "huggingface/all_results.json": ("huggingface", "huggingface"),
    "huggingface/checkpoint-10/trainer_state.json": ("huggingface", "huggingface"),
    "keras/training.log": ("keras", "keras/training.log"),
    "lightning/**": ("lightning", "lightning"),
    "lightning": ("lightning", "lightning"),
    "lightning/*/metrics.csv": ("lightning", "lightning"),
    "lm-eval/*": ("lm-eval", "lm-eval/results_2026-11-23T00-00-00.json"),
    "mlflow/mlflow.db": ("mlflow", "mlflow/mlflow.db"),
    "mlflow/mlruns": ("mlflow", "mlflow/mlruns"),
    "mlflow/mlruns/**": ("mlflow", "mlflow/mlruns"),
    "mlflow/runs.csv": ("mlflow", "mlflow/runs.csv"),
    "plain/history.csv": ("csv", "plain/history.csv"),
    "plain/history.jsonl": ("jsonl", "plain/history.jsonl"),
    "plain/history.tsv": ("tsv", "plain/history.tsv"),
    "plain/metrics.json": ("json", "plain/metrics.json"),
    "plain/metrics.toml": ("toml", "plain/metrics.toml"),
    "plain/metrics.yaml": ("yaml", "plain/metrics.yaml"),
    "sacred/**": ("sacred", "sacred/1"),
    "tensorboard/pytorch/*": ("tensorboard", "tensorboard/pytorch"),
    "tensorboard/tf2/train/**": ("tensorboard", "tensorboard/tf2/train"),
    "ultralytics/results.csv": ("ultralytics", "ultralytics/results.csv"),
    "wandb/*.wandb": ("wandb", "wandb/run-fixture.wandb"),
    "wandb/online/**": ("wandb", "wandb/online/files"),
}


@cache
def entry_points() -> dict[str, str]:
    """Return the readers that ``pyproject.toml`` registers: the installed metadata may be older."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return data["project"]["entry-points"]["gitops_ml.readers"]


@cache
def readers() -> dict[str, Reader]:
    found = {}
    for name, target in entry_points().items():
        module, _, attribute = target.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)()
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readers") / "outputs"
    shutil.copytree(FIXTURES, folder, ignore=shutil.ignore_patterns("make_*", "README.md", "__pycache__"))
    (folder / "mlflow/mlflow.db").write_bytes(gzip.decompress((folder / "mlflow/mlflow.db.gz").read_bytes()))
    return folder


def test_entry_points__every_module_of_the_folder__is_registered():
    modules = {path.stem for path in (ROOT / "gitops_ml/readers").glob("*.py")} - HELPERS

    assert {
        target.partition(":")[0].removeprefix("gitops_ml.readers.") for target in entry_points().values()
    } == modules


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_reader__explains_itself(name):
    reader = readers()[name]
    manual = inspect.getdoc(inspect.getmodule(type(reader))) or ""

    assert len(manual.split()) > 25
    assert "metrics: {read:" in manual
    assert 0 < reader.rank < 100


@pytest.mark.parametrize("pattern", sorted(WINNERS))
def test_detection__fixture__read_once_by_its_own_reader(outputs, pattern):
    found = [r for r in read_outputs(outputs, [Read(path=pattern)], readers()) if r.format]

    assert [(r.format, r.file) for r in found] == [WINNERS[pattern]]
    assert found[0].scalars or found[0].series


def test_detection__every_format__has_a_fixture():
    assert {winner for winner, _ in WINNERS.values()} == set(entry_points())


def test_detection__no_reader__takes_another_ones_fixture_when_all_are_selected(outputs):
    found = [r for r in read_outputs(outputs, [Read(path="**")], readers()) if r.format]

    names = {(r.format, r.file) for r in found}
    assert set(WINNERS.values()) <= names
    assert len(found) == len(names)


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_read__what_is_not_there__says_so(tmp_path, name):
    reading = readers()[name].read(tmp_path / "gone", "gone")

    assert reading.problems
    assert (reading.scalars, reading.series) == ((), ())


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_read__empty_folder__does_not_raise(tmp_path, name):
    readers()[name].detect(tmp_path, b"")
    check(readers()[name].read(tmp_path, "."))


def check(reading: Reading) -> None:
    for series in reading.series:
        assert len(series.steps) == len(series.values) > 0
        assert series.times is None or len(series.times) == len(series.values)
        assert all(type(value) is float for value in (*series.steps, *series.values))
        series.name.encode()
    for scalar in reading.scalars:
        assert type(scalar.value) is float
        scalar.name.encode()
    for problem in reading.problems:
        f"{problem.file}{problem.where}{problem.message}".encode()
    "".join(reading.ignored).encode()
    repr(dict(reading.params)).encode()


FILES = {
    "coco": "coco/stats.json",
    "csv": "plain/history.csv",
    "dvc": "dvclive/dvc.yaml",
    "dvclive": "dvclive/live/plots/metrics/train/loss.tsv",
    "huggingface": "huggingface/trainer_state.json",
    "json": "plain/metrics.json",
    "jsonl": "detectron/metrics.json",
    "keras": "keras/training.log",
    "lightning": "lightning/version_0/metrics.csv",
    "lm-eval": "lm-eval/results_2026-11-23T00-00-00.json",
    "mlflow": "mlflow/mlflow.db",
    "sacred": "sacred/1/metrics.json",
    "tensorboard": "tensorboard/tf2/train",
    "toml": "plain/metrics.toml",
    "tsv": "plain/history.tsv",
    "ultralytics": "ultralytics/results.csv",
    "wandb": "wandb/run-fixture.wandb",
    "yaml": "plain/metrics.yaml",
}

junk = st.binary(max_size=200) | st.sampled_from(
    [b"[" * 2000, b'{"a":' * 2000, b"\xff\xfe\x00\xd8", b"- " * 3000, b"1e999"]
)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), junk), min_size=1, max_size=4)


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_read__random_bytes__never_raises(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("junk")

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=junk)
    def run(data):
        file = folder / Path(FILES[name]).name
        file.write_bytes(data)
        readers()[name].detect(file, data)
        check(readers()[name].read(file, file.name))

    run()


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_read__mutated_fixture__never_raises(outputs, tmp_path_factory, name):
    original = outputs / FILES[name]
    folder = tmp_path_factory.mktemp("mutated")
    if original.is_dir():
        (original,) = original.iterdir()
    if name == "dvclive":
        shutil.copytree(outputs / "dvclive/live", folder, dirs_exist_ok=True)
    content = original.read_bytes()
    file = folder / ("plots/metrics/train/loss.tsv" if name == "dvclive" else original.name)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edits=edits, cut=st.none() | st.floats(0, 1))
    def run(edits, cut):
        data = content if cut is None else content[: int(len(content) * cut)]
        for place, length, new in edits:
            at = int(len(data) * place)
            data = data[:at] + new + data[at + length :]
        file.write_bytes(data)
        reader = readers()[name]
        reader.detect(file, data[: 2**16])
        check(reader.read(reader.unit(file), "x"))
        check(reader.read(file, "x"))

    run()

"""How a trial's outputs become readings, and readings one set of names."""

import os
from pathlib import Path

import pytest

from gitops_ml.readers.base import merge, read_outputs
from gitops_ml.readers.dvclive import DvcliveReader
from gitops_ml.readers.jsonl import JsonlReader
from gitops_ml.readers.mapping import JsonReader, YamlReader
from gitops_ml.readers.table import CsvReader, TsvReader
from gitops_ml.records import Problem, Reading, Scalar, Series
from gitops_ml.spec import Read

READERS = {
    "json": JsonReader(),
    "yaml": YamlReader(),
    "csv": CsvReader(),
    "tsv": TsvReader(),
    "jsonl": JsonlReader(),
    "dvclive": DvcliveReader(),
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def read(folder: Path, *reads: Read | str) -> tuple[Reading, ...]:
    return read_outputs(folder, [item if isinstance(item, Read) else Read(path=item) for item in reads], READERS)


def test_read_outputs__several_formats__each_read_by_its_own(tmp_path):
    write(tmp_path, {"out/m.json": '{"acc": 0.5}', "out/deep/er/h.csv": "step,loss\n0,2\n1,1\n", "out/x.png": "PNG"})

    readings = read(tmp_path, "out/m.json", "out/**/*.csv")

    assert [(r.file, r.format) for r in readings] == [("out/m.json", "json"), ("out/deep/er/h.csv", "csv")]
    assert readings[0].scalars == (Scalar(name="acc", value=0.5),)
    assert readings[1].series == (Series(name="loss", steps=(0.0, 1.0), values=(2.0, 1.0)),)


def test_read_outputs__two_entries_select_one_file__read_once_as_the_first_says(tmp_path):
    write(tmp_path, {"a.json": '{"step": 1, "loss": 2}'})

    readings = read(tmp_path, Read(path="a.json", format="jsonl"), "*.json")

    assert [(r.file, r.format) for r in readings] == [("a.json", "jsonl")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out/none.json", "no file matches; did the training write it, relative to the workdir?"),
        ("../other/*.json", "leads out of the workdir; it is not read"),
        ("/etc/passwd", "leads out of the workdir; it is not read"),
        ("sub", "is a folder and no unit of a known format; add `/**` to read the files in it"),
        ("su*", "only folders match that are no unit of a known format; add `/**` to read their files"),
        ("blob", "its format is not known; name one of them as `format`: csv, dvclive, json, jsonl, tsv, yaml"),
    ],
)
def test_read_outputs__nothing_to_read__says_so(tmp_path, path, message):
    (tmp_path / "work").mkdir()
    write(tmp_path / "work", {"sub/x.bin": "1", "blob": "zzz"})
    write(tmp_path, {"other/secret.json": '{"a": 1}'})

    (reading,) = read(tmp_path / "work", path)

    assert reading.problems == (Problem(file=path, where="", message=message),)


def test_read_outputs__unknown_file_under_a_glob__ignored_with_a_word(tmp_path):
    write(tmp_path, {"out/a.png": "PNG"})

    (reading,) = read(tmp_path, "out/**")

    assert reading.problems == ()
    assert reading.ignored == ("out/a.png (no metrics file that we know)",)


def test_read_outputs__link_out_of_the_workdir__not_opened(tmp_path):
    write(tmp_path, {"secret.json": '{"token": 7}', "work/ok.json": '{"a": 1}'})
    (tmp_path / "work" / "link.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "work" / "folder").symlink_to(tmp_path)

    readings = read(tmp_path / "work", "**/*.json", "folder/secret.json")

    assert [s.name for r in readings for s in r.scalars] == ["a"]
    assert [p.message for p in readings[0].problems] == ["is a link that leads out of the workdir; it is not read"]


def test_read_outputs__fifo__not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.json")

    (named,) = read(tmp_path, Read(path="m.json", format="json"))
    (found,) = read(tmp_path, "m.json")

    assert [p.message for p in named.problems] == ["is no regular file"]
    assert found.problems[0].message.startswith("its format is not known")


def test_read_outputs__dvclive_folder_by_any_glob__one_reading(tmp_path):
    write(
        tmp_path,
        {
            "dvclive/metrics.json": '{"acc": 0.5, "step": 1}',
            "dvclive/params.yaml": "lr: 0.1\n",
            "dvclive/plots/metrics/acc.tsv": "step\tacc\n0\t0.25\n1\t0.5\n",
        },
    )

    for pattern in ("dvclive", "dvclive/", "dvclive/**", "dvclive/metrics.json", "**/*.tsv", "dvcl*"):
        (reading,) = read(tmp_path, pattern)
        assert (reading.file, reading.format) == ("dvclive", "dvclive")
        assert reading.series == (Series(name="acc", steps=(0.0, 1.0), values=(0.25, 0.5)),)
        assert reading.params == {"lr": 0.1}


def test_merge__name_in_one_file__kept():
    readings = [Reading(file="a.json", format="json", scalars=(Scalar(name="val/acc", value=1.0),))]

    assert merge(readings) == ((Scalar(name="val/acc", value=1.0),), (), ())


def test_merge__same_name_in_two_files__qualified_and_reported():
    series = Series(name="loss", steps=(0.0,), values=(2.0,))
    readings = [
        Reading(file="a.json", format="json", scalars=(Scalar(name="loss", value=1.0),)),
        Reading(file="b.csv", format="csv", series=(series,)),
    ]

    scalars, curves, problems = merge(readings)

    assert [s.name for s in scalars] == ["a.json:loss"]
    assert [s.name for s in curves] == ["b.csv:loss"]
    assert problems == (
        Problem(
            file="a.json",
            where="loss",
            message="`loss`: the same name in a.json, b.csv; write `a.json:loss` to say which",
        ),
    )


@pytest.mark.parametrize("wanted", ["dvclive:acc", "dvclive/metrics.json:acc"])
def test_merge__qualified_without_need__given_too(wanted):
    readings = [Reading(file="dvclive", format="dvclive", scalars=(Scalar(name="acc", value=1.0),))]

    scalars, _, problems = merge(readings, wanted=["acc", wanted, "other:acc"])

    assert [s.name for s in scalars] == ["acc", wanted]
    assert problems == ()

"""Changes to a past spec, finding its records again, and whether a repeat gave the same numbers."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml import reruns
from gitops_ml.errors import UserError
from gitops_ml.planning import digest
from gitops_ml.records import Scalar, Series
from gitops_ml.reruns import Changes, DataChange, Repeated, Sameness
from gitops_ml.spec import Tolerance, Track
from tests.fakes import runs

SPEC = {
    "version": 1,
    "name": "digits",
    "run": "python train.py",
    "data": [{"name": "train", "uri": "data/train.csv", "role": "train"}],
    "params": {"lr": 0.1, "act": "relu", "layers": [64, 32]},
    "seeds": [0, 1],
}


def changed(changes=None, record=None, **more):
    return reruns.changed(json.dumps({**SPEC, **more}).encode(), "spec.yaml", changes or Changes(), record)


@pytest.mark.parametrize(
    ("text", "uri", "version"),
    [
        ("train=data/x.csv", "data/x.csv", None),
        ("train=data/x.csv@main~3", "data/x.csv", "main~3"),
        ("train=data/x.csv@feature/data", "data/x.csv", "feature/data"),
        ("train=data/a@b.csv@HEAD", "data/a@b.csv", "HEAD"),
        ("train=@worktree", "", "worktree"),
        ("train=s3://bucket/a/b.csv@3sL4kqtJlcpXroDTDmJ", "s3://bucket/a/b.csv", "3sL4kqtJlcpXroDTDmJ"),
        ("train=https://user@host/b.csv", "https://user@host/b.csv", None),
        ("train=https://user@host/b.csv@sha256:00ff", "https://user@host/b.csv", "sha256:00ff"),
        ("train=hf://datasets/org/name@0123abc", "hf://datasets/org/name", "0123abc"),
        ("train=data/a=b.csv", "data/a=b.csv", None),
    ],
)
def test_data_change__every_form__is_taken_apart_at_the_right_place(text, uri, version):
    assert reruns.data_change(text) == DataChange(name="train", uri=uri, version=version)


@given(st.text(max_size=40))
def test_data_change__any_text__is_a_change_or_a_usage_error(text):
    try:
        found = reruns.data_change(text)
    except UserError:
        return
    assert text == f"{found.name}={found.uri}" + ("" if found.version is None else f"@{found.version}")


def test_changed__nothing__is_the_spec():
    found = changed()

    assert (found.name, dict(found.params), found.seeds) == (
        "digits",
        {"lr": 0.1, "act": "relu", "layers": (64, 32)},
        (0, 1),
    )


def test_changed__values__are_read_as_in_a_spec_but_texts_stay_texts():
    found = changed(Changes(params={"lr": "1e-2", "act": "1", "layers": "[8]"}, seeds=(7,), backend="local"))

    assert dict(found.params) == {"lr": 0.01, "act": "1", "layers": (8,)}
    assert (found.seeds, found.backend) == ((7,), "local")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("lr", "abc"), "--param lr=abc: `0.1` stands in the spec there; give a number"),
        (("lr", "true"), "--param lr=true: `0.1` stands in the spec there; give a number"),
        (("lr", "[0.1]"), "--param lr=[0.1]: `0.1` stands in the spec there; give a number"),
        (("lr", "0.1, 0.2"), "--param lr=0.1, 0.2: `0.1` stands in the spec there; give a number"),
        (("lr", "[]"), "--param lr=[]: `0.1` stands in the spec there; give a number"),
        (("lr", "{a: 1}"), "--param lr={a: 1}: `0.1` stands in the spec there; give a number"),
        (("lr", "0.1 # 'x\n'"), "--param lr=0.1 # 'x�': `0.1` stands in the spec there; give a number"),
        (("flip", "yes"), "--param flip=yes: `true` stands in the spec there; give true or false"),
        (("layers", "64"), "--param layers=64: `[64, 32]` stands in the spec there; give a list of numbers"),
        (("layers", "[a]"), "--param layers=[a]: `[64, 32]` stands in the spec there; give a list of numbers"),
        (("mixed", "[1]"), '--param mixed=[1]: `["a", 1]` stands in the spec there; give a list of numbers and texts'),
    ],
)
def test_changed__value_of_another_kind__is_refused_with_what_stands_there(change, said):
    params = {"lr": 0.1, "layers": [64, 32], "flip": True, "mixed": ["a", 1]}

    with pytest.raises(UserError) as caught:
        changed(Changes(params=dict([change])), params=params)

    assert str(caught.value) == said


@pytest.mark.parametrize(("before", "text", "after"), [(20, "20.5", 20.5), (0.5, "1", 1), (True, "false", False)])
def test_changed__value_of_the_same_kind__is_taken(before, text, after):
    assert changed(Changes(params={"x": text}), params={"x": before}).params["x"] == after


@pytest.mark.parametrize("text", ["🙂", 'é \\ "quoted" # no comment', "- x: {y}", "~", "1e-5", "", "yes", "a\tb\nc"])
def test_changed__any_text_of_the_spec__stays_what_it_is(text):
    spec = {**SPEC, "params": {"act": text, "tiny": 1e-05, "huge": 1e22}, "labels": {"team": text}}

    found = reruns.changed(json.dumps(spec, ensure_ascii=False).encode(), "spec.yaml", Changes())

    assert dict(found.params) == {"act": text, "tiny": 1e-05, "huge": 1e22}
    assert found.labels["team"] == text


def test_changed__a_commit_as_the_version_of_a_path__is_not_written_into_the_spec():
    change = DataChange(name="train", uri="data/new.csv", version="HEAD")

    (entry,) = changed(Changes(data={"train": change})).data

    assert (entry.uri, entry.version, entry.role) == ("data/new.csv", None, "train")


@pytest.mark.parametrize(
    ("sweep", "points"),
    [
        ({"grid": {"lr": [0.1, 0.2], "act": ["relu", "gelu"]}}, [{"act": "relu"}, {"act": "gelu"}]),
        ({"grid": {"lr": [0.1, 0.2]}, "parallel": 2}, [{}]),
        ({"list": [{"lr": 1, "act": "a"}, {"lr": 2, "act": "a"}, {"act": "b"}]}, [{"act": "a"}, {"act": "b"}]),
        ({"random": {"n": 1, "seed": 0, "space": {"act": ["a"]}}}, [{"act": "a"}]),
        ({"grid": {"act": ["a"]}, "confirm": {"seeds": [5]}}, [{"act": "a"}]),
    ],
)
def test_changed__a_swept_parameter__has_one_value_and_leaves_the_points(sweep, points):
    from gitops_ml.planning import points as points_of

    found = changed(Changes(params={"lr": "0.5"}), sweep=sweep)

    assert found.params["lr"] == 0.5
    assert [dict(point) for point in points_of(found)] == points
    assert found.sweep is None or not found.sweep.confirm


def test_changed__drawn_at_random__is_refused():
    sweep = {"random": {"n": 2, "seed": 0, "space": {"lr": {"low": 0.1, "high": 1}}}}

    with pytest.raises(UserError) as caught:
        changed(Changes(params={"lr": "0.5"}), sweep=sweep)

    assert str(caught.value) == (
        "--param lr: it is drawn at random there, so each trial has its own; rerun one of them by its key"
    )


def test_originals__same_content_in_another_environment__is_found_after_the_exact_one():
    spec = runs.experiment(params={"lr": 0.1})
    trial = runs.trial(spec)
    mine = runs.record(trial, {"accuracy": 0.9})

    def other(**document):
        changed = {**mine.document, **document}
        return dataclasses.replace(mine, key=digest(changed), document=changed)

    elsewhere = other(environment={"env": {}, "interpreter": {"python": "3.9"}})
    repeat = dataclasses.replace(other(repeat=1), repeat=1)
    code = other(code="0" * 64)

    assert reruns.originals([trial], [elsewhere, code]) == {trial.key: elsewhere}
    assert reruns.originals([trial], [repeat, elsewhere, mine, code]) == {trial.key: repeat}
    assert reruns.originals([trial], [code]) == {}


@pytest.mark.parametrize("document", [{}, {"environment": "none", "data": 7}, {"data": [["train"], "x", {}]}])
def test_originals_and_pins__a_document_that_is_no_key_document__is_nobodys(document):
    trial = runs.trial(runs.experiment())
    record = dataclasses.replace(runs.record(trial, {}), document=document)

    assert reruns.originals([trial], [record]) == {}
    assert reruns.data_blobs(record) == []


def result(**values):
    record = runs.record(runs.trial(runs.experiment()), {})
    scalars = tuple(Scalar(name=name, value=value) for name, value in values.items() if not isinstance(value, tuple))
    series = tuple(
        Series(name=name, steps=tuple(map(float, range(len(value)))), values=value)
        for name, value in values.items()
        if isinstance(value, tuple)
    )
    return dataclasses.replace(record, scalars=scalars, series=series)


@pytest.mark.parametrize(
    ("before", "after", "sameness", "difference"),
    [
        (1.0, 1.0, Sameness.BIT_EQUAL, 0.0),
        (float("nan"), float("nan"), Sameness.BIT_EQUAL, None),
        (0.0, -0.0, Sameness.WITHIN_TOLERANCE, 0.0),
        (1.0, 1.05, Sameness.WITHIN_TOLERANCE, 0.05),
        (1.0, 1.2, Sameness.DIFFERENT, 0.2),
        (1.0, float("nan"), Sameness.DIFFERENT, None),
        ((1.0, 2.0), (1.0, 2.0), Sameness.BIT_EQUAL, 0.0),
        ((1.0, 2.0), (1.5, 2.0), Sameness.WITHIN_TOLERANCE, 0.0),
        ((1.0, 2.0), (1.0, 2.0, 2.0), Sameness.WITHIN_TOLERANCE, 0.0),
        ((1.0, 2.0), 2.0, Sameness.WITHIN_TOLERANCE, 0.0),
    ],
)  # fmt: skip
def test_repeated__one_metric__is_equal_by_its_bits_then_by_its_tolerance(before, after, sameness, difference):
    track = Track(name="loss", tolerance=Tolerance(absolute=0.1))

    (found,) = reruns.repeated([(result(loss=before), result(loss=after))], [track])

    assert found == Repeated(
        name="loss", sameness=sameness, difference=None if difference is None else pytest.approx(difference)
    )


def test_repeated__several_runs_and_metrics__takes_the_worst_and_names_all():
    pairs = [(result(a=1.0, b=1.0), result(a=1.0, b=1.0)), (result(a=1.0, b=1.0), result(a=1.1, c=1.0))]

    found = reruns.repeated(pairs, [Track(name="b")])

    assert [(one.name, one.sameness) for one in found] == [
        ("b", Sameness.DIFFERENT),
        ("a", Sameness.DIFFERENT),
        ("c", Sameness.DIFFERENT),
    ]
    assert found[1].difference == pytest.approx(0.1)

"""report.json: there and back, as its schema says, and safe against what comes back."""

import contextlib
import copy
import dataclasses
import json
import math
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.comparison import Comparison, compare
from gitops_ml.comparison_json import ReportError, comparison_from_json, comparison_to_json
from gitops_ml.records import Outcome, Problem
from gitops_ml.spec import Gate, Goal, Plot, Sweep, Tolerance, Track
from tests.fakes import runs
from tests.fakes.runs import World

SCHEMA = json.loads((resources.files("gitops_ml") / "schemas" / "report.v1.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def whole() -> Comparison:
    """A comparison with something in every field."""
    tracks = (
        Track(
            name="acc", goal=Goal.MAXIMIZE, gate=Gate.FAIL, tolerance=Tolerance(relative=0.01), floor=0.5, primary=True
        ),
        Track(name="loss", goal=Goal.MINIMIZE, unit="nats"),
        Track(name="gone"),
    )
    spec = runs.experiment(
        *tracks,
        params={"lr": 0.1, "layers": (1, 2), "act": "relu", "bias": True, "n": 3},
        sweep=Sweep(grid={"lr": (0.1, 0.03)}),
        plots=(Plot(y=("loss",)),),
    )
    world = World(spec)
    for side, shift in (("base", 0.0), ("head", 0.05)):
        for lr in (0.1, 0.03):
            for seed in range(3):
                series = (runs.series("loss", 2.0, math.nan, 1.0 + shift * seed),)
                problems = (Problem(file="m.json", where="loss", message="1 value is not finite"),)
                more = {"series": series, "problems": problems, "ignored": ("x (text)",)}
                world.add(side, {"acc": 0.9 - shift + seed * 0.01 + lr / 100}, seed, point={"lr": lr}, more=more)
    world.add("head", {"acc": 0.8}, 0, point={"lr": 0.1}, repeat=1)
    failed = world.add("head", None, 5, point={"lr": 0.03})
    world.attempts[failed.key].append(runs.attempt(failed, Outcome.PREEMPTED, number=1, usage=runs.usage()))
    world.attempts[failed.key].append(runs.attempt(failed, Outcome.LOST, number=2, hardware=None, log_tail="\x1b[31m"))
    return compare(world.plan(), world.records, world.attempts)


def test_comparison_to_json__everything__as_the_schema_says() -> None:
    document = json.loads(json.dumps(comparison_to_json(whole()), allow_nan=False))

    VALIDATOR.validate(document)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_comparison_to_json__with_curves__as_the_schema_says_and_back() -> None:
    comparison = whole()
    document = json.loads(json.dumps(comparison_to_json(comparison, curves=True), allow_nan=False))
    VALIDATOR.validate(document)
    found = comparison_from_json(document)

    assert repr(found) == repr(comparison)  # NaN equals nothing, but reads the same


def test_comparison_from_json__without_curves__the_rest_comes_back_equal() -> None:
    comparison = whole()
    document = json.loads(json.dumps(comparison_to_json(comparison)))
    bare = [
        dataclasses.replace(
            experiment, points=tuple(dataclasses.replace(point, curves=()) for point in experiment.points)
        )
        for experiment in comparison.experiments
    ]

    assert comparison_from_json(document) == dataclasses.replace(comparison, experiments=tuple(bare))


def test_comparison_from_json__written_again__is_the_same_text() -> None:
    document = comparison_to_json(whole())

    assert json.dumps(comparison_to_json(comparison_from_json(document))) == json.dumps(document)


def test_comparison_from_json__fields_of_a_later_version__are_left_alone() -> None:
    document = comparison_to_json(whole())
    document["more"] = 1
    document["experiments"][0]["more"] = 1

    assert comparison_from_json(document) == comparison_from_json(comparison_to_json(whole()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), "other", "this is no report: its `schema` is not `gitops-ml/report/v1`"),
        (("experiments",), {}, "experiments is no list"),
        (("experiments", 0, "gate"), "ok", "experiments[0].gate is 'ok'; known are: pass, warn, fail"),
        (("experiments", 0, "metrics", 0, "base", "n"), "3", "experiments[0].metrics[0].base.n is no whole number"),
        (("experiments", 0, "metrics", 0, "tolerance"), True, "experiments[0].metrics[0].tolerance is no number"),
        (
            ("experiments", 0, "metrics", 0, "interval"),
            [1.0],
            "experiments[0].metrics[0].interval has 1 items, not 2",
        ),
        (("head", "dirty"), 0, "head.dirty is no true or false"),
        (("head",), [], "head is no object"),
    ],
)
def test_comparison_from_json__wrong_field__says_where(path: tuple[Any, ...], value: object, message: str) -> None:
    document = comparison_to_json(whole())
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value

    with pytest.raises(ReportError) as caught:
        comparison_from_json(document)

    assert str(caught.value) == message


def test_comparison_from_json__missing_field__says_which() -> None:
    document = comparison_to_json(whole())
    del document["experiments"][0]["metrics"][0]["verdict"]

    with pytest.raises(ReportError, match=r"^experiments\[0\]\.metrics\[0\]\.verdict is missing$"):
        comparison_from_json(document)


DOCUMENT = json.loads(json.dumps(comparison_to_json(whole(), curves=True)))
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), JUNK)
def test_comparison_from_json__any_part_replaced__a_comparison_or_our_error(data: st.DataObject, junk: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 5)) == 0:
            place[key] = junk
            break
        place = inner

    with contextlib.suppress(ReportError):
        assert isinstance(comparison_from_json(document), Comparison)

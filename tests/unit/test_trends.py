"""Levels in a history: found where they are, not found in noise, whatever the values' size."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.entries import Entry, ReportEntry
from gitops_ml.trends import Level, change_points, trends


def entry(key, commit, value, *, seed=0, repeat=0, **more):
    fields = {
        "key": key, "experiment": "digits", "commit": commit, "dirty": False, "point": {}, "params": {}, "seed": seed,
        "repeat": repeat, "started_at": "2026-01-01T00:00:00Z", "duration_s": 1.0, "cost_usd": 0.0, "backend": "local",
        "origin": "ci", "user": "", "data": {}, "metrics": {"accuracy": value}, "lowest": {}, "highest": {},
        "derived_from": None,
    }  # fmt: skip
    return Entry(**{**fields, **more})


def report(commit, *keys, dirty=False):
    return ReportEntry(
        folder=f"reports/digits/{commit}-0", experiment="digits", commit=commit, dirty=dirty, gate="pass", recorded=1,
        metric="accuracy", goal="maximize", verdicts=(("same", keys),),
    )  # fmt: skip


def noisy(level, count, draw, sd=0.01):
    return [level + draw.gauss(0, sd) for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9, 1e300, -1.0])
def test_change_points__steps_in_noise__are_found_at_their_place(scale):
    draw = random.Random(1)
    values = [*noisy(0.9, 12, draw), *noisy(0.95, 9, draw), *noisy(0.85, 20, draw)]

    assert change_points([scale * value for value in values]) == [12, 21]


def test_change_points__noise_alone__shows_a_change_in_few_of_many_histories():
    draw = random.Random(2)
    for count in (8, 20, 100):
        found = sum(bool(change_points(noisy(0.9, count, draw))) for _ in range(400))
        assert found <= 400 * 0.06, count


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1.0] * 50, []),
        ([0.0] * 50, []),
        ([1.0] * 4 + [2.0] * 3, []),  # too few
        ([1.0] * 5 + [2.0] * 5, [5]),
        ([1.0] * 20 + [1.0 + 1e-15] * 20, []),
        ([1.0] * 10 + [5.0] + [1.0] * 10, []),  # one outlier is no level
        ([1.0] * 7 + [float("inf")] * 7, []),
    ],
)
def test_change_points__plain_sequences__are_as_expected(values, expected):
    assert change_points(values) == expected


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_change_points__whatever_the_values__are_ordered_and_apart(values):
    found = [0, *change_points(values), len(values)]

    assert found == sorted(found)
    assert len(found) == 2 or all(after - before >= 3 for before, after in itertools.pairwise(found))


def test_trends__records_and_reports__meet_at_the_branchs_commits():
    entries = [
        entry("a", "c0", 0.5),
        entry("b", "c0", 0.7, seed=1),
        entry("b2", "c0", 0.9, seed=1, repeat=1),
        entry("elsewhere", "change", 0.8),
        entry("rerun", "c1", 0.1, derived_from="a"),
        entry("uncommitted", "c1", 0.1, dirty=True),
        entry("off", "other", 0.1),
    ]
    reports = [report("c1", "elsewhere", "gone"), report("c2", "elsewhere"), report("c2", "off", dirty=True)]

    (found,) = trends(entries, reports, ["c0", "c1", "c2", "c3"], {"digits": ["accuracy"]})

    assert [(m.position, m.mean, m.lowest, m.highest, m.runs, m.keys) for m in found.measured] == [
        (0, 0.7, 0.5, 0.9, 2, ("a", "b2")),
        (1, 0.8, 0.8, 0.8, 1, ("elsewhere",)),
        (2, 0.8, 0.8, 0.8, 1, ("elsewhere",)),
    ]
    assert found.levels == [Level(first=0, last=2, mean=pytest.approx(2.3 / 3))]
    assert trends(entries, reports, ["c0"], {"digits": ["loss"], "other": ["accuracy"]}) == []


def test_trends__points_of_a_sweep__are_lines_of_their_own():
    entries = [
        entry(f"{lr}{n}", f"c{n}", lr * n, point={"lr": lr, "layers": (1, 2)}) for lr in (0.1, 0.2) for n in range(3)
    ]

    found = trends(entries, [], ["c0", "c1", "c2"], {"digits": ["accuracy"]})

    assert [(dict(one.point)["lr"], len(one.measured)) for one in found] == [(0.1, 3), (0.2, 3)]


def test_trends__what_is_reused__is_no_measurement_of_noise():
    values = [0.9, 0.901, 0.9, 0.902, 0.7, 0.701, 0.7, 0.702]
    entries = [entry(f"k{number}", f"c{4 * number}", value) for number, value in enumerate(values)]
    branch = [f"c{number}" for number in range(32)]
    reports = [report(f"c{number}", f"k{number // 4}") for number in range(32)]

    (found,) = trends(entries, reports, branch, {"digits": ["accuracy"]})

    assert [(level.first, level.last) for level in found.levels] == [(0, 15), (16, 31)]

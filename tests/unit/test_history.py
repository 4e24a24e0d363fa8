"""Noise learned from earlier records, and how two of them differ."""

import dataclasses
import random
from datetime import UTC, datetime

import pytest

from gitops_ml.errors import UserError
from gitops_ml.history import learned_noise, record_difference, since
from gitops_ml.records import Record
from gitops_ml.spec import Goal, Track
from tests.fakes import runs

TRACK = Track(name="acc", goal=Goal.MAXIMIZE)
SPEC = runs.experiment(TRACK)
TRACKS = {"digits": (TRACK,)}


def group(code: str, *values: float, repeat: int = 0) -> list[Record]:
    trials = [runs.trial(SPEC, seed=seed, repeat=repeat, code=code) for seed in range(len(values))]
    return [runs.record(trial, {"acc": value}) for trial, value in zip(trials, values, strict=True)]


def test_learned_noise__groups_of_seeds__pools_the_spread_within() -> None:
    draw = random.Random(1).gauss
    records = [r for i in range(300) for r in group(f"code {i}", *(draw(i, 0.5) for _ in range(3)))]
    random.Random(2).shuffle(records)
    found = learned_noise(records, TRACKS)["digits"]["acc"]

    assert found.df == 600
    assert found.sd == pytest.approx(0.5, rel=0.1)


def test_learned_noise__own_group__is_left_out() -> None:
    records = [r for i in range(6) for r in group(f"code {i}", 1.0, 2.0, 3.0)]
    loud = group("own", 0.0, 100.0, 200.0)
    found = learned_noise([*records, *loud], TRACKS, leave_out={loud[0].key})["digits"]["acc"]

    assert (found.sd, found.df) == (1.0, 12)


def test_learned_noise__too_few_groups__is_not_known() -> None:
    assert learned_noise(group("one", 1.0, 2.0, 3.0), TRACKS) == {"digits": {}}


def test_learned_noise__several_repeats__newest_counts() -> None:
    records = [r for i in range(6) for r in (*group(f"c{i}", 9.0, 1.0, 5.0), *group(f"c{i}", 1.0, 2.0, 3.0, repeat=1))]

    assert learned_noise(records, TRACKS)["digits"]["acc"].sd == 1.0


def test_learned_noise__other_experiment__is_left_alone() -> None:
    assert learned_noise(group("one", 1.0, 2.0), {"other": (TRACK,)}) == {}


def test_learned_noise__runs_that_began_after_those_compared__do_not_count() -> None:
    earlier = [r for i in range(6) for r in group(f"c{i}", 1.0, 2.0, 3.0)]
    later = [
        dataclasses.replace(r, attempt=dataclasses.replace(r.attempt, started_at="2026-01-01T00:00:01Z"))
        for r in group("later", 0.0, 100.0, 200.0)
    ]

    found = learned_noise([*earlier, *later], TRACKS, until={"digits": "2026-01-01T00:00:00Z"})["digits"]["acc"]
    assert (found.sd, found.df) == (1.0, 12)


NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("2026-01-01", "2026-01-01T00:00:00Z"),
        ("2026-01-01T12:30", "2026-01-01T12:30:00Z"),
        ("2026-01-01T12:30+02:00", "2026-01-01T10:30:00Z"),
        ("7d", "2026-01-03T12:00:00Z"),
        ("1d12h", "2026-01-09T00:00:00Z"),
    ],
)
def test_since__day_time_or_duration__is_a_records_date(text: str, start: str) -> None:
    assert since(text, NOW) == start


@pytest.mark.parametrize("text", ["", "soon", "7", "2026-13-01", "-1d", "0001-01-01T00:00+23:00"])
def test_since__anything_else__is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--since: "):
        since(text, NOW)


def test_record_difference__same_content__has_none() -> None:
    (one,) = group("same", 0.5)
    found = record_difference(one, one)

    assert (found.parameters, found.data, found.environment, found.code) == ((), (), (), False)
    assert [(metric.name, metric.difference) for metric in found.metrics] == [("acc", 0.0)]


def test_record_difference__metric_of_one_side__has_no_difference() -> None:
    (one,) = group("one", 0.5)
    found = record_difference(one, runs.record(runs.trial(SPEC, code="two"), {"loss": 1.0}))

    assert found.code
    assert [(metric.name, metric.before, metric.after, metric.difference) for metric in found.metrics] == [
        ("acc", 0.5, None, None),
        ("loss", None, 1.0, None),
    ]

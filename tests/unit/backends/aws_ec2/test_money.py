"""How long machines may live and what that costs."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.backends.aws_ec2.money import bound, cost_usd, disk_gib, hourly_usd, left_min, trials_of, worst_usd
from gitops_ml.spec import BaselineRule, Budget, Experiment, Missing, Resources, Sweep


def experiment(missing=Missing.RUN, **fields):
    return Experiment(path="e.yaml", name="e", run="true", baseline=BaselineRule(missing=missing), **fields)


@pytest.mark.parametrize(
    ("budget", "usd", "expected"),
    [
        (Budget(max_duration_s=5400), 1, (110, 110, "budget.max_duration")),
        (Budget(max_duration_s=5400, retries_failed=2), 1, (110, 330, "budget.max_duration")),
        (Budget(), 1, (1440, 1440, "the 24 h that hold without budget.max_duration")),
        (Budget(max_cost_usd=Decimal(12)), 1, (120, 120, "budget.max_cost")),
        (Budget(max_cost_usd=Decimal(1), max_duration_s=5400), 1, (60, 60, "budget.max_cost")),
        (Budget(max_cost_usd=Decimal(3), max_duration_s=5400, retries_failed=9), 1, (110, 180, "budget.max_duration")),
        (Budget(max_cost_usd=Decimal(12)), None, (1440, 1440, "the 24 h that hold without budget.max_duration")),
    ],
    ids=["duration", "retries", "neither", "share of the money", "money is less", "money for some retries", "no price"],
)
def test_bound__budget__decides(budget, usd, expected):
    found = bound(experiment(budget=budget, seeds=(0, 1, 2)), None if usd is None else Decimal(usd))

    assert (found.lifetime_min, found.total_min, found.by) == expected


def test_trials__points_seeds_and_sides__share_the_money():
    sweep = Sweep(grid={"lr": (1, 2)}, confirm=(7,))

    assert trials_of(experiment(seeds=(0, 1, 2), sweep=sweep)) == 14
    assert trials_of(experiment(missing=Missing.WARN, seeds=(0, 1))) == 2


@given(
    usd=st.decimals(Decimal("0.001"), Decimal(200), places=4),
    money=st.decimals(Decimal("0.01"), Decimal(500), places=2),
    seconds=st.none() | st.integers(1, 10**6),
    seeds=st.integers(1, 5),
)
def test_bound__whatever_is_asked__the_money_is_kept(usd, money, seconds, seeds):
    spec = experiment(budget=Budget(max_cost_usd=money, max_duration_s=seconds), seeds=tuple(range(seeds)))
    found = bound(spec, usd)

    assert found.lifetime_min <= found.total_min
    assert found.total_min * usd <= money * 60
    if seconds is None:
        assert found.total_min * usd * trials_of(spec) <= money * 60


def test_worst__a_bound__is_rounded_up():
    found = bound(experiment(budget=Budget(max_duration_s=3600)), Decimal("0.8048"))

    assert worst_usd(found, Decimal("0.8048")) == Decimal("1.0731")


def test_cost__seconds__cost_with_disk_and_address_and_a_minute_at_least():
    assert hourly_usd(Decimal(1), 73) == Decimal("1.013")
    assert cost_usd(Decimal(1), 73, 1800) == 0.5065
    assert cost_usd(Decimal(1), 73, 3) == cost_usd(Decimal(1), 73, 60) == 0.016883


def test_left__after_attempts__is_what_they_did_not_use():
    found = bound(experiment(budget=Budget(max_duration_s=3600)), Decimal(1))

    assert left_min(found, []) == 80
    assert left_min(found, [600.5, 3000]) == 19


def test_disk__asked_or_usual__holds_the_image():
    assert disk_gib(experiment()) == 100
    assert disk_gib(experiment(resources=Resources(disk_bytes=2 * 10**9))) == 2
    assert disk_gib(experiment(resources=Resources(disk_bytes=2**30)), image_gib=65) == 75

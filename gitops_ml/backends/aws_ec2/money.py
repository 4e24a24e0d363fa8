"""How long a trial's machines may live, and what that may cost. Pure; ``plan`` and the dead-man time come from here."""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal

from gitops_ml.backends.aws_ec2.catalog import ADDRESS_USD_PER_HOUR, DISK_USD_PER_GIB_MONTH, HOURS_PER_MONTH
from gitops_ml.planning import points
from gitops_ml.spec import Experiment, Missing
from gitops_ml.values import dataclass

OVERHEAD_MIN = 20
"""What boot, installs and the bringing back of outputs may take beside the training."""
LONGEST_MIN = 24 * 60
"""How long a machine lives at most when neither ``budget.max_duration`` nor ``budget.max_cost`` says less."""
LEAST_BILLED_S = 60.0
DEFAULT_DISK_GIB = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How long machines may live: each, and all attempts of a trial together."""

    lifetime_min: int
    total_min: int
    by: str
    """What sets it, as messages name it."""


def hourly_usd(usd_per_hour: Decimal, disk_gib: int) -> Decimal:
    """Return what an hour costs with disk and address."""
    return usd_per_hour + disk_gib * DISK_USD_PER_GIB_MONTH / HOURS_PER_MONTH + ADDRESS_USD_PER_HOUR


def disk_gib(experiment: Experiment, image_gib: int = 0) -> int:
    """Return the disk's size: what is asked for, or a usual one, and never less than the image needs with some air."""
    asked = experiment.resources.disk_bytes
    wanted = DEFAULT_DISK_GIB if asked is None else math.ceil(asked / 2**30)
    return max(wanted, image_gib + 10 if image_gib else 0)


def trials_of(experiment: Experiment) -> int:
    """Return how many trials share ``budget.max_cost``: all points and seeds, and the base side where it is trained."""
    confirmed = len(experiment.sweep.confirm) if experiment.sweep is not None else 0
    sides = 2 if experiment.baseline.missing is Missing.RUN else 1
    return sides * (len(points(experiment)) * len(experiment.seeds) + confirmed)


def bound(experiment: Experiment, usd_per_hour: Decimal | None) -> Bound:
    """Return how long the trial's machines may live.

    ``max_duration`` decides; without it each trial gets its share of ``max_cost``. One machine never outlives what
    ``max_cost`` pays for, whatever the plan was.

    Args:
        experiment: with its budget.
        usd_per_hour: of the dearest machine that may be taken, with disk and address; None: not known.
    """
    budget = experiment.budget
    repeats = 1 + budget.retries_failed
    if budget.max_duration_s is not None:
        lifetime, by = math.ceil(budget.max_duration_s / 60) + OVERHEAD_MIN, "budget.max_duration"
    else:
        lifetime, by = LONGEST_MIN, f"the {LONGEST_MIN // 60} h that hold without budget.max_duration"
    total = lifetime * repeats
    if budget.max_cost_usd is not None and usd_per_hour:
        sharing = 1 if budget.max_duration_s is not None else trials_of(experiment)
        paid = int(budget.max_cost_usd * 60 // (sharing * usd_per_hour))
        if paid < total:
            total = paid
            if paid < lifetime:
                lifetime, by = paid, "budget.max_cost"
    return Bound(lifetime_min=max(0, lifetime), total_min=max(0, total), by=by)


def worst_usd(bound: Bound, usd_per_hour: Decimal) -> Decimal:
    """Return what all attempts of a trial together cost at most, rounded up to a cent of a cent."""
    return (bound.total_min * usd_per_hour / 60).quantize(Decimal("0.0001"), ROUND_UP)


def cost_usd(usd_per_hour: Decimal, disk_gib: int, billed_s: float) -> float:
    """Return what a machine has cost: its seconds, at least a minute of them, with disk and address."""
    hours = Decimal(str(max(LEAST_BILLED_S, billed_s))) / 3600
    return float((hourly_usd(usd_per_hour, disk_gib) * hours).quantize(Decimal("0.000001"), ROUND_HALF_EVEN))


def left_min(bound: Bound, billed_s: Sequence[float]) -> int:
    """Return how long the next attempt's machine may live after what earlier ones used."""
    return min(bound.lifetime_min, bound.total_min - math.ceil(sum(billed_s) / 60))

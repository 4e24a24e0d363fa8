"""Tests and intervals for the difference between two small samples of runs.

Plain Python on the command line's path; scipy is the oracle in the tests and is loaded for the bootstrap
alone. The formulas and their measured error rates: docs/statistics.md. All p values are one-sided.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Sequence

from gitops_ml.distributions import binomial_tail, normal_quantile, t_quantile, t_tail
from gitops_ml.errors import UserError
from gitops_ml.values import dataclass

POOLED_DF_MIN = 10
"""Degrees of freedom that earlier runs must bring before their noise is used."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Size, mean and sample standard deviation (n - 1); ``sd`` is None for n < 2, ``mean`` for n = 0."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True, slots=True)
class Noise:
    """Run-to-run standard deviation learned from earlier groups of runs, with its degrees of freedom."""

    sd: float
    df: int


@dataclass(frozen=True, slots=True)
class Test:
    """A difference head - base with its interval and both one-sided p values.

    ``p_below`` is small when head is below base, ``p_above`` when it is above. ``noise`` is the standard
    deviation of one run (for a paired test: of one difference), None if it is 0 by construction.
    """

    __test__ = False  # not for pytest

    method: str
    difference: float
    low: float
    high: float
    p_below: float
    p_above: float
    noise: float


def moments(values: Sequence[float]) -> Moments:
    """Return n, mean and sd of finite values, without overflow; equal values have an sd of exactly 0."""
    n = len(values)
    if n == 0:
        return Moments(0, None, None)
    if min(values) == max(values):
        return Moments(n, values[0], 0.0 if n > 1 else None)
    exponent, (scaled,) = _scaled(values)
    mean, sd = _moments(scaled)
    return Moments(n, _ldexp(mean, exponent), _ldexp(sd, exponent))


def paired_t(head: Sequence[float], base: Sequence[float], confidence: float) -> Test:
    """Test the mean of head[i] - base[i], n >= 2 pairs whose differences vary."""
    exponent, (head, base) = _scaled(head, base)
    mean, sd = _moments([h - b for h, b in zip(head, base, strict=True)])
    n = len(head)
    return _t_test("paired t", mean, sd / math.sqrt(n), n - 1, sd, confidence, exponent)


def welch_t(head: Sequence[float], base: Sequence[float], confidence: float) -> Test:
    """Test the difference of the means without assuming equal noise; at least 2 runs per side, one of them varies.

    With sides of unequal size it is more careful than Welch: see the degrees of freedom.

    Source: B. L. Welch, Biometrika 34 (1947), pp. 28-35.
    """
    exponent, (head, base) = _scaled(head, base)
    mean_h, sd_h = _moments(head)
    mean_b, sd_b = _moments(base)
    n_h, n_b = len(head), len(base)
    error = math.hypot(sd_h / math.sqrt(n_h), sd_b / math.sqrt(n_b))
    share = (sd_h / math.sqrt(n_h) / error) ** 2 if error else 0.5
    df = 1 / (share**2 / (n_h - 1) + (1 - share) ** 2 / (n_b - 1))
    # A few runs against many: the few may by chance look quiet, and Welch then trusts them (2 against 10 runs: 7.4 %
    # false alarms where 5 % are meant). As if both sides were the smaller one, it keeps what it promises.
    df = min(df, 2 * min(n_h - 1, n_b - 1))
    noise = math.hypot(sd_h, sd_b) / math.sqrt(2)
    return _t_test("Welch t", mean_h - mean_b, error, df, noise, confidence, exponent)


def prediction_t(head: Sequence[float], base: Sequence[float], confidence: float) -> Test:
    """Test one run against the spread of three or more that vary, on whichever side the one stands."""
    exponent, (head, base) = _scaled(head, base)
    many, one = (base, head[0]) if len(head) == 1 else (head, base[0])
    mean, sd = _moments(many)
    difference = one - mean if len(head) == 1 else mean - one
    error = sd * math.sqrt(1 + 1 / len(many))
    return _t_test("prediction interval", difference, error, len(many) - 1, sd, confidence, exponent)


def pooled_t(head: Sequence[float], base: Sequence[float], noise: Noise, confidence: float) -> Test:
    """Test with the noise of these runs pooled with that of earlier groups; one run per side is enough."""
    exponent, (head, base) = _scaled(head, base)
    sums, df = [noise.df * math.ldexp(noise.sd, -exponent) ** 2], noise.df
    means = []
    for side in (head, base):
        mean, sd = _moments(side)
        means.append(mean)
        sums.append((len(side) - 1) * sd * sd)
        df += len(side) - 1
    sd = math.sqrt(math.fsum(sums) / df)
    error = sd * math.sqrt(1 / len(head) + 1 / len(base))
    return _t_test("pooled t", means[0] - means[1], error, df, sd, confidence, exponent)


def pool(groups: Sequence[Sequence[float]]) -> Noise | None:
    """Return the noise within groups of runs that differ by their seed only; None: too little to go by."""
    spread, df = [], 0
    for group in groups:
        found = moments(group)
        if found.sd is not None:
            spread.append((found.n - 1, found.sd))
            df += found.n - 1
    largest = max((sd for _, sd in spread), default=0.0)
    if df < POOLED_DF_MIN or largest == 0:
        return None
    return Noise(largest * math.sqrt(math.fsum(n * (sd / largest) ** 2 for n, sd in spread) / df), df)


def permutation_p(head: Sequence[float], base: Sequence[float]) -> float:
    """Return the exact p that head is below base: the share of all splits with a sum for head at most as large."""
    _, (head, base) = _scaled(head, base)
    everything = [*head, *base]
    limit = sum(head) + _slack(everything)
    sums = [sum(split) for split in itertools.combinations(everything, len(head))]
    return sum([total <= limit for total in sums]) / len(sums)


def sign_flip_p(head: Sequence[float], base: Sequence[float]) -> float:
    """Return the exact p that head is below base when each pair could as well have come the other way round."""
    _, (head, base) = _scaled(head, base)
    differences = [h - b for h, b in zip(head, base, strict=True)]
    limit = sum(differences) + _slack(differences)
    sums = [0.0]
    for difference in differences:
        sums = [total + d for total in sums for d in (difference, -difference)]
    return sum([total <= limit for total in sums]) / len(sums)


def _slack(values: Sequence[float]) -> float:
    """Return how far two sums of these values may be apart by rounding alone."""
    return 1e-14 * sum(map(abs, values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted so that one false alarm among all is as rare as one alone was.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), pp. 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def runs_needed(effect: float, *, paired: bool, alpha: float, power: float = 0.8) -> int | None:
    """Return how many runs per side detect a drop of ``effect`` standard deviations; None: over a million.

    One-sided at ``alpha``. ``effect`` counts in standard deviations of one run, for pairs of one difference.
    At least 2 runs per side, 3 pairs: fewer are not tested.
    """
    limit = 1_000_000

    def enough(n: int) -> bool:
        df, root = (n - 1, math.sqrt(n)) if paired else (2 * n - 2, math.sqrt(n / 2))
        return _noncentrality(df, alpha, power) <= effect * root

    low = 3 if paired else 2
    if enough(low):
        return low
    high = low
    while not enough(high):
        low, high = high, high * 2
        if high > limit:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@functools.lru_cache(maxsize=4096)
def _noncentrality(df: int, alpha: float, power: float) -> float:
    """Return the noncentrality at which a one-sided t test has that power.

    Source: the normal approximation to the noncentral t, Abramowitz and Stegun 26.7.10; within 1 % here.
    """
    t = t_quantile(alpha, df)
    return t * (1 - 1 / (4 * df)) + normal_quantile(1 - power) * math.sqrt(1 + t * t / (2 * df))


def wilson(successes: int, count: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval for a proportion, count >= 1.

    Source: E. B. Wilson, JASA 22 (1927), pp. 209-212.
    """
    z, p = normal_quantile((1 - confidence) / 2), successes / count
    centre = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == count else (centre + half) / scale
    return low, high


def newcombe(head: tuple[int, int], base: tuple[int, int], confidence: float) -> tuple[float, float]:
    """Return an interval for the difference of two proportions, each given as (successes, count).

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998), pp. 873-890, method 10.
    """
    p_h, p_b = head[0] / head[1], base[0] / base[1]
    (low_h, high_h), (low_b, high_b) = wilson(*head, confidence), wilson(*base, confidence)
    low = p_h - p_b - math.hypot(p_h - low_h, high_b - p_b)
    high = p_h - p_b + math.hypot(high_h - p_h, p_b - low_b)
    return max(-1.0, low), min(1.0, high)


def mcnemar_p(only_head: int, only_base: int) -> float:
    """Return the exact p that head is right less often, from the examples on which just one side is right."""
    return binomial_tail(only_base, only_head + only_base)


def bootstrap_interval(
    head: Sequence[float], base: Sequence[float], confidence: float, *, keys: Sequence[str], resamples: int = 9999
) -> tuple[float, float]:
    """Return the paired BCa bootstrap interval for the mean of head[i] - base[i], one pair per example.

    Args:
        keys: the trials' keys; they seed the generator, so that a rerun gives the same interval.

    Raises:
        UserError: scipy is not installed.
    """
    try:
        import numpy as np
        from scipy import stats
    except ModuleNotFoundError as error:
        raise UserError(
            f"per-example intervals need the module `{error.name}`; "
            "install it with `pip install 'gitops-ml[statistics]'`"
        ) from error
    differences = np.asarray(head, dtype=float) - np.asarray(base, dtype=float)
    if (differences == differences[0]).all():
        return float(differences[0]), float(differences[0])
    seed = int.from_bytes(hashlib.sha256("\n".join(keys).encode()).digest()[:8])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(differences)),
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _t_test(
    method: str, difference: float, error: float, df: float, noise: float, confidence: float, exponent: int
) -> Test:
    half = t_quantile((1 - confidence) / 2, df) * error
    # The spread of one side can vanish beside the size of the other (1e160 against 0 and 1).
    t = difference / error if error else math.copysign(math.inf, difference) if difference else 0.0
    return Test(
        method,
        _ldexp(difference, exponent),
        _ldexp(difference - half, exponent),
        _ldexp(difference + half, exponent),
        t_tail(-t, df),
        t_tail(t, df),
        _ldexp(noise, exponent),
    )


def _moments(values: Sequence[float]) -> tuple[float, float]:
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum([(value - mean) ** 2 for value in values]) / (n - 1))


def _scaled(*samples: Sequence[float]) -> tuple[int, list[Sequence[float]]]:
    """Return the samples divided by one power of two, which is exact, where squares could over- or underflow."""
    largest = max(max(map(abs, sample)) for sample in samples)
    if 1e-60 < largest < 1e60 or largest == 0:
        return 0, list(samples)
    exponent = math.frexp(largest)[1]
    return exponent, [[math.ldexp(value, -exponent) for value in sample] for sample in samples]


def _ldexp(value: float, exponent: int) -> float:
    if exponent == 0:
        return value
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)

"""Tests and intervals against scipy's, and at the edges of what a double holds."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from gitops_ml import stats
from gitops_ml.stats import Noise

VALUES = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
EXTREME = st.floats(allow_nan=False, allow_infinity=False)
CONFIDENCE = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    return st.integers(low, high).flatmap(
        lambda n: st.tuples(st.lists(VALUES, min_size=n, max_size=n), st.lists(VALUES, min_size=n, max_size=n))
    )


def varies(*samples: list[float]) -> None:
    """A spread that rounding did not make; the differences of nearly equal numbers are no test of a formula."""
    for sample in samples:
        assume(np.std(sample) > 1e-3)


@given(pairs(2, 12), CONFIDENCE)
def test_paired_t__any_pairs__as_scipy(samples: tuple[list[float], list[float]], confidence: float) -> None:
    head, base = samples
    varies([h - b for h, b in zip(head, base, strict=True)])
    found, expected = stats.paired_t(head, base, confidence), scipy.stats.ttest_rel(head, base, alternative="less")
    interval = scipy.stats.ttest_rel(head, base).confidence_interval(confidence)

    assert found.p_below == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
    assert found.p_below + found.p_above == pytest.approx(1, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)


@given(pairs(2, 12), CONFIDENCE)
def test_welch_t__sides_of_equal_size__as_scipy(samples: tuple[list[float], list[float]], confidence: float) -> None:
    head, base = samples
    varies(head, base)
    found = stats.welch_t(head, base, confidence)
    expected = scipy.stats.ttest_ind(head, base, equal_var=False, alternative="less")
    interval = scipy.stats.ttest_ind(head, base, equal_var=False).confidence_interval(confidence)

    assert found.p_below == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)


@given(st.lists(VALUES, min_size=2, max_size=6), st.lists(VALUES, min_size=7, max_size=12))
def test_welch_t__sides_of_unequal_size__never_surer_than_scipy(head: list[float], base: list[float]) -> None:
    varies(head, base)
    found = stats.welch_t(head, base, 0.9)
    interval = scipy.stats.ttest_ind(head, base, equal_var=False).confidence_interval(0.9)

    assert found.high - found.low >= (interval.high - interval.low) * (1 - 1e-9)


@given(st.lists(VALUES, min_size=3, max_size=12), VALUES, CONFIDENCE)
def test_prediction_t__one_against_many__is_the_prediction_interval(
    many: list[float], one: float, confidence: float
) -> None:
    varies(many)
    found = stats.prediction_t([one], many, confidence)
    n, sd = len(many), np.std(many, ddof=1)
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * sd * math.sqrt(1 + 1 / n)
    mirrored = stats.prediction_t(many, [one], confidence)

    assert (found.low, found.high) == pytest.approx(
        (one - np.mean(many) - half, one - np.mean(many) + half), rel=1e-9, abs=1e-9
    )
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), rel=1e-12, abs=1e-12)


def test_pooled_t__one_run_per_side__rests_on_the_earlier_noise() -> None:
    found = stats.pooled_t([0.5], [2.0], Noise(0.5, 20), 0.9)
    half = scipy.stats.t.ppf(0.95, 20) * 0.5 * math.sqrt(2)

    assert (found.low, found.high) == pytest.approx((-1.5 - half, -1.5 + half))


@given(st.lists(VALUES, min_size=2, max_size=5), st.lists(VALUES, min_size=2, max_size=5))
def test_pooled_t__no_earlier_noise__is_students_t(head: list[float], base: list[float]) -> None:
    varies(head, base)
    found = stats.pooled_t(head, base, Noise(0.0, 0), 0.9)
    expected = scipy.stats.ttest_ind(head, base, alternative="less")

    assert found.p_below == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)


def test_pool__groups_of_three__weighs_by_degrees_of_freedom() -> None:
    groups = [[1.0, 2.0, 3.0], [10.0, 14.0], *[[0.0, 1.0, 2.0]] * 4]
    squares = 2 * 1 + 8 + 4 * 2

    assert stats.pool(groups) == Noise(pytest.approx(math.sqrt(squares / 11)), 11)


@pytest.mark.parametrize("groups", [[], [[1.0]], [[1.0, 2.0]] * 9, [[1.0, 1.0]] * 20])
def test_pool__too_little_or_no_noise__is_none(groups: list[list[float]]) -> None:
    assert stats.pool(groups) is None


@given(st.lists(VALUES, min_size=2, max_size=4), st.lists(VALUES, min_size=2, max_size=4))
def test_permutation_p__small_sides__as_counted_by_scipy(head: list[float], base: list[float]) -> None:
    expected = scipy.stats.permutation_test(
        (np.round(head, 6), np.round(base, 6)),
        lambda a, b: round(math.fsum(a) / len(a) - math.fsum(b) / len(b), 9),
        permutation_type="independent",
        n_resamples=np.inf,
        alternative="less",
    )
    assert stats.permutation_p(head, base) == pytest.approx(expected.pvalue, abs=1e-12)


@given(pairs(2, 6))
def test_sign_flip_p__pairs__counts_all_signs(samples: tuple[list[float], list[float]]) -> None:
    head, base = samples
    differences = [round(h - b, 6) for h, b in zip(head, base, strict=True)]
    totals = [
        round(math.fsum(s * d for s, d in zip(signs, differences, strict=True)), 5)
        for signs in itertools.product((1, -1), repeat=len(head))
    ]
    expected = sum(total <= round(math.fsum(differences), 5) for total in totals) / len(totals)

    assert stats.sign_flip_p(head, base) == pytest.approx(expected, abs=2.1 / len(totals) if expected == 1 else 1e-12)


def test_exact_tests__clear_difference__reach_their_floors() -> None:
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 13.0, 15.0, 17.0, 19.0]

    assert stats.permutation_p(low[:3], high[:3]) == 1 / 20
    assert stats.permutation_p(low, high) == 1 / 252
    assert stats.sign_flip_p(low, high) == 1 / 32


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm__any_p_values__rejects_as_the_step_down_procedure(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    alpha, rejected = 0.05, set()
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        if p_values[index] * (len(order) - rank) > alpha:
            break
        rejected.add(index)

    assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))


def test_holm__known_values__as_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.integers(0, 300), st.integers(1, 300), CONFIDENCE)
def test_wilson__any_count__as_scipy(successes: int, more: int, confidence: float) -> None:
    count = successes + more
    expected = scipy.stats.binomtest(successes, count).proportion_ci(confidence, "wilson")

    assert stats.wilson(successes, count, confidence) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_newcombe__published_example__as_published() -> None:
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339."""
    assert stats.newcombe((56, 70), (48, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_p__discordant_pairs__as_the_binomial_test(only_head: int, only_base: int) -> None:
    assume(only_head + only_base > 0)
    expected = scipy.stats.binomtest(only_head, only_head + only_base, 0.5, alternative="less").pvalue

    assert stats.mcnemar_p(only_head, only_base) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("paired", "noise", "expected"),
    [(False, 1.0, [51, 14, 7, 4, 3]), (True, math.sqrt(0.6), [17, 6, 4, 3, 3])],
)
def test_runs_needed__drops_of_half_to_three_sd__as_the_reference_table(
    paired: bool, noise: float, expected: list[int]
) -> None:
    drops = [0.5, 1, 1.5, 2, 3]

    assert [stats.runs_needed(drop / noise, paired=paired, alpha=0.05) for drop in drops] == expected


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("effect", [0.2, 0.7, 1.3, 2.6])
def test_runs_needed__power_by_noncentral_t__is_about_80_percent(effect: float, paired: bool) -> None:
    n = stats.runs_needed(effect, paired=paired, alpha=0.05)
    assert n is not None
    df, root = (n - 1, math.sqrt(n)) if paired else (2 * n - 2, math.sqrt(n / 2))

    assert scipy.stats.nct.sf(scipy.stats.t.isf(0.05, df), df, effect * root) >= 0.79


def test_runs_needed__hopeless__is_none() -> None:
    assert stats.runs_needed(1e-6, paired=False, alpha=0.05) is None


def test_bootstrap_interval__same_keys__is_the_same_every_time() -> None:
    head = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0] * 5
    base = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 5
    first = stats.bootstrap_interval(head, base, 0.9, keys=("a", "b"), resamples=499)

    assert stats.bootstrap_interval(head, base, 0.9, keys=("a", "b"), resamples=499) == first
    assert first[0] < -0.25 < first[1] < 0


def test_bootstrap_interval__equal_examples__is_exact() -> None:
    assert stats.bootstrap_interval([1.0, 0.5], [1.0, 0.5], 0.9, keys=("a",)) == (0.0, 0.0)


@given(st.lists(EXTREME, min_size=1, max_size=8))
def test_moments__any_doubles__no_overflow_on_the_way(values: list[float]) -> None:
    found = stats.moments(values)

    assert found.mean is not None
    assert min(values) <= found.mean * (1 + 1e-15) or found.mean >= min(values)
    assert math.isfinite(found.mean)
    assert found.sd is None or found.sd >= 0


def test_moments__equal_values__no_spread_by_rounding() -> None:
    assert stats.moments([0.1, 0.1, 0.1]) == stats.Moments(3, 0.1, 0.0)
    assert stats.moments([0.1]) == stats.Moments(1, 0.1, None)
    assert stats.moments([]) == stats.Moments(0, None, None)


@given(st.integers(-1000, 1000), pairs(3, 5))
def test_welch_t__values_scaled_by_a_power_of_two__same_p(
    exponent: int, samples: tuple[list[float], list[float]]
) -> None:
    head, base = samples
    varies(head, base)
    scaled = [[math.ldexp(value, exponent) for value in sample] for sample in samples]
    assume(all(value == 0 or 1e-300 < abs(value) < 1e300 for sample in scaled for value in sample))
    plain, other = stats.welch_t(head, base, 0.9), stats.welch_t(*scaled, 0.9)

    assert other.p_below == pytest.approx(plain.p_below, rel=1e-12)


@given(st.lists(EXTREME, min_size=3, max_size=5), st.lists(EXTREME, min_size=3, max_size=5))
def test_tests__any_doubles__give_probabilities(head: list[float], base: list[float]) -> None:
    assume(min(head) != max(head))
    assume(min(base) != max(base))
    for found in (stats.welch_t(head, base, 0.9), stats.prediction_t(head[:1], base, 0.9)):
        assert 0 <= found.p_below <= 1
        assert 0 <= found.p_above <= 1
        assert not math.isnan(found.low)
    assert 0 < stats.permutation_p(head, base) <= 1


def test_welch_t__100000_runs_per_side__as_scipy() -> None:
    draw = np.random.default_rng(1)
    head, base = draw.normal(0, 1, 100_000).tolist(), draw.normal(0.01, 2, 100_000).tolist()
    expected = scipy.stats.ttest_ind(head, base, equal_var=False, alternative="less").pvalue

    assert stats.welch_t(head, base, 0.9).p_below == pytest.approx(expected, rel=1e-9)

"""Our probabilities against scipy's."""

import math

import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.distributions import binomial_tail, incomplete_beta, normal_quantile, normal_tail, t_quantile, t_tail

DEGREES = st.floats(1, 1e7)


# Nearer to 0 scipy says 0.5, since the square of t is lost there; ``test_t_tail__tiny_deviate`` has the exact value.
@given(st.floats(-40, 1e6).filter(lambda t: t == 0 or abs(t) > 1e-5), DEGREES)
def test_t_tail__any_deviate__as_scipy(t: float, df: float) -> None:
    assert t_tail(t, df) == pytest.approx(scipy.stats.t.sf(t, df), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("t", [1e-12, 1e-9, 1e-6, 1e-3])
def test_t_tail__tiny_deviate__as_the_cauchy_distribution(t: float) -> None:
    assert 0.5 - t_tail(t, 1.0) == pytest.approx(math.atan(t) / math.pi, abs=1e-16)


@given(st.floats(1e-12, 1 - 1e-6).filter(lambda tail: abs(tail - 0.5) > 1e-5), DEGREES)
def test_t_quantile__any_tail__as_scipy(tail: float, df: float) -> None:
    assert t_quantile(tail, df) == pytest.approx(scipy.stats.t.isf(tail, df), rel=1e-10, abs=1e-10)


@given(st.floats(0.5, 1000), st.floats(0.5, 1000), st.floats(0, 1))
def test_incomplete_beta__any_argument__as_scipy(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9, abs=1e-12)


@given(st.floats(1e-300, 1 - 1e-9))
def test_normal_quantile__any_tail__as_scipy(tail: float) -> None:
    assert normal_quantile(tail) == pytest.approx(scipy.stats.norm.isf(tail), rel=1e-10, abs=1e-10)


@given(st.integers(0, 400), st.integers(0, 400))
def test_binomial_tail__any_count__as_scipy(successes: int, more: int) -> None:
    trials = successes + more
    assert binomial_tail(successes, trials) == pytest.approx(scipy.stats.binom.sf(successes - 1, trials, 0.5), rel=1e-9)


@pytest.mark.parametrize("t", [0.0, 1e-300, 1.0, 1e150, 1e300, math.inf])
@pytest.mark.parametrize("df", [1.0, 2.5, 1e6, 1e15, math.inf])
def test_t_tail__extreme__is_a_probability(t: float, df: float) -> None:
    assert 0 <= t_tail(t, df) <= 0.5
    assert t_tail(-t, df) == 1 - t_tail(t, df)


def test_t_tail__infinitely_many_degrees__is_normal() -> None:
    assert t_tail(1.96, math.inf) == normal_tail(1.96)
    assert t_quantile(0.05, math.inf) == normal_quantile(0.05)

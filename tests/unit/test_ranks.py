"""Rank tests against scipy's, to 1e-10."""

import random

import pytest
from scipy import stats as oracle

from gitops_ml.ranks import mann_whitney_p, pairs_above, signed_rank_p, superiority

SIZES = [(10, 10), (10, 13), (25, 12), (40, 40)]


def draws(seed: int, *sizes: int, shift: float, digits: int) -> list[list[float]]:
    draw = random.Random(seed)
    return [[round(draw.gauss(shift * index, 1), digits) for _ in range(size)] for index, size in enumerate(sizes)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shift", [-1.5, -0.2, 0.0, 0.7])
@pytest.mark.parametrize(("digits", "method"), [(12, "exact"), (1, "asymptotic")])
def test_mann_whitney_p__agrees_with_scipy(sizes, shift, digits, method):
    for seed in range(5):
        base, head = draws(seed, *sizes, shift=shift, digits=digits)
        wanted = oracle.mannwhitneyu(head, base, alternative="less", method=method)

        assert mann_whitney_p(head, base) == pytest.approx(wanted.pvalue, abs=1e-10)
        assert superiority(head, base) == pytest.approx(wanted.statistic / (len(head) * len(base)), abs=1e-12)


def test_mann_whitney_p__more_than_are_counted__agrees_with_scipy():
    base, head = draws(1, 60, 60, shift=-0.3, digits=12)

    wanted = oracle.mannwhitneyu(head, base, alternative="less", method="asymptotic").pvalue
    assert mann_whitney_p(head, base) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("size", [10, 20, 50])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.4])
@pytest.mark.parametrize("digits", [12, 1])
def test_signed_rank_p__agrees_with_scipy(size, shift, digits):
    for seed in range(5):
        base, head = draws(seed, size, size, shift=shift, digits=digits)
        # Rounded, so that those of 0.3 - 0.1 and 0.4 - 0.2 are equal.
        differences = [difference for h, b in zip(head, base, strict=True) if (difference := round(h - b, digits))]
        ties = len({abs(difference) for difference in differences}) < len(differences)
        wanted = oracle.wilcoxon(differences, alternative="less", method="asymptotic" if ties else "exact")

        assert signed_rank_p(differences, [0.0] * len(differences)) == pytest.approx(wanted.pvalue, abs=1e-10)


def test_signed_rank_p__more_than_are_counted__agrees_with_scipy():
    base, head = draws(1, 80, 80, shift=-0.3, digits=12)

    wanted = oracle.wilcoxon(head, base, alternative="less", method="asymptotic").pvalue
    assert signed_rank_p(head, base) == pytest.approx(wanted, abs=1e-10)


def test_pairs_above__ties__count_half():
    assert pairs_above([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 3.0]) == 0.625

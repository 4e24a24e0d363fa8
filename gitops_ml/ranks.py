"""Rank tests in plain Python: what a comparison of many runs says beside the t test, without trusting its shape.

All p values are one-sided: small when head is below base. scipy is the oracle in the tests.
"""

import functools
import itertools
import math
from collections.abc import Sequence

from gitops_ml.distributions import normal_tail

_EXACT_PRODUCT = 2500
"""Product of the sides' sizes up to which all orders are counted."""
_EXACT_PAIRS = 50


def mann_whitney_p(head: Sequence[float], base: Sequence[float]) -> float:
    """Return the p that head is below base: exact without ties, else by the normal approximation.

    Source: H. B. Mann and D. R. Whitney, Annals of Mathematical Statistics 18 (1947), pp. 50-60.
    """
    n, m = len(head), len(base)
    ranks, ties = _ranks([*head, *base])
    u = math.fsum(ranks[:n]) - n * (n + 1) / 2
    if not ties and n * m <= _EXACT_PRODUCT:
        counts = _orders(min(n, m), max(n, m))
        return sum(counts[: round(u) + 1]) / sum(counts)
    size = n + m
    variance = n * m / 12 * (size + 1 - math.fsum(t**3 - t for t in ties) / (size * (size - 1)))
    # Half a step towards the middle, because u comes in steps.
    return 1.0 if variance <= 0 else min(1.0, normal_tail(-(u + 0.5 - n * m / 2) / math.sqrt(variance)))


def signed_rank_p(head: Sequence[float], base: Sequence[float]) -> float:
    """Return Wilcoxon's p that head is below base in pairs; those without a difference say nothing.

    Exact without ties, else by the normal approximation.

    Source: F. Wilcoxon, Biometrics Bulletin 1 (1945), pp. 80-83.
    """
    differences = [h - b for h, b in zip(head, base, strict=True) if h != b]
    n = len(differences)
    ranks, ties = _ranks([abs(difference) for difference in differences])
    w = math.fsum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    if not ties and n <= _EXACT_PAIRS:
        counts = _signs(n)
        return sum(counts[: round(w) + 1]) / sum(counts)
    variance = n * (n + 1) * (2 * n + 1) / 24 - math.fsum(t**3 - t for t in ties) / 48
    return normal_tail(-(w - n * (n + 1) / 4) / math.sqrt(variance))


def superiority(head: Sequence[float], base: Sequence[float]) -> float:
    """Return how probable it is that a run of head lies above one of base, a tie counted half."""
    n = len(head)
    ranks, _ = _ranks([*head, *base])
    return (math.fsum(ranks[:n]) - n * (n + 1) / 2) / (n * len(base))


def pairs_above(head: Sequence[float], base: Sequence[float]) -> float:
    """Return the share of pairs in which head lies above base, a tie counted half."""
    return sum((h > b) + (h == b) / 2 for h, b in zip(head, base, strict=True)) / len(head)


def _ranks(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return each value's rank from 1, equal ones sharing their mean, and the sizes of the groups of equal ones."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, ties, first = [0.0] * len(values), [], 1
    for _, group in itertools.groupby(order, key=values.__getitem__):
        members = list(group)
        for member in members:
            ranks[member] = first + (len(members) - 1) / 2
        if len(members) > 1:
            ties.append(len(members))
        first += len(members)
    return ranks, ties


@functools.lru_cache(maxsize=64)
def _orders(n: int, m: int) -> list[int]:
    """Return how many orders of n and m values give each u: the coefficients of a Gaussian binomial."""
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):  # times (1 - q^(m+i))
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):  # divided by (1 - q^i)
            counts[u] += counts[u - i]
    return counts


@functools.lru_cache(maxsize=64)
def _signs(n: int) -> list[int]:
    """Return how many choices of signs of the ranks 1 to n give each sum of the positive ones."""
    counts = [1]
    for rank in range(1, n + 1):
        shifted = [0] * rank + counts
        counts = [a + b for a, b in itertools.zip_longest(counts, shifted, fillvalue=0)]
    return counts

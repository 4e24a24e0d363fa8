"""Normal, Student's t and binomial probabilities in plain Python, to about 1e-13 of scipy.

``import scipy.stats`` costs a second; a comparison needs a few of these numbers per metric.
Tails are upper tails, so that small probabilities keep their digits.
"""

import functools
import math

_SQRT_PI = math.sqrt(math.pi)


def normal_tail(z: float) -> float:
    """Return P(Z > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))


@functools.lru_cache(maxsize=1024)
def normal_quantile(tail: float) -> float:
    """Return the z with P(Z > z) = ``tail``, 0 < tail < 1."""
    if tail > 0.5:
        return -normal_quantile(1 - tail)
    # Abramowitz and Stegun 26.2.23 is within 4.5e-4; Newton does the rest.
    r = math.sqrt(-2 * math.log(tail))
    z = r - (2.515517 + r * (0.802853 + r * 0.010328)) / (1 + r * (1.432788 + r * (0.189269 + r * 0.001308)))
    for _ in range(4):
        density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        z += (normal_tail(z) - tail) / density
    return z


def t_tail(t: float, df: float) -> float:
    """Return P(T > t) for Student's t with ``df`` degrees of freedom (df >= 1, may be infinite)."""
    if t < 0:
        return 1 - t_tail(-t, df)
    if math.isinf(df):
        return normal_tail(t)
    if math.isinf(t):
        return 0.0
    a, u = df / 2, t / math.sqrt(df)
    if df > 10_000:
        return normal_tail(_hill(df, u))
    # P(T > t) = I_x(df/2, 1/2) / 2 with x = 1/(1+u^2); y = 1-x is kept apart, it may be tiny.
    x = 1 / (1 + u * u)
    y = u * u * x if u < 1e100 else 1.0
    front = math.exp(-a * _log1p_square(u)) * math.sqrt(y) * _gamma_ratio(a) / _SQRT_PI
    if x < (a + 1) / (a + 2.5):
        return 0.5 * front / a * _beta_fraction(a, 0.5, x)
    return 0.5 - front * _beta_fraction(0.5, a, y)


@functools.lru_cache(maxsize=4096)
def t_quantile(tail: float, df: float) -> float:
    """Return the t with P(T > t) = ``tail``, 0 < tail < 1."""
    if tail > 0.5:
        return -t_quantile(1 - tail, df)
    if math.isinf(df):
        return normal_quantile(tail)
    constant = _gamma_ratio(df / 2) / _SQRT_PI / math.sqrt(df)

    def density(t: float) -> float:
        return constant * math.exp(-(df + 1) / 2 * _log1p_square(t / math.sqrt(df)))

    if tail > 0.4:
        # Near the middle the tail is convex and falling: Newton from 0 cannot overshoot.
        t = 0.0
        for _ in range(60):
            step = (t_tail(t, df) - tail) / density(t)
            t += step
            if abs(step) <= 1e-15 * t:
                break
        return t
    # log tail against log t is concave and falling for every df: Newton converges from anywhere.
    t = normal_quantile(tail)
    t += (t**3 + t) / (4 * df)
    for _ in range(100):
        p = t_tail(t, df)
        step = math.log(p / tail) * p / (density(t) * t)
        t *= math.exp(step)
        if abs(step) <= 1e-15:
            break
    return t


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), a, b > 0, 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def binomial_tail(successes: int, trials: int, probability: float = 0.5) -> float:
    """Return P(X >= successes)."""
    if successes <= 0:
        return 1.0
    if successes > trials:
        return 0.0
    return incomplete_beta(successes, trials - successes + 1, probability)


def _hill(df: float, u: float) -> float:
    """Return the normal deviate that is as far out as t = u * sqrt(df).

    The fraction below loses digits as x nears 1; from 10,000 degrees of freedom on this is exact to rounding.

    Source: G. W. Hill, Communications of the ACM 13 (1970), algorithm 395.
    """
    w = math.sqrt((df - 0.5) * _log1p_square(u))
    if w > 40:
        return w
    b = 48 * (df - 0.5) ** 2
    return w + (w**3 + 3 * w) / b - (4 * w**7 + 33 * w**5 + 240 * w**3 + 855 * w) / (10 * b * (b + 0.8 * w**4 + 100))


def _log1p_square(u: float) -> float:
    """Return log(1 + u^2) without overflow."""
    return 2 * math.log(u) if u > 1e100 else math.log1p(u * u)


def _gamma_ratio(a: float) -> float:
    """Return gamma(a + 1/2) / gamma(a)."""
    if a < 80:
        return math.gamma(a + 0.5) / math.gamma(a)
    r = 1 / a
    return math.sqrt(a) * (1 + r * (-1 / 8 + r * (1 / 128 + r * (5 / 1024 + r * (-21 / 32768 - r * 399 / 262144)))))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method.

    Source: DLMF 8.17.22; W. J. Lentz, Applied Optics 15 (1976), pp. 668-671.
    """
    tiny = 1e-300
    c = 1.0
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 + even * d
        c = 1 + even / c
        d = 1 / (d if abs(d) > tiny else tiny)
        c = c if abs(c) > tiny else tiny
        result *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 + odd * d
        c = 1 + odd / c
        d = 1 / (d if abs(d) > tiny else tiny)
        c = c if abs(c) > tiny else tiny
        result *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return result

"""Error rates of every rule, by simulation through the real verdicts: ``python -m bench.bench_statistics``.

Normal noise with a standard deviation of 1 per run, one-sided 5 % (confidence 0.9), no tolerance, one gated metric
unless said otherwise. False alarms must be at most 3 standard errors above the nominal rate; power must be at most
3 standard errors below the rates of the reference table (20,000 repeats each, rounded to 0.01). A sweep is judged by
whole plans, without and with confirmation on fresh seeds. Fixed seed: every run prints the same. Ends with 1 when a
line fails.
"""

import dataclasses
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence

from gitops_ml.comparison import compare
from gitops_ml.spec import CompareRule, Gate, Goal, Sweep, Track
from gitops_ml.stats import Noise, pool
from gitops_ml.verdicts import GateResult, Sample, Setting, Side, Verdict, judge
from tests.fakes import runs

REPEATS = 4000
SWEEP_REPEATS = 2000
TABLE_REPEATS = 20_000
NOMINAL = 0.05
RULE = CompareRule(confidence=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """How many runs stand on each side, and what is known of them besides."""

    name: str
    base: int
    head: int
    shared: float = 0.0
    """Share of the variance that the two runs of one seed have in common; with any, the seeds match."""
    pooled: bool = False
    """Noise is known from 10 earlier groups of 3 runs."""
    metrics: int = 1
    untested: bool = False
    """Nothing may be called worse at all."""
    power: tuple[float | None, float | None, float | None] = (None, None, None)
    """The least rate of `worse` at a true drop of 1, 2 and 3 standard deviations."""


DESIGNS = (
    Design(name="1 v 1", base=1, head=1, untested=True),
    Design(name="2 v 1", base=2, head=1, untested=True),
    Design(name="1 v 1, pooled noise", base=1, head=1, pooled=True, power=(None, 0.39, None)),
    Design(name="3 v 1, prediction interval", base=3, head=1, power=(0.15, 0.32, 0.53)),
    Design(name="1 v 3, prediction interval", base=1, head=3, power=(0.15, 0.32, 0.53)),
    Design(name="10 v 1, prediction interval", base=10, head=1, power=(0.22, 0.54, 0.84)),
    Design(name="3 v 1, pooled noise", base=3, head=1, pooled=True, power=(None, 0.51, None)),
    Design(name="3 v 3, Welch t", base=3, head=3, power=(0.23, 0.58, 0.87)),
    Design(name="3 v 3, pooled noise", base=3, head=3, pooled=True, power=(None, 0.77, None)),
    Design(name="3 v 3, paired t", base=3, head=3, shared=0.7),
    Design(name="5 v 5, Welch t", base=5, head=5, power=(0.40, 0.88, 1.0)),
    Design(name="5 v 5, pooled noise", base=5, head=5, pooled=True),
    Design(name="10 v 3, Welch t", base=10, head=3),
    Design(name="5 v 5, paired t", base=5, head=5, shared=0.7, power=(0.77, 1.0, 1.0)),
    Design(name="2 v 2, Welch t", base=2, head=2),
    Design(name="2 v 10, Welch t", base=2, head=10),
    Design(name="3 v 10, Welch t", base=3, head=10),
    Design(name="10 v 10, Welch t", base=10, head=10, power=(0.70, 1.0, 1.0)),
    Design(name="10 v 10, paired t", base=10, head=10, shared=0.7),
    Design(name="20 metrics, 1 v 1", base=1, head=1, metrics=20, untested=True),
    Design(name="20 metrics, 1 v 1, pooled noise", base=1, head=1, pooled=True, metrics=20),
    Design(name="20 metrics, 3 v 1, prediction", base=3, head=1, metrics=20),
    Design(name="20 metrics, 3 v 3, Welch t", base=3, head=3, metrics=20),
    Design(name="20 metrics, 5 v 5, paired t", base=5, head=5, shared=0.7, metrics=20),
    Design(name="20 metrics, 5 v 5, Welch t", base=5, head=5, metrics=20),
    Design(name="20 metrics, 10 v 10, Welch t", base=10, head=10, metrics=20),
    Design(name="20 metrics, 10 v 10, paired t", base=10, head=10, shared=0.7, metrics=20),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """How often at least one metric was called worse or better, and a gate failed."""

    worse: float
    better: float
    failed: float
    repeats: int


def simulate(design: Design, drop: float, repeats: int, seed: int = 1) -> Rates:
    """Return how a change that lowers every metric by ``drop`` standard deviations is judged."""
    draw = random.Random(f"{design.name} {drop} {seed}").gauss
    tracks = [Track(name=f"m{i}", goal=Goal.MAXIMIZE, gate=Gate.FAIL) for i in range(design.metrics)]
    worse = better = failed = 0
    for _ in range(repeats):
        sides = [_sides(design, drop, draw) for _ in tracks]
        noise = {track.name: _earlier(draw) for track in tracks} if design.pooled else {}
        found = judge(tracks, sides, Setting(rule=RULE, noise=noise))
        worse += any(metric.verdict is Verdict.WORSE for metric in found)
        better += any(metric.verdict is Verdict.BETTER for metric in found)
        failed += any(metric.gate is GateResult.FAIL for metric in found)
    return Rates(worse=worse / repeats, better=better / repeats, failed=failed / repeats, repeats=repeats)


def _sides(design: Design, drop: float, draw: Callable[[float, float], float]) -> tuple[Side, Side]:
    common = [draw(0, math.sqrt(design.shared)) if design.shared else 0.0 for _ in range(max(design.base, design.head))]
    own = math.sqrt(1 - design.shared)
    base = [common[i] + draw(0, own) for i in range(design.base)]
    head = [common[i] + draw(0, own) - drop for i in range(design.head)]
    # Without common noise the seeds do not match either, so that nothing is paired.
    return _side(base, 0), _side(head, 0 if design.shared else 100)


def _side(values: Sequence[float], first: int) -> Side:
    return Side.of([Sample(seed=seed, repeat=0, key="", value=value) for seed, value in enumerate(values, first)])


def _earlier(draw: Callable[[float, float], float]) -> Noise:
    noise = pool([[mean + draw(0, 1) for _ in range(3)] for mean in range(10)])
    assert noise is not None
    return noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One claim: the rate that was found, and the limit that it keeps or not."""

    design: str
    what: str
    rate: float
    limit: str
    ok: bool


def lines(designs: Sequence[Design] = DESIGNS, repeats: int = REPEATS) -> Iterator[Line]:
    """Yield every claim with what was found."""
    for design in designs:
        count = repeats // 2 if design.metrics > 1 else repeats
        for drop in (0.0, 1.0, 2.0, 3.0):
            if drop and not design.untested and design.power[int(drop) - 1] is None:
                continue
            rates = simulate(design, drop, count)
            if design.untested:
                ok = rates.worse == 0 and rates.failed == 0
                yield Line(design=design.name, what=f"worse at {drop:g} sd", rate=rates.worse, limit="= 0", ok=ok)
            elif drop == 0:
                most = NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / count)
                for what, rate in (
                    ("false worse", rates.worse),
                    ("false better", rates.better),
                    ("gate", rates.failed),
                ):
                    yield Line(design=design.name, what=what, rate=rate, limit=f"<= {most:.3f}", ok=rate <= most)
            else:
                expected = design.power[int(drop) - 1]
                assert expected is not None
                rounded = expected - 0.005
                least = rounded - 3 * math.sqrt(rounded * (1 - rounded) * (1 / count + 1 / TABLE_REPEATS))
                yield Line(
                    design=design.name,
                    what=f"power at {drop:g} sd",
                    rate=rates.worse,
                    limit=f">= {least:.3f}",
                    ok=rates.worse >= least,
                )


def sweep_lines(repeats: int = SWEEP_REPEATS) -> Iterator[Line]:
    """Yield what becomes of the best of ten equal points, against one baseline and against the best of ten."""
    for confirm in (0, 3):
        for base_points in (1, 10):
            name = f"best of 10 v best of {base_points}" + (", confirmed" if confirm else "")
            draw = random.Random(name).gauss
            found = [_sweep_verdict(draw, base_points, confirm) for _ in range(repeats)]
            for verdict in (Verdict.BETTER, Verdict.WORSE):
                rate = found.count(verdict) / repeats
                most = NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / repeats)
                limit, ok = (
                    ("= 0", rate == 0)
                    if verdict is Verdict.BETTER and not confirm
                    else (f"<= {most:.3f}", rate <= most)
                )
                yield Line(design=name, what=f"false {verdict}", rate=rate, limit=limit, ok=ok)


def _sweep_verdict(draw: Callable[[float, float], float], base_points: int, confirm: int) -> Verdict:
    """Return the verdict on a sweep of ten points that are all as good as the baseline, three seeds each."""
    track = Track(name="m", goal=Goal.MAXIMIZE, gate=Gate.FAIL)
    seeds = tuple(range(100, 100 + confirm))
    spec = runs.experiment(track, compare=RULE, seeds=(0, 1, 2), sweep=Sweep(list=(), confirm=seeds))
    world = runs.World(spec)
    for side, points in (("base", base_points), ("head", 10)):
        means = []
        for point in range(points):
            values = [draw(0, 1) for _ in spec.seeds]
            means.append(math.fsum(values))
            for seed, value in zip(spec.seeds, values, strict=True):
                world.add(side, {"m": value}, seed, point={"p": point} if points > 1 else None)
        if points > 1:
            best = {"p": max(range(points), key=means.__getitem__)}
            for seed in seeds:
                world.add(side, {"m": draw(0, 1)}, seed, point=best, confirms=True)
    (found,) = compare(world.plan(), world.records, world.attempts).experiments
    return found.metrics[0].verdict


def main() -> int:
    """Print every claim, and return 1 if one does not hold."""
    broken = 0
    print(f"{'rule':34} {'what':16} {'found':>7}  limit")
    for line in (*lines(), *sweep_lines()):
        broken += not line.ok
        print(
            f"{line.design:34} {line.what:16} {line.rate:7.4f}  {line.limit}{'' if line.ok else '  BROKEN'}", flush=True
        )
    print(f"{broken} claims broken" if broken else "all claims hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

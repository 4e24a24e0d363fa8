"""Comparisons built by hand, for everything that shows one."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

from gitops_ml.comparison import (
    Change,
    Comparison,
    Cost,
    Curves,
    ExperimentComparison,
    GateResult,
    MetricComparison,
    PointComparison,
    Sample,
    Side,
    TrialSummary,
    Verdict,
)
from gitops_ml.records import Attempt, BaselineChoice, Hardware, Origin, Outcome, Problem, Series, Version
from gitops_ml.spec import CompareRule, Gate, Goal, Plot, Tolerance, Track, Value

HEAD = Version(commit="a1b2c3d4e5f6" + "0" * 28, tree="1" * 40, label="HEAD")
BASE = Version(commit="0f1e2d3c4b5a" + "0" * 28, tree="2" * 40, label="main")
BASELINE = BaselineChoice(version=BASE, ref="main", chosen="merge-base", behind=3)


def key(*parts: object) -> str:
    return random.Random("/".join(map(str, parts))).randbytes(32).hex()


def side(values: Sequence[float | None], name: str = "base", problem: str = "") -> Side:
    samples = tuple(
        Sample(seed=seed, repeat=0, key=key(name, seed), value=value, problem="" if value is not None else problem)
        for seed, value in enumerate(values)
    )
    valid = [value for value in values if value is not None]
    mean = math.fsum(valid) / len(valid) if valid else None
    sd = (
        math.sqrt(math.fsum((v - mean) ** 2 for v in valid) / (len(valid) - 1))
        if mean is not None and len(valid) > 1
        else None
    )
    return Side(samples=samples, n=len(valid), mean=mean, sd=sd)


def metric(
    name: str,
    base: Sequence[float | None],
    head: Sequence[float | None],
    verdict: Verdict = Verdict.SAME,
    *,
    goal: Goal = Goal.MAXIMIZE,
    half_width: float | None = None,
    gate: GateResult = GateResult.PASS,
    rule: Gate = Gate.OFF,
    **more: object,
) -> MetricComparison:
    fields = {f.name for f in dataclasses.fields(Track)}
    track = Track(name=name, goal=goal, gate=rule, **{k: v for k, v in more.items() if k in fields})  # type: ignore[arg-type]
    one, other = side(base, "base"), side(head, "head", problem="the seed failed")
    difference = None if one.mean is None or other.mean is None else other.mean - one.mean
    improvement = difference if difference is None or goal is not Goal.MINIMIZE else -difference
    interval = None
    if half_width is not None and improvement is not None:
        interval = (improvement - half_width, improvement + half_width)
    return MetricComparison(
        track=track,
        base=one,
        head=other,
        verdict=verdict,
        gate=gate,
        difference=difference,
        relative=difference / abs(one.mean) if difference is not None and one.mean else None,
        improvement=improvement,
        interval=interval,
        confidence=0.9 if interval else None,
        method="paired t" if interval else "not tested" if difference is not None else "",
        **{k: v for k, v in more.items() if k not in fields},  # type: ignore[arg-type]
    )


def attempt(trial_key: str, outcome: Outcome = Outcome.SUCCEEDED, **changes: object) -> Attempt:
    fields: dict[str, object] = {
        "key": trial_key,
        "number": 1,
        "experiment": "digits-mlp",
        "outcome": outcome,
        "reason": "the command ended with exit code 0",
        "exit_code": 0,
        "backend": "local",
        "commit": HEAD.commit,
        "dirty": False,
        "params": {"lr": 0.1},
        "seed": 0,
        "started_at": "2026-11-23T10:00:00Z",
        "duration_s": 41.5,
        "cost_usd": 0.0,
        "hardware": Hardware(machine="Xeon 2.4 GHz", cpus=2),
        "origin": Origin(kind="ci"),
    }
    return Attempt(**{**fields, **changes})  # type: ignore[arg-type]


def trial(name: str, seed: int, point: Mapping[str, Value] | None = None, **changes: object) -> TrialSummary:
    its_key = key(name, seed, point)
    fields: dict[str, object] = {
        "key": its_key,
        "seed": seed,
        "repeat": 0,
        "point": point or {},
        "attempt": attempt(its_key, seed=seed),
        "recorded": True,
        "reused": name == "base",
    }
    return TrialSummary(**{**fields, **changes})  # type: ignore[arg-type]


FAILED = {
    "recorded": False,
    "attempt": attempt(
        "f" * 64,
        Outcome.FAILED,
        reason="the command ended with exit code 1",
        exit_code=1,
        log_tail="epoch 3\nTraceback:\n  ```\nValueError: \x1b[31mloss\x1b[0m is nan @alice #12",
    ),
}


def series(name: str, seed: int, level: float, n: int = 40, noise: float = 0.01) -> Series:
    rng = random.Random(f"{name!a}/{seed}/{level}")
    values = tuple(level * (1 - math.exp(-4 * (i + 1) / n)) + rng.gauss(0, noise) for i in range(n))
    return Series(
        name=name,
        steps=tuple(float(i + 1) for i in range(n)),
        values=values,
        times=tuple(1.7e9 + 2.5 * i for i in range(n)),
    )


def curves(name: str = "accuracy", base: float = 0.951, head: float = 0.932, seeds: int = 3, n: int = 40) -> Curves:
    return Curves(
        name=name,
        base={seed: series(name, seed, base, n) for seed in range(seeds)},
        head={seed: series(name, seed + 100, head, n) for seed in range(seeds)},
    )


def cost(duration_s: float = 124.5, cost_usd: float = 0.0, spent_s: float | None = None, trials: int = 3) -> Cost:
    return Cost(
        duration_s=duration_s,
        cost_usd=cost_usd,
        trials=trials,
        spent_s=duration_s if spent_s is None else spent_s,
        spent_usd=cost_usd,
        hardware=(Hardware(machine="g6.xlarge", cpus=4, gpus=("L4",)),),
    )


ACCURACY = metric(
    "accuracy",
    (0.951, 0.953, 0.949),
    (0.931, 0.934, 0.930),
    Verdict.WORSE,
    half_width=0.0009,
    gate=GateResult.FAIL,
    rule=Gate.FAIL,
    unit="%",
    primary=True,
    tolerance=Tolerance(relative=0.002),
    p_value=0.0012,
    p_adjusted=0.0024,
)
LOSS = metric(
    "val/loss",
    (0.171, 0.169, 0.175),
    (0.214, 0.220, 0.209),
    Verdict.WORSE,
    goal=Goal.MINIMIZE,
    half_width=0.008,
    gate=GateResult.WARN,
    rule=Gate.WARN,
    p_value=0.004,
)
SPEED = metric(
    "samples_per_second",
    (51234.0, 50988.0, 51870.0),
    (52101.0, 50012.0, 51020.0),
    Verdict.INCONCLUSIVE,
    half_width=1400.0,
    seeds_needed=7,
)
SAME = metric("train/grad_norm", (1.0e-6, 1.1e-6, 0.9e-6), (1.0e-6, 1.1e-6, 0.9e-6), Verdict.SAME, half_width=2e-7)


def experiment(
    name: str = "digits-mlp",
    metrics: Sequence[MetricComparison] = (ACCURACY, LOSS, SPEED, SAME),
    gate: GateResult | None = None,
    **changes: object,
) -> ExperimentComparison:
    order = (GateResult.PASS, GateResult.WARN, GateResult.FAIL)
    fields: dict[str, object] = {
        "name": name,
        "path": f"experiments/{name}.yaml",
        "description": "MLP on the UCI digits",
        "head": HEAD,
        "baseline": BASELINE,
        "relation": "changed",
        "renamed_from": None,
        "points": (
            PointComparison(
                point={},
                metrics=tuple(metrics),
                base_trials=tuple(trial("base", seed) for seed in range(3)),
                head_trials=tuple(trial("head", seed) for seed in range(3)),
                curves=(curves(), curves("val/loss", 0.17, 0.21)),
            ),
        ),
        "metrics": tuple(metrics),
        "best_head": None,
        "best_base": None,
        "changes": (
            Change(what="parameter lr", before="0.1", after="0.03"),
            Change(what="code train.py", before="3f2a91c", after="77b01de"),
        ),
        "head_cost": cost(140.2, 0.041),
        "base_cost": cost(124.5, 0.036),
        "rule": CompareRule(),
        "plots": (Plot(y=("accuracy", "val/loss")),),
        "gate": gate or max((m.gate for m in metrics), key=order.index, default=GateResult.PASS),
        "notes": (),
    }
    return ExperimentComparison(**{**fields, **changes})  # type: ignore[arg-type]


def failed_experiment() -> ExperimentComparison:
    """One seed of three failed; its metrics are what the others left."""
    lost = metric(
        "accuracy",
        (0.951, 0.953, 0.949),
        (0.950, None, 0.951),
        Verdict.MISSING,
        gate=GateResult.FAIL,
        rule=Gate.FAIL,
        unit="%",
        primary=True,
        reasons=("1 of 3 seeds of this change has no value: the seed failed",),
    )
    whole = experiment("cifar-resnet", (lost,))
    point = dataclasses.replace(
        whole.points[0],
        head_trials=(trial("head", 0), trial("head", 1, **FAILED), trial("head", 2)),
    )
    return dataclasses.replace(whole, points=(point,), notes=("the baseline ran on another class of machine",))


def sweep_experiment(points: int = 9) -> ExperimentComparison:
    """A sweep over lr and activation with its best point compared."""
    rows = []
    for index in range(points):
        point: dict[str, Value] = {"lr": round(0.3 / 2**index, 5), "act": ("relu", "gelu", "tanh")[index % 3]}
        level = 0.93 + 0.02 * math.sin(index)
        rows.append(
            PointComparison(
                point=point,
                metrics=(
                    metric(
                        "accuracy",
                        (level, level + 0.002, level - 0.001),
                        (level + 0.004, level + 0.007, level + 0.003),
                        Verdict.BETTER,
                        half_width=0.003,
                        rule=Gate.FAIL,
                        unit="%",
                        primary=True,
                    ),
                ),
                base_trials=tuple(trial("base", seed, point) for seed in range(3)),
                head_trials=tuple(trial("head", seed, point) for seed in range(3)),
                curves=(curves("accuracy", level, level + 0.005),) if index < 2 else (),
            )
        )
    best = rows[2]
    return dataclasses.replace(
        experiment("digits-sweep", best.metrics),
        points=tuple(rows),
        best_head=best.point,
        best_base=best.point,
        notes=(f"best of {points} points, confirmed on fresh seeds",),
    )


def problem_experiment() -> ExperimentComparison:
    whole = experiment("noisy", (SPEED,))
    problem = Problem(file="out/metrics.json", where="line 3", message="torn at the end; 2 values are used")
    trials = tuple(
        trial("head", seed, problems=(problem,), ignored=("predictions (list of 1000 numbers)",)) for seed in range(3)
    )
    return dataclasses.replace(whole, points=(dataclasses.replace(whole.points[0], head_trials=trials),))


def big_experiment(metrics: int = 1000, seeds: int = 5, n: int = 400) -> ExperimentComparison:
    """As large as reports are promised to be quick for."""
    rng = random.Random(1)
    rows = []
    for index in range(metrics):
        level = rng.uniform(0.1, 10)
        base = [rng.gauss(level, 0.01) for _ in range(seeds)]
        head = [rng.gauss(level, 0.01) for _ in range(seeds)]
        verdict = (Verdict.SAME, Verdict.BETTER, Verdict.INCONCLUSIVE)[index % 7 % 3]
        rows.append(
            metric(
                f"group{index % 20}/metric_{index}",
                base,
                head,
                verdict,
                half_width=0.02,
                rule=Gate.FAIL if index < 20 else Gate.OFF,
            )
        )
    drawn = tuple(curves(f"group{i}/metric_{i}", 0.9, 0.91, seeds, n) for i in range(10))
    point = PointComparison(
        point={},
        metrics=tuple(rows),
        base_trials=tuple(trial("base", seed) for seed in range(seeds)),
        head_trials=tuple(trial("head", seed) for seed in range(seeds)),
        curves=drawn,
    )
    whole = experiment("big", rows)
    return dataclasses.replace(whole, points=(point,), plots=tuple(Plot(y=(c.name,)) for c in drawn))


def comparison(*experiments: ExperimentComparison, **changes: object) -> Comparison:
    chosen = experiments or (experiment(), failed_experiment(), sweep_experiment(), problem_experiment())
    fields: dict[str, object] = {"head": HEAD, "baseline": BASELINE, "experiments": chosen}
    return Comparison(**{**fields, **changes})  # type: ignore[arg-type]

"""Records of head against records of the baseline: a verdict per metric, and what it rests on.

Pure and deterministic: the same records and rules give the same comparison, byte for byte.
"""

import dataclasses
import enum
from collections.abc import Mapping

from gitops_ml.records import Attempt, BaselineChoice, Hardware, Problem, Series, Version
from gitops_ml.spec import CompareRule, Plot, Track, Value


class Verdict(enum.StrEnum):
    """What can be said of a metric."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"
    NEW = "new"
    NO_BASELINE = "no baseline"
    MISSING = "missing"
    INVALID = "invalid"
    NOT_COMPARABLE = "not comparable"


class GateResult(enum.StrEnum):
    """What a metric, an experiment or the whole change does to the gate."""

    PASS = "pass"  # noqa: S105 a verdict, not a password
    WARN = "warn"
    FAIL = "fail"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One trial's value of a metric. ``value`` None: there is none, ``problem`` says why (failed seed, NaN, ...)."""

    seed: int
    repeat: int
    key: str
    value: float | None
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One metric on one side: raw values per seed and their moments over the valid ones."""

    samples: tuple[Sample, ...]
    n: int
    mean: float | None
    sd: float | None
    """Sample standard deviation (n - 1); None for n < 2."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric of one point, both sides.

    ``difference`` is head - base in the metric's unit; ``improvement`` is its sign-turned form, positive is
    good (None for goal none); the interval is for the improvement (the difference when goal is none).
    """

    track: Track
    base: Side
    head: Side
    verdict: Verdict
    gate: GateResult
    difference: float | None = None
    relative: float | None = None
    """difference / |base mean|; None for a base mean of 0."""
    improvement: float | None = None
    tolerance: float = 0.0
    """Absolute, in the metric's unit."""
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    method: str = ""
    """``paired t``, ``Welch t``, ``prediction interval``, ``not tested``, ``deterministic``, ..."""
    p_value: float | None = None
    p_adjusted: float | None = None
    p_permutation: float | None = None
    seeds_needed: int | None = None
    """About how many more seeds per side would settle an inconclusive verdict; None: not known."""
    reasons: tuple[str, ...] = ()
    """Sentences a reviewer needs: why missing, not comparable, the floor missed, accepted by whom, ..."""
    accepted: str | None = None
    """The acknowledgement that lets a regression pass: its reason, author and expiry in words."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialSummary:
    """One trial as the report shows it."""

    key: str
    seed: int
    repeat: int
    point: Mapping[str, Value]
    attempt: Attempt | None
    """The attempt that made the record, or the last one that failed; None: never tried."""
    recorded: bool
    reused: bool
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()
    repeats: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Earlier repeats' values by metric, oldest first."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """All seeds' series of one metric on both sides, by seed."""

    name: str
    base: Mapping[int, Series]
    head: Mapping[int, Series]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PointComparison:
    """One point on both sides, matched by its swept values (empty without a sweep)."""

    point: Mapping[str, Value]
    metrics: tuple[MetricComparison, ...]
    base_trials: tuple[TrialSummary, ...]
    head_trials: tuple[TrialSummary, ...]
    curves: tuple[Curves, ...]
    """For the metrics that the spec plots or tracks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs between the sides besides metrics: a parameter, code, data, environment."""

    what: str
    before: str | None
    after: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one side took: attempts all counted, reused trials at what they once cost."""

    duration_s: float
    cost_usd: float
    trials: int
    spent_s: float
    """Of ``duration_s``, what this run itself spent (not reused)."""
    spent_usd: float
    hardware: tuple[Hardware, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentComparison:
    """One experiment at one head version against its baseline: what a report is made of."""

    name: str
    path: str
    description: str
    head: Version
    baseline: BaselineChoice
    relation: str
    """The plan's ``Relation``."""
    renamed_from: str | None
    points: tuple[PointComparison, ...]
    metrics: tuple[MetricComparison, ...]
    """What decides: the single point's, or best point against best point of a sweep."""
    best_head: Mapping[str, Value] | None
    best_base: Mapping[str, Value] | None
    changes: tuple[Change, ...]
    head_cost: Cost
    base_cost: Cost | None
    rule: CompareRule
    plots: tuple[Plot, ...]
    gate: GateResult
    notes: tuple[str, ...] = ()
    """Sentences for the top: hardware differs, dirty, best of 20, ..."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All experiments of one head version."""

    head: Version
    baseline: BaselineChoice
    experiments: tuple[ExperimentComparison, ...]
    unchanged: tuple[str, ...] = ()
    """Names of experiments whose keys equal the baseline's."""
    removed: tuple[str, ...] = ()

    @property
    def gate(self) -> GateResult:
        """The worst of all experiments."""
        order = (GateResult.PASS, GateResult.WARN, GateResult.FAIL)
        return max((e.gate for e in self.experiments), key=order.index, default=GateResult.PASS)

"""The experiment spec as frozen values: text has become meaning, defaults are filled in.

Field names follow the spec's keys; ``schemas/experiment.v1.schema.json`` owns shape and words, a parity
test ties the two. Sizes are bytes, durations seconds, money US dollars.
"""

import dataclasses
import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]
"""What a parameter may hold: a scalar or a list of scalars, never null, never not finite."""


class Goal(enum.StrEnum):
    """Which direction is good."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"
    NONE = "none"


class Gate(enum.StrEnum):
    """What a bad verdict of a metric does to the whole."""

    FAIL = "fail"
    WARN = "warn"
    OFF = "off"


class Role(enum.StrEnum):
    """What a data entry is for: versions evaluated on different data are not comparable."""

    TRAIN = "train"
    EVAL = "eval"


class Missing(enum.StrEnum):
    """What to do when the baseline commit has the experiment but no records."""

    RUN = "run"
    ANCESTOR = "ancestor"
    WARN = "warn"
    FAIL = "fail"


class At(enum.StrEnum):
    """Which commit of the baseline ref is compared with."""

    MERGE_BASE = "merge-base"
    TIP = "tip"


class SummaryKind(enum.StrEnum):
    """How a series of values becomes one."""

    LAST = "last"
    BEST = "best"
    MIN = "min"
    MAX = "max"
    MEAN_LAST = "mean_last"
    AT = "at"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What counts as "the code changed": globs relative to the workdir. No include: every tracked file."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the training runs in. Neither python, requirements nor image: the caller's interpreter."""

    python: str | None = None
    requirements: str | None = None
    image: str | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One named input; ``uri`` is a path from the workdir or carries a scheme."""

    name: str
    uri: str
    version: str | None = None
    role: Role = Role.TRAIN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A continuous range of a random sweep, both ends included; ``log``: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomSweep:
    """``n`` points drawn from ``space`` with ``seed``; equal on every machine."""

    n: int
    seed: int = 0
    space: Mapping[str, Range | tuple[Scalar, ...]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Several points: exactly one of ``grid``, ``list``, ``random``."""

    grid: Mapping[str, tuple[Scalar, ...]] | None = None
    list: tuple[Mapping[str, Scalar], ...] | None = None
    random: RandomSweep | None = None
    parallel: int | None = None
    confirm: tuple[int, ...] = ()
    """Fresh seeds on which the winner is trained again before it may beat the baseline."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """GPUs for one trial; any of the ``type`` will do, none named means any kind."""

    type: tuple[str, ...] = ()
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one trial asks of a machine."""

    gpu: Gpu | None = None
    cpu: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    nodes: int = 1
    spot: str = "never"
    """prefer, only or never."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits. ``max_cost`` covers all trials, attempts and the base side; the durations are per attempt."""

    max_cost_usd: Decimal | None = None
    max_duration_s: float | None = None
    max_wait_s: float | None = None
    no_output_s: float | None = None
    retries_preempted: int = 5
    retries_failed: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Files to read metrics from: a glob relative to the workdir; format None: found out from the file."""

    path: str
    format: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a series becomes one value.

    ``k`` goes with mean_last; ``at`` (best, min or max) and ``of`` (a metric name) go with at: the value of
    this metric at the step where metric ``of`` is best. The goal of ``of`` is the one it is tracked with.
    """

    kind: SummaryKind = SummaryKind.LAST
    k: int | None = None
    at: SummaryKind | None = None
    of: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The smallest change that matters: absolute in the metric's unit, or a fraction of |baseline mean|."""

    absolute: float = 0.0
    relative: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One metric that is compared."""

    name: str
    goal: Goal = Goal.NONE
    summary: Summary = Summary()
    unit: str = ""
    tolerance: Tolerance = Tolerance()
    gate: Gate = Gate.OFF
    floor: float | None = None
    """Hard limit on the head side alone: the least value to maximize, the most to minimize."""
    primary: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where metrics are read from and which are compared."""

    read: tuple[Read, ...] = ()
    track: tuple[Track, ...] = ()
    evaluation: tuple[str, ...] = ()
    predictions: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRule:
    """What head is compared with."""

    ref: str = "main"
    at: At = At.MERGE_BASE
    missing: Missing = Missing.RUN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompareRule:
    """How a verdict is reached; ``inconclusive``: what an inconclusive gated metric does."""

    confidence: float = 0.9
    correction: str = "holm"
    """holm or none."""
    inconclusive: Gate = Gate.WARN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of learning curves; ``x``: step, time or the name of a metric such as samples."""

    y: tuple[str, ...]
    x: str = "step"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An output to keep; ``store``: storage, or git for small files that go to the ledger."""

    path: str
    store: str = "storage"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """When CI trains: ``change`` is run, plan or never; ``schedule`` is never or a cron line."""

    change: str = "run"
    push: tuple[str, ...] = ("main",)
    schedule: str = "never"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What one spec file describes."""

    path: str
    """The spec's file, from the repository's root, with forward slashes."""
    name: str
    run: str | tuple[str, ...]
    description: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: str = "."
    code: Code = Code()
    environment: Environment = Environment()
    data: tuple[Data, ...] = ()
    params: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    sweep: Sweep | None = None
    seeds: tuple[int, ...] = (0,)
    resources: Resources = Resources()
    backend: str | None = None
    budget: Budget = Budget()
    metrics: Metrics = Metrics()
    baseline: BaselineRule = BaselineRule()
    compare: CompareRule = CompareRule()
    plots: tuple[Plot, ...] = ()
    checkpoints: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    triggers: Triggers = Triggers()


def experiment_from(data: Mapping[str, Any], path: str) -> Experiment:
    """Return the experiment that validated plain data describes.

    Args:
        data: the spec as the schema accepts it; anything else is a bug of the caller.
        path: the spec's file, from the repository's root.
    """
    raise NotImplementedError

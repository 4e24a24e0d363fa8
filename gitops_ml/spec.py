"""The experiment spec as frozen values: text has become meaning, defaults are filled in.

Field names follow the spec's keys; ``schemas/experiment.v1.schema.json`` owns shape and words, a parity
test ties the two. Sizes are bytes, durations seconds, money US dollars.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from gitops_ml.values import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What counts as "the code changed": globs relative to the workdir. No include: every tracked file."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the training runs in. Neither python, requirements nor image: the caller's interpreter."""

    python: str | None = None
    requirements: str | None = None
    image: str | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One named input; ``uri`` is a path from the workdir or carries a scheme."""

    name: str
    uri: str
    version: str | None = None
    role: Role = Role.TRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A continuous range of a random sweep, both ends included; ``log``: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSweep:
    """``n`` points drawn from ``space`` with ``seed``; equal on every machine."""

    n: int
    seed: int = 0
    space: Mapping[str, Range | tuple[Scalar, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Several points: exactly one of ``grid``, ``list``, ``random``."""

    grid: Mapping[str, tuple[Scalar, ...]] | None = None
    list: tuple[Mapping[str, Scalar], ...] | None = None
    random: RandomSweep | None = None
    parallel: int | None = None
    confirm: tuple[int, ...] = ()
    """Fresh seeds on which the winner is trained again before it may beat the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """GPUs for one trial; any of the ``type`` will do, none named means any kind."""

    type: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one trial asks of a machine."""

    gpu: Gpu | None = None
    cpu: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    nodes: int = 1
    spot: str = "never"
    """prefer, only or never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits. ``max_cost`` covers all trials, attempts and the base side; the durations are per attempt."""

    max_cost_usd: Decimal | None = None
    max_duration_s: float | None = None
    max_wait_s: float | None = None
    no_output_s: float | None = None
    retries_preempted: int = 5
    retries_failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Files to read metrics from: a glob relative to the workdir; format None: found out from the file."""

    path: str
    format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a series becomes one value.

    ``k`` goes with mean_last; ``at`` (best, min or max) and ``of`` (a metric name) go with at: the value of
    this metric at the step where metric ``of`` is best. The goal of ``of`` is the one it is tracked with.
    """

    kind: SummaryKind = SummaryKind.LAST
    k: int | None = None
    at: SummaryKind | None = None
    of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The smallest change that matters: absolute in the metric's unit, or a fraction of |baseline mean|."""

    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
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


def ranked(tracks: Iterable[Track]) -> Sequence[Track]:
    """Return the metrics in the order in which they decide: the primary one, gated ones, with a goal, the others."""
    return sorted(tracks, key=lambda track: (track.goal is Goal.NONE, not track.primary, track.gate is Gate.OFF))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where metrics are read from and which are compared."""

    read: tuple[Read, ...] = ()
    track: tuple[Track, ...] = ()
    evaluation: tuple[str, ...] = ()
    predictions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRule:
    """What head is compared with."""

    ref: str | None = None
    """A branch; None: the repository's default branch."""
    at: At = At.MERGE_BASE
    missing: Missing = Missing.RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRule:
    """How a verdict is reached; ``inconclusive``: what an inconclusive gated metric does."""

    confidence: float = 0.9
    correction: str = "holm"
    """holm or none."""
    inconclusive: Gate = Gate.WARN
    noise: str = "history"
    """Where few runs without common seeds have their noise from: history (earlier runs too) or runs (these alone)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of learning curves; ``x``: step, time or the name of a metric such as samples."""

    y: tuple[str, ...]
    x: str = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An output to keep; ``store``: storage, or git for small files that go to the ledger."""

    path: str
    store: str = "storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """When CI trains: ``change`` is run, plan or never; ``schedule`` is never or a cron line.

    ``push`` names branches; None: the repository's default branch.
    """

    change: str = "run"
    push: tuple[str, ...] | None = None
    schedule: str = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
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
    given = {key: value for key, value in data.items() if key != "version"}
    run = given["run"]
    plots = tuple(Plot(**plot | {"y": _tuple(plot["y"])}) for plot in given.get("plots", ()))
    return Experiment(
        **given
        | {
            "path": path,
            "run": run if isinstance(run, str) else tuple(run),
            "code": _filled(Code, given.get("code", {}), include=tuple, exclude=tuple),
            "environment": _filled(Environment, given.get("environment", {}), secrets=tuple),
            "data": tuple(_filled(Data, item, role=Role) for item in given.get("data", ())),
            "params": {name: _value(value) for name, value in given.get("params", {}).items()},
            "sweep": _sweep(given["sweep"]) if "sweep" in given else None,
            "seeds": _seeds(given.get("seeds", (0,))),
            "resources": _resources(given.get("resources", {})),
            "budget": _budget(given.get("budget", {})),
            "metrics": _metrics(given.get("metrics", {})),
            "baseline": _filled(BaselineRule, given.get("baseline", {}), at=At, missing=Missing),
            "compare": _filled(CompareRule, given.get("compare", {}), inconclusive=Gate),
            "plots": plots,
            "checkpoints": given["checkpoints"]["path"] if "checkpoints" in given else None,
            "artifacts": tuple(Artifact(**item) for item in given.get("artifacts", ())),
            "triggers": _filled(Triggers, given.get("triggers", {}), push=tuple),
        }
    )


def seconds_from(text: str) -> float:
    """Return the seconds of a duration such as ``1h30m``."""
    return float(sum(int(number) * _SECONDS[unit] for number, unit in re.findall("([0-9]+)([dhms])", text)))


def bytes_from(text: str) -> int:
    """Return the bytes of a size such as ``32GiB`` (2^30) or ``100 GB`` (10^9), at least one."""
    number, unit = re.fullmatch(r"([0-9.]+) ?([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    return max(1, int(Decimal(number) * _BYTES[unit]))


def usd_from(text: str) -> Decimal:
    """Return the amount of money such as ``10 USD``."""
    return Decimal(text.removesuffix(" USD"))


_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

_T = TypeVar("_T")


def _filled(kind: type[_T], given: Mapping[str, Any], **convert: Callable[[Any], Any]) -> _T:
    return kind(**{key: convert[key](value) if key in convert else value for key, value in given.items()})


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _value(value: Any) -> Value:
    return tuple(value) if isinstance(value, list) else value


def _seeds(value: Any) -> tuple[int, ...]:
    return tuple(int(seed) for seed in value)  # JSON Schema takes 1.0 for an integer


def _sweep(given: Mapping[str, Any]) -> Sweep:
    drawn = given.get("random")
    return Sweep(
        grid={name: tuple(values) for name, values in given["grid"].items()} if "grid" in given else None,
        list=tuple(given["list"]) if "list" in given else None,
        random=RandomSweep(
            n=int(drawn["n"]),
            seed=int(drawn.get("seed", 0)),
            space={
                name: tuple(space) if isinstance(space, list) else Range(**space)
                for name, space in drawn["space"].items()
            },
        )
        if drawn is not None
        else None,
        parallel=_integer(given.get("parallel")),
        confirm=_seeds(given.get("confirm", {}).get("seeds", ())),
    )


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _resources(given: Mapping[str, Any]) -> Resources:
    rest = {key: value for key, value in given.items() if key not in ("memory", "disk")}
    return _filled(
        Resources,
        rest | {f"{key}_bytes": bytes_from(given[key]) for key in ("memory", "disk") if key in given},
        gpu=lambda gpu: _filled(Gpu, gpu, type=_tuple, count=int),
        cpu=int,
        nodes=int,
    )


def _budget(given: Mapping[str, Any]) -> Budget:
    limits: dict[str, Any] = {
        f"{key}_s": seconds_from(given[key]) for key in ("max_duration", "max_wait", "no_output") if key in given
    }
    if "max_cost" in given:
        limits["max_cost_usd"] = usd_from(given["max_cost"])
    limits |= {f"retries_{key}": int(value) for key, value in given.get("retries", {}).items()}
    return Budget(**limits)


def _metrics(given: Mapping[str, Any]) -> Metrics:
    return _filled(
        Metrics,
        given,
        read=lambda items: tuple(Read(path=item) if isinstance(item, str) else Read(**item) for item in items),
        track=lambda items: tuple(
            _filled(Track, item, goal=Goal, summary=_summary, tolerance=_tolerance, gate=Gate, floor=float)
            for item in items
        ),
        evaluation=tuple,
    )


def _summary(given: Any) -> Summary:
    if isinstance(given, str):
        return Summary(kind=SummaryKind(given))
    if "mean_last" in given:
        return Summary(kind=SummaryKind.MEAN_LAST, k=int(given["mean_last"]))
    return Summary(kind=SummaryKind.AT, at=SummaryKind(given["at"]), of=given["of"])


def _tolerance(given: Any) -> Tolerance:
    if isinstance(given, str):
        return Tolerance(relative=float(Decimal(given.removesuffix("%")) / 100))
    return Tolerance(absolute=float(given))

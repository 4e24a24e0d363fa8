"""A record's series and final values -> the one value per metric that is compared."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from gitops_ml.records import NOT_WRITTEN, Record, Scalar, Series, SeriesRange
from gitops_ml.spec import Goal, SummaryKind, Track
from gitops_ml.values import dataclass


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why there is no value. ``invalid``: something is there but cannot be trusted (NaN, a torn file)."""

    text: str
    invalid: bool = False


# What a reader says of one metric and yet uses it: it takes nothing from its values. Anything else said of a metric
# (a text among its numbers, two values of which one was taken) makes it invalid; NaN is judged by the summary.
_HARMLESS = re.compile(
    r"steps go back |is not in every row|has no number in some rows|the name is not valid Unicode|is -?(nan|inf)$"
    r"|[0-9,]+ of [0-9,]+ values are not finite|is .* there, and its table ends with |`.*: the same name in "
)


class Metrics:
    """A record's metrics by name, looked up many times."""

    def __init__(self, record: Record) -> None:
        self.series: Mapping[str, Series] = {series.name: series for series in record.series}
        self.scalars: Mapping[str, Scalar] = {scalar.name: scalar for scalar in record.scalars}
        self.ranges: Mapping[str, SeriesRange] = {one.name: one for one in record.ranges}
        self.decimated = record.decimated
        names = self.series.keys() | self.scalars.keys() | self.ranges.keys()
        # A name that stands in several files is known as `file:name`.
        bare = {name.partition(":")[2] for name in names} if record.problems else frozenset()
        self._absent = {p.where: p.message for p in record.problems if p.message.startswith(NOT_WRITTEN)}
        self._about: dict[str, str] = {}
        self.fault: str | None = None
        for problem in record.problems:
            if problem.where in names or problem.where in bare:
                if not _HARMLESS.match(problem.message):
                    self._about.setdefault(problem.where, problem.message)
                    self._about.setdefault(f"{problem.file}:{problem.where}", problem.message)
            elif self.fault is None and problem.where not in self._absent:
                # It names no metric (a torn tail, no JSON), so it may have cost any its last value.
                where = f" {problem.where}" if problem.where else ""
                self.fault = f"{problem.file}{where}: {problem.message}"

    def unusable(self, name: str) -> Unusable | None:
        """Return why the metric's value is not to be had or not to be trusted, as far as its files say."""
        if self.fault is not None:
            return Unusable(f"cannot be trusted: {self.fault}", invalid=True)
        if name in self._absent:
            return Unusable(f"has no value: {self._absent[name]}")
        if name in self._about and (name in self.series or name in self.scalars or name in self.ranges):
            return Unusable(f"cannot be trusted: it {self._about[name]}", invalid=True)
        return None

    def count(self, name: str) -> int | None:
        """Return how many test examples a final value was taken over, if its file says so."""
        scalar = self.scalars.get(name)
        return None if scalar is None or name in self.series else scalar.count


def summary_value(track: Track, metrics: Metrics, tracks: Sequence[Track] = ()) -> float | Unusable:
    """Return the metric's one value as ``track.summary`` asks for it, or why there is none.

    A value that is not finite never counts: for a best, min or max the whole series must be finite, because a
    training that diverged after its best step did not succeed.

    Args:
        track: the metric and its rule.
        metrics: what the trial left.
        tracks: all tracked metrics; ``{at: best, of: NAME}`` takes its goal from there.
    """
    if (reason := metrics.unusable(track.name)) is not None:
        return reason
    series = metrics.series.get(track.name)
    if series is None:
        known = metrics.ranges.get(track.name)
        return _range_value(track, known) if known is not None else _scalar_value(track, metrics)
    summary, values = track.summary, series.values
    match summary.kind:
        case SummaryKind.LAST:
            return _finite(values[-1], series.steps[-1])
        case SummaryKind.MEAN_LAST:
            if metrics.decimated:
                return Unusable("was too large to be kept whole, so `mean_last` cannot be taken; log less often")
            k = summary.k or 1
            if len(values) < k:
                return Unusable(f"has {len(values)} values, `mean_last: {k}` needs {k}")
            bad = _first_bad(series, len(values) - k)
            # Divided first: the sum of values near the largest double is infinite.
            return bad or math.fsum(value / k for value in values[-k:])
        case SummaryKind.AT:
            return _value_at(track, series, metrics, tracks)
        case _:
            return _first_bad(series) or values[_best(series, summary.kind, track.goal)]


def _value_at(track: Track, series: Series, metrics: Metrics, tracks: Sequence[Track]) -> float | Unusable:
    name = track.summary.of or ""
    kind = track.summary.at or SummaryKind.BEST
    if (reason := metrics.unusable(name)) is not None:
        return dataclasses.replace(reason, text=f"cannot be taken at the {kind} of `{name}`, which {reason.text}")
    other = metrics.series.get(name)
    if other is None:
        return Unusable(f"has no value: `{name}`, at whose {kind} it is taken, has no series")
    goal = next((t.goal for t in tracks if t.name == name), Goal.NONE)
    if kind is SummaryKind.BEST and goal is Goal.NONE:
        return Unusable(f"has no value: what is best for `{name}` is not said; track it with a goal")
    bad = _first_bad(other)
    if bad is not None:
        return Unusable(f"cannot be taken at the {kind} of `{name}`, which {bad.text}", invalid=True)
    step = other.steps[_best(other, kind, goal)]
    # After a restart a step stands there twice: the last one written counts.
    for at, value in zip(reversed(series.steps), reversed(series.values), strict=True):
        if at == step:
            return _finite(value, step)
    why = "; it was too large to be kept whole, log less often" if metrics.decimated else ""
    return Unusable(f"has no value at step {step:g}, where `{name}` is at its {kind}{why}")


def _best(series: Series, kind: SummaryKind, goal: Goal) -> int:
    """Return the index of the first best value."""
    largest = kind is SummaryKind.MAX or (kind is SummaryKind.BEST and goal is not Goal.MINIMIZE)
    return series.values.index(max(series.values) if largest else min(series.values))


def _range_value(track: Track, known: SeriesRange) -> float | Unusable:
    """Return the value as far as a series' ends and extremes tell it, where its points were not read."""
    largest = track.summary.kind is SummaryKind.MAX or track.goal is not Goal.MINIMIZE
    match track.summary.kind:
        case SummaryKind.LAST:
            value = known.last
        case SummaryKind.MIN | SummaryKind.MAX | SummaryKind.BEST:
            value = known.maximum if largest and track.summary.kind is not SummaryKind.MIN else known.minimum
        case _:
            return Unusable(f"has no points here, and `{track.summary.kind}` needs them")
    return value if math.isfinite(value) else Unusable(f"is {_word(value)}", invalid=True)


def _scalar_value(track: Track, metrics: Metrics) -> float | Unusable:
    scalar = metrics.scalars.get(track.name)
    if scalar is None:
        files = sorted(n for n in (*metrics.series, *metrics.scalars) if n.endswith(f":{track.name}"))
        if files:
            return Unusable(f"stands in several files: write {' or '.join(f'`{name}`' for name in files[:4])}")
        return Unusable("is not among the metrics that the trial left")
    if track.summary.kind is SummaryKind.AT or (track.summary.kind is SummaryKind.MEAN_LAST and track.summary.k != 1):
        return Unusable(f"is one final value; `{track.summary.kind}` needs a series")
    if not math.isfinite(scalar.value):
        return Unusable(f"is {_word(scalar.value)}", invalid=True)
    return scalar.value


def _finite(value: float, step: float) -> float | Unusable:
    return value if math.isfinite(value) else Unusable(f"is {_word(value)} at step {step:g}", invalid=True)


def _first_bad(series: Series, start: int = 0) -> Unusable | None:
    for index in range(start, len(series.values)):
        if not math.isfinite(series.values[index]):
            return Unusable(f"is {_word(series.values[index])} at step {series.steps[index]:g}", invalid=True)
    return None


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"

"""A metric along a branch's history: what each of its commits gave, and where its level changed.

A commit's values are those of the records that its report names, and of records that were trained at it: after a merge
the records are usually the change's own, and the report of the new commit says so.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gitops_ml.entries import Entry, ReportEntry
from gitops_ml.spec import Value
from gitops_ml.values import dataclass

LEAST = 8
"""Measurements without which no level is looked for."""
SEGMENT = 3
"""Measurements that a level has at least."""
PENALTY = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One commit's values of a metric, over its runs."""

    commit: str
    position: int
    """Of the commit on the branch: 0 is the oldest."""
    mean: float
    lowest: float
    highest: float
    runs: int
    keys: Sequence[str]
    """Of the records; two commits with the same ones were measured once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A stretch over which a metric stayed about the same: indices of its first and last measurement."""

    first: int
    last: int
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A metric of one point of one experiment along the branch, oldest first; levels follow each other."""

    experiment: str
    point: Mapping[str, Value]
    metric: str
    measured: Sequence[Measured]
    levels: Sequence[Level]


def trends(
    entries: Iterable[Entry],
    reports: Iterable[ReportEntry],
    branch: Sequence[str],
    metrics: Mapping[str, Sequence[str]],
) -> Sequence[Trend]:
    """Return the trends of the metrics, by experiment and point; reruns and uncommitted work are no part of a history.

    Args:
        entries: all that are known.
        reports: likewise.
        branch: its commits, the oldest first.
        metrics: names of those that are wanted, by experiment.
    """
    positions = {commit: position for position, commit in enumerate(branch)}
    by_key = {entry.key: entry for entry in entries}
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in by_key.values():
        if entry.commit in positions and not entry.dirty and entry.derived_from is None:
            found.setdefault((entry.experiment, entry.commit), {})[entry.key] = entry
    for report in reports:
        if report.commit in positions and not report.dirty:
            known = found.setdefault((report.experiment, report.commit), {})
            known |= {key: by_key[key] for _, keys in report.verdicts for key in keys if key in by_key}
    lines: dict[tuple[str, str, str], list[Measured]] = {}
    points: dict[tuple[str, str], Mapping[str, Value]] = {}
    for (experiment, commit), records in found.items():
        for name, group in _by_point(records.values()).items():
            points[experiment, name] = group[0].point
            for metric in metrics.get(experiment, ()):
                measured = _measured(commit, positions[commit], metric, group)
                if measured is not None:
                    lines.setdefault((experiment, metric, name), []).append(measured)
    return [
        _trend(experiment, points[experiment, name], metric, measured)
        for (experiment, metric, name), measured in sorted(lines.items(), key=lambda item: item[0])
    ]


def _by_point(records: Iterable[Entry]) -> Mapping[str, Sequence[Entry]]:
    """Return the newest repeat on each seed, by point."""
    groups: dict[str, dict[int, Entry]] = {}
    for entry in records:
        name = json.dumps(entry.point, sort_keys=True, default=list)
        seeds = groups.setdefault(name, {})
        if entry.seed not in seeds or (seeds[entry.seed].repeat, seeds[entry.seed].key) < (entry.repeat, entry.key):
            seeds[entry.seed] = entry
    return {name: [seeds[seed] for seed in sorted(seeds)] for name, seeds in groups.items()}


def _measured(commit: str, position: int, metric: str, group: Sequence[Entry]) -> Measured | None:
    having = [entry for entry in group if metric in entry.metrics]
    if not having:
        return None
    values = [entry.metrics[metric] for entry in having]
    return Measured(
        commit=commit,
        position=position,
        # Divided first: the sum of values near the largest double is infinite.
        mean=math.fsum(value / len(values) for value in values),
        lowest=min(values),
        highest=max(values),
        runs=len(values),
        keys=tuple(entry.key for entry in having),
    )


def _trend(experiment: str, point: Mapping[str, Value], metric: str, measured: Sequence[Measured]) -> Trend:
    ordered = sorted(measured, key=lambda one: one.position)
    # What a commit reuses was not measured again: it says nothing on noise.
    first = [index for index, one in enumerate(ordered) if index == 0 or one.keys != ordered[index - 1].keys]
    starts = [0, *(first[start] for start in change_points([ordered[index].mean for index in first]))]
    levels = [
        Level(first=start, last=end - 1, mean=_mean([one.mean for one in ordered[start:end]]))
        for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)
    ]
    return Trend(experiment=experiment, point=point, metric=metric, measured=ordered, levels=levels)


def change_points(values: Sequence[float]) -> Sequence[int]:
    """Return where a new level begins, as indices, in order.

    Binary segmentation: the split that explains most is a change if it lowers the sum of squares by more than
    5 ln(n) times the noise's variance, and both sides are split further. The noise is the median of the steps from one
    value to the next, which a few changes of level do not move. In unchanging Gaussian noise fewer than one history in
    twenty shows a change, from 8 values on (by simulation); a change of twice the noise, ten values on each side,
    is found nearly always.

    Source: L. J. Vostrikova, Soviet Mathematics Doklady 24 (1981), pp. 55-59, for the segmentation; Y.-C. Yao,
    Statistics and Probability Letters 6 (1988), pp. 181-189, for a penalty that grows with ln(n).
    """
    if len(values) < LEAST or not all(map(math.isfinite, values)):
        return []
    largest = max(map(abs, values))
    # Scaled, so that no square overflows.
    scaled = [value / largest for value in values] if largest > 0 else list(values)
    least_gain = PENALTY * math.log(len(values)) * _noise_variance(scaled)
    return sorted(_splits(scaled, 0, len(values), max(least_gain, 1e-24)))


def _noise_variance(values: Sequence[float]) -> float:
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    usual = statistics.median(steps) / (0.6745 * math.sqrt(2))
    if usual > 0:
        return usual**2
    # More than half of the steps are none: then all of them count.
    return math.fsum(step * step for step in steps) / (2 * len(steps))


def _splits(values: Sequence[float], start: int, end: int, least_gain: float) -> Iterator[int]:
    pending = [(start, end)]
    while pending:
        start, end = pending.pop()
        best, gain = _best_split(values, start, end)
        if best is not None and gain > least_gain:
            yield best
            pending += [(start, best), (best, end)]


def _best_split(values: Sequence[float], start: int, end: int) -> tuple[int | None, float]:
    """Return the split that lowers the sum of squares most, and by how much."""
    count = end - start
    total = math.fsum(values[start:end])
    before = 0.0
    best, gain = None, 0.0
    for index in range(start + 1, end):
        before += values[index - 1]
        left = index - start
        if left < SEGMENT or count - left < SEGMENT:
            continue
        difference = before / left - (total - before) / (count - left)
        found = left * (count - left) / count * difference * difference
        if found > gain:
            best, gain = index, found
    return best, gain


def _mean(values: Sequence[float]) -> float:
    return math.fsum(value / len(values) for value in values)

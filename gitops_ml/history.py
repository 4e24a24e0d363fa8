"""Questions to earlier records: what was tried, how two differ, how far runs of the same thing lie apart."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gitops_ml.entries import Entry, ReportEntry
from gitops_ml.errors import UserError
from gitops_ml.expressions import MISSING
from gitops_ml.pins import content
from gitops_ml.planning import Difference, differences, digest
from gitops_ml.records import Record
from gitops_ml.spec import Track, Value, seconds_from
from gitops_ml.stats import Noise, pool
from gitops_ml.summaries import Metrics, Unusable, summary_value
from gitops_ml.values import dataclass


def learned_noise(
    records: Iterable[Record],
    tracks: Mapping[str, Sequence[Track]],
    *,
    leave_out: Collection[str] = (),
    until: Mapping[str, str] | None = None,
) -> Mapping[str, Mapping[str, Noise]]:
    """Return the run-to-run noise by experiment and metric, from groups of records that differ by their seed only.

    Groups with other parameters, code or data count as well: what is pooled is the spread within each group, on the
    assumption that it is about the same in all. Of several repeats of a seed the newest counts.

    Args:
        records: all that are known; their series need not have been read.
        tracks: what is tracked, by experiment.
        leave_out: keys of the comparison at hand, whose own spread is pooled in there.
        until: by experiment, when (ISO 8601, UTC) the first run began that is compared. Runs that began later do not
            count, so that a comparison says the same however much is trained after it.
    """
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    left_out = set()
    for record in records:
        if record.experiment not in tracks:
            continue
        group = record.experiment, digest({**record.document, "seed": None, "repeat": None})
        if record.key in leave_out:
            left_out.add(group)
        if until is not None and record.attempt.started_at > until.get(record.experiment, ""):
            continue
        seeds = groups.setdefault(group, {})
        if record.seed not in seeds or seeds[record.seed].repeat < record.repeat:
            seeds[record.seed] = record
    values: dict[str, dict[str, list[list[float]]]] = {}
    for group, seeds in sorted(groups.items(), key=lambda item: item[0]):
        if group in left_out or len(seeds) < 2:
            continue
        name, its = group[0], [Metrics(record) for _, record in sorted(seeds.items())]
        for track in tracks[name]:
            found = [summary_value(track, metrics, tracks[name]) for metrics in its]
            valid = [value for value in found if not isinstance(value, Unusable)]
            values.setdefault(name, {}).setdefault(track.name, []).append(valid)
    pooled = {name: {metric: pool(of) for metric, of in metrics.items()} for name, metrics in values.items()}
    return {
        name: {metric: noise for metric, noise in metrics.items() if noise is not None}
        for name, metrics in pooled.items()
    }


def matching_keys(name: str, keys: Iterable[str]) -> Sequence[str]:
    """Return the keys that start with the name, in order; four characters are the least that name one."""
    return sorted(key for key in keys if key.startswith(name)) if re.fullmatch("[0-9a-f]{4,64}", name) else []


# What was tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one point of one experiment gave at one commit: its records on all seeds, together."""

    experiment: str
    commit: str
    dirty: bool
    date: str
    """When its last training began: ISO 8601, UTC."""
    point: Mapping[str, Value]
    params: Mapping[str, Value]
    seeds: Sequence[int]
    keys: Sequence[str]
    """Of the records that count, in the order of the seeds."""
    verdict: str
    """Of the metric that decides, from the report of the commit; empty: there is none."""
    gate: str
    report: str
    """The folder of that report; empty: there is none."""
    metrics: Mapping[str, float]
    """Mean over the seeds of the final values."""
    lowest: Mapping[str, float]
    """The least value of a series on any seed."""
    highest: Mapping[str, float]
    cost_usd: float
    """Of all its records; attempts that failed are not counted."""
    duration_s: float
    backend: str
    origin: str
    user: str
    data: Mapping[str, str]
    derived_from: str | None


NAMES: Mapping[str, bool] = {
    **dict.fromkeys(
        ("experiment", "commit", "dirty", "date", "n", "seeds", "verdict", "gate", "cost", "duration"), False
    ),
    **dict.fromkeys(("backend", "origin", "user", "key", "derived_from"), False),
    **dict.fromkeys(("point", "params", "metrics", "lowest", "highest", "data"), True),
}
"""What conditions, columns and sorting may name, and whether it holds several values by name."""


def values(row: Row) -> dict[str, Any]:
    """Return a row as conditions see it: by ``NAMES``, without what it does not have."""
    found = {
        "experiment": row.experiment,
        "commit": row.commit,
        "dirty": row.dirty,
        "date": row.date,
        "n": len(row.seeds),
        "seeds": tuple(row.seeds),
        "cost": row.cost_usd,
        "duration": row.duration_s,
        "backend": row.backend,
        "origin": row.origin,
        "key": row.keys[0],
        "point": row.point,
        "params": row.params,
        "metrics": row.metrics,
        "lowest": row.lowest,
        "highest": row.highest,
        "data": row.data,
    }
    known = {"verdict": row.verdict, "gate": row.gate, "user": row.user, "derived_from": row.derived_from}
    return found | {name: value for name, value in known.items() if value}


def rows(entries: Iterable[Entry], reports: Iterable[ReportEntry] = ()) -> list[Row]:
    """Return the history, newest first: records of the same experiment, commit, parameters and data are one row.

    Of several repeats of a seed the newest counts; cost and time are those of all.
    """
    groups: dict[tuple[str, str, bool, str], list[Entry]] = {}
    for entry in entries:
        what = _ENCODED((entry.point, entry.params, entry.data, entry.derived_from is not None))
        groups.setdefault((entry.experiment, entry.commit, entry.dirty, what), []).append(entry)
    judged = _judged(reports)
    found = [_row(group, judged.get(identity[:3])) for identity, group in groups.items()]
    # Two stable sorts: newest first, and within the same second in one order always.
    found.sort(key=lambda row: (row.experiment, row.commit, row.keys))
    found.sort(key=lambda row: row.date, reverse=True)
    return found


# One encoder for all: `json.dumps` makes another for each of ten thousand.
_ENCODED = json.JSONEncoder(sort_keys=True).encode


def _judged(reports: Iterable[ReportEntry]) -> dict[tuple[str, str, bool], ReportEntry]:
    """Return the report of each experiment at each commit; of several the one that knows most trials."""
    chosen: dict[tuple[str, str, bool], ReportEntry] = {}
    for report in reports:
        identity = (report.experiment, report.commit, report.dirty)
        other = chosen.get(identity)
        if other is None or (other.recorded, other.folder) < (report.recorded, report.folder):
            chosen[identity] = report
    return chosen


def _row(group: Sequence[Entry], report: ReportEntry | None) -> Row:
    newest: dict[int, Entry] = {}
    for entry in group:
        if entry.seed not in newest or newest[entry.seed].repeat < entry.repeat:
            newest[entry.seed] = entry
    counted = [newest[seed] for seed in sorted(newest)]
    last = max(group, key=lambda entry: (entry.started_at, entry.key))
    verdict = gate = folder = ""
    # By keys: at one commit the same point may also have been trained with other parameters or data.
    mine = {entry.key for entry in group}
    if report is not None:
        for word, keys in report.verdicts:
            if not mine.isdisjoint(keys):
                verdict, gate, folder = word, report.gate, report.folder
    return Row(
        experiment=last.experiment,
        commit=last.commit,
        dirty=last.dirty,
        date=last.started_at,
        point=_values(last.point),
        params=_values(last.params),
        seeds=tuple(entry.seed for entry in counted),
        keys=tuple(entry.key for entry in counted),
        verdict=verdict,
        gate=gate,
        report=folder,
        metrics=_over_seeds([entry.metrics for entry in counted], lambda them: math.fsum(them) / len(them)),
        lowest=_over_seeds([entry.lowest for entry in counted], min),
        highest=_over_seeds([entry.highest for entry in counted], max),
        cost_usd=math.fsum(entry.cost_usd for entry in group),
        duration_s=math.fsum(entry.duration_s for entry in group),
        backend=last.backend,
        origin=last.origin,
        user=last.user,
        data=last.data,
        derived_from=counted[0].derived_from,
    )


def _values(found: Mapping[str, Any]) -> Mapping[str, Value]:
    # From the cache a list is a list, from a record a tuple.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _over_seeds(
    found: Sequence[Mapping[str, float]], together: Callable[[Sequence[float]], float]
) -> Mapping[str, float]:
    first = found[0]
    if len(found) == 1:
        return first
    # Nearly always all seeds leave the same metrics.
    if all(metrics.keys() == first.keys() for metrics in found[1:]):
        return {name: _finite(together, [metrics[name] for metrics in found]) for name in first}
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {name: _finite(together, [metrics[name] for metrics in found if name in metrics]) for name in names}


def _finite(together: Callable[[Sequence[float]], float], them: Sequence[float]) -> float:
    try:
        return together(them)
    except OverflowError:  # the sum of what are single numbers each
        return math.inf


def data_version(text: str) -> tuple[str, str]:
    """Return the name and the version of ``NAME=VERSION``.

    Raises:
        UserError: it has another form.
    """
    name, _, version = text.partition("=")
    if not name or len(version) < 4:
        raise UserError(
            f"--data: `{text[:80]}`: give NAME=VERSION, such as train=sha256:9f2c, four characters at least"
        )
    return name, content(version)


def trained_on(found: Sequence[Row], versions: Sequence[tuple[str, str]]) -> list[Row]:
    """Return the rows that were trained on all of these versions (name, version), or on ones that begin like them.

    Raises:
        UserError: no row has an entry of that name.
    """
    names = {one for row in found for one in row.data}
    for name, _ in versions:
        if found and name not in names:
            from gitops_ml.schema import nearest_or_all

            known = nearest_or_all(name, sorted(filter(str.isprintable, names))) if names else ""
            raise UserError(f"--data: no record has data called `{name[:80]}`{known}")

    def fits(pin: str, version: str) -> bool:
        return pin.startswith(version) or pin.partition(":")[2].startswith(version)

    return [row for row in found if all(fits(row.data.get(name, ""), version) for name, version in versions)]


def since(text: str, now: datetime) -> str:
    """Return the start of a time span as a record's date: from a day, a time (UTC) or a duration before now.

    Raises:
        UserError: it is none of these.
    """
    if re.fullmatch(r"([0-9]{1,6}[dhms]){1,4}", text):
        return (now.astimezone(UTC) - timedelta(seconds=min(seconds_from(text), 3e9))).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--since: `{text[:40]}` is no time; give a day (2026-01-31), a time (2026-01-31T12:00) or a duration "
            "(7d, 12h)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        raise UserError(f"--since: {text} lies outside of the calendar") from None


def ordered(found: Iterable[Row], by: Callable[[Mapping[str, Any]], Any], *, reverse: bool) -> list[Row]:
    """Return the rows by a value: numbers before texts, those without it last whichever way."""
    having: list[tuple[tuple[bool, Any], Row]] = []
    lacking = []
    for row in found:
        value = by(values(row))
        if value is MISSING or (isinstance(value, float) and math.isnan(value)):
            lacking.append(row)
        elif isinstance(value, int | float):
            having.append(((False, value), row))
        else:
            having.append(((True, str(value)), row))
    having.sort(key=lambda pair: pair[0], reverse=reverse)
    return [*(row for _, row in having), *lacking]


def usual_metrics(
    found: Iterable[Row], reports: Iterable[ReportEntry], tracked: Mapping[str, Sequence[Track]] | None = None
) -> list[str]:
    """Return the names of the rows' metrics: first what decides in the reports, then what most rows have.

    ``tracked``, as ``spec.ranked`` puts it, stands in for the reports of experiments that have none yet.
    """
    rows = list(found)
    deciding = Counter(report.metric for report in reports if report.metric)
    having = Counter(name for row in rows for name in row.metrics)
    places: dict[str, int] = {}
    for experiment in {row.experiment for row in rows}:
        names = [track.name for track in (tracked or {}).get(experiment, ()) if track.name in having]
        deciding.update(names[:1])
        for place, name in enumerate(names):
            places[name] = min(place, places.get(name, place))
    return sorted(having, key=lambda name: (-deciding[name], places.get(name, len(places)), -having[name], name))


# How two records differ


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDifference:
    """One metric's final value in two records; None: the record does not have it."""

    name: str
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """After minus before."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDifference:
    """Where two records differ, by what it concerns."""

    before: Record
    after: Record
    parameters: Sequence[Difference]
    """Parameters, seed, repeat, command, workdir and number of nodes."""
    data: Sequence[Difference]
    environment: Sequence[Difference]
    code: bool
    metrics: Sequence[MetricDifference]
    """All, also those that are equal."""


def record_difference(before: Record, after: Record) -> RecordDifference:
    """Return where two records differ, from their key documents and their metrics' final values."""
    found = differences(before.document, after.document)
    parts: dict[str, list[Difference]] = {"data": [], "environment": [], "code": [], "": []}
    for one in found:
        first = one.where.partition(".")[0]
        parts[first if first in parts else ""].append(one)
    old, new = final_values(before), final_values(after)
    return RecordDifference(
        before=before,
        after=after,
        parameters=tuple(parts[""]),
        data=tuple(parts["data"]),
        environment=tuple(parts["environment"]),
        code=bool(parts["code"]),
        metrics=tuple(
            MetricDifference(name=name, before=old.get(name), after=new.get(name)) for name in sorted({*old, *new})
        ),
    )


def final_values(record: Record) -> Mapping[str, float]:
    """Return each metric's final value: the last point of a series, or a scalar."""
    last = {one.name: one.last for one in record.ranges} or {one.name: one.values[-1] for one in record.series}
    return {**last, **{scalar.name: scalar.value for scalar in record.scalars}}

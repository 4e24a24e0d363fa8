"""Records of head against records of the baseline: a verdict per metric, and what it rests on.

Pure and deterministic: the same records and rules give the same comparison, byte for byte. How one metric is
judged stands in ``verdicts``; here trials are gathered, points matched, and winners of sweeps chosen.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date

from gitops_ml.acceptance import Acknowledgement
from gitops_ml.checkpoints import paired_sentence
from gitops_ml.planning import Action, ExperimentPlan, Plan, PlannedTrial, Relation, Trial, differences
from gitops_ml.records import Attempt, BaselineChoice, Hardware, Predictions, Problem, Record, Series, Usage, Version
from gitops_ml.spec import CompareRule, Experiment, Gate, Goal, Plot, Role, Track, Value, ranked
from gitops_ml.stats import Noise
from gitops_ml.summaries import Metrics, Unusable, summary_value
from gitops_ml.values import dataclass
from gitops_ml.verdicts import GateResult, MetricComparison, Sample, Setting, Side, Verdict, judge

__all__ = [
    "Change",
    "Comparison",
    "Cost",
    "Curves",
    "ExperimentComparison",
    "GateResult",
    "MetricComparison",
    "PointComparison",
    "Rented",
    "Sample",
    "Side",
    "TrialSummary",
    "Verdict",
    "compare",
    "ranking",
    "winner",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """The rented machine of one attempt."""

    key: str
    number: int
    """The attempt's."""
    cost_usd: float
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
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
    earlier: tuple[Rented, ...] = ()
    """Machines of the attempts before ``attempt``, oldest first."""

    @property
    def rented(self) -> tuple[Rented, ...]:
        """The machines of all attempts, oldest first."""
        return (*self.earlier, *_rented([self.attempt] if self.attempt is not None else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """All seeds' series of one metric on both sides, by seed."""

    name: str
    base: Mapping[int, Series]
    head: Mapping[int, Series]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointComparison:
    """One point on both sides, matched by its swept values (empty without a sweep)."""

    point: Mapping[str, Value]
    metrics: tuple[MetricComparison, ...]
    base_trials: tuple[TrialSummary, ...]
    head_trials: tuple[TrialSummary, ...]
    curves: tuple[Curves, ...]
    """For the metrics that the spec plots or tracks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs between the sides besides metrics: a parameter, code, data, environment."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one side took: attempts all counted, reused trials at what they once cost."""

    duration_s: float
    cost_usd: float
    trials: int
    spent_s: float
    """Of ``duration_s``, what this run itself spent (not reused)."""
    spent_usd: float
    hardware: tuple[Hardware, ...] = ()
    worst_usd: float = 0.0
    """What could have been spent at most, as it was known when the trials began."""


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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


def compare(
    plan: Plan,
    records: Mapping[str, Record],
    attempts: Mapping[str, Sequence[Attempt]],
    *,
    acknowledgements: Sequence[Acknowledgement] = (),
    noise: Mapping[str, Mapping[str, Noise]] | None = None,
    rules: Mapping[str, Experiment] | None = None,
    predictions: Mapping[str, Predictions] | None = None,
    today: date | None = None,
) -> Comparison:
    """Return the verdicts on every experiment of a plan that has something to compare.

    Args:
        plan: which trials stand on which side.
        records: by key, at least those of the plan's trials that have one.
        attempts: those that did not succeed, by key, oldest first.
        acknowledgements: accepted regressions, as head has them.
        noise: run-to-run noise by experiment and metric, see ``history``.
        rules: experiments as the tip of the target branch has them, by name: their metrics, comparison and
            baseline rules decide. What head alone tracks is shown and gates nothing yet.
        predictions: per-example predictions by key, where the only trial of a side left them.
        today: acknowledgements that ended before it do not count.
    """
    compared, unchanged, removed = [], [], []
    for entry in plan.experiments:
        if entry.relation is Relation.REMOVED:
            removed.append(entry.experiment.name)
        elif entry.relation is Relation.SAME:
            unchanged.append(entry.experiment.name)
        else:
            name = entry.experiment.name
            setting = Setting(
                rule=entry.experiment.compare,
                noise=(noise or {}).get(name, {}),
                acknowledgements={a.metric: a for a in acknowledgements if a.experiment == name},
                today=today,
            )
            compared.append(
                _experiment(plan.head, entry, records, attempts, setting, (rules or {}).get(name), predictions or {})
            )
    return Comparison(
        head=plan.head,
        baseline=plan.baseline,
        experiments=tuple(compared),
        unchanged=tuple(unchanged),
        removed=tuple(removed),
    )


def winner(experiment: Experiment, records: Mapping[str, Record]) -> Mapping[str, Value] | None:
    """Return a sweep's best point by the deciding metric's mean over the spec's seeds.

    Points with a seed that has no valid value cannot win; of equal points the first does. None: no point has
    values, or no metric says what is best.

    Args:
        experiment: whose sweep.
        records: of its trials, in any order; those on other seeds (confirmation) do not count.
    """
    sets = [
        _RecordSet(point=record.point, seed=record.seed, repeat=record.repeat, metrics=Metrics(record))
        for record in records.values()
        if record.seed in experiment.seeds
    ]
    newest: dict[tuple[str, int], _RecordSet] = {}
    for found in sorted(sets, key=lambda one: one.repeat):
        newest[_point_id(found.point), found.seed] = found
    values: dict[str, list[float | Unusable]] = {}
    points = {}
    track = ranking(experiment.metrics.track)
    if track is None:
        return None
    for (name, _), found in sorted(newest.items()):
        points[name] = found.point
        values.setdefault(name, []).append(summary_value(track, found.metrics, experiment.metrics.track))
    best = _best_point(track, {name: v if len(v) == len(experiment.seeds) else [] for name, v in values.items()})
    return None if best is None else points[best]


def ranking(tracks: Sequence[Track]) -> Track | None:
    """Return the metric that ranks points: the primary one, else the first gated, else the first with a goal."""
    return next((track for track in ranked(tracks) if track.goal is not Goal.NONE), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordSet:
    point: Mapping[str, Value]
    seed: int
    repeat: int
    metrics: Metrics


def _best_point(track: Track, values: Mapping[str, Sequence[float | Unusable]]) -> str | None:
    """Return the name of the point with the best mean; points whose values are not all valid stand aside."""
    sign = -1 if track.goal is Goal.MINIMIZE else 1
    means = {}
    for name, found in values.items():
        numbers = [value for value in found if not isinstance(value, Unusable)]
        if numbers and len(numbers) == len(found):
            mean = Side.of([Sample(seed=0, repeat=0, key="", value=value) for value in numbers]).mean
            assert mean is not None
            means[name] = sign * mean
    return max(sorted(means), key=means.__getitem__) if means else None


# One experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One point on one seed: its newest repeat that has a record, else its newest one."""

    planned: PlannedTrial
    record: Record | None
    metrics: Metrics | None
    failed: Sequence[Attempt]
    earlier: Sequence[tuple[int, Metrics]]
    """Older repeats that have a record, oldest first."""

    @property
    def trial(self) -> Trial:
        return self.planned.trial


def _experiment(
    head_version: Version,
    entry: ExperimentPlan,
    records: Mapping[str, Record],
    attempts: Mapping[str, Sequence[Attempt]],
    setting: Setting,
    decides: Experiment | None,
    predictions: Mapping[str, Predictions],
) -> ExperimentComparison:
    experiment = decides or entry.experiment
    tracks = _tracks(entry.experiment, decides)
    head = _runs(entry.head, records, attempts)
    base = _runs(entry.base, records, attempts)
    setting = _setting(entry, experiment, tracks, head, base, setting)
    deciding = _deciding(entry, tracks, head, base, setting)
    sweep = len(deciding.head_points) > 1 or len(deciding.base_points) > 1
    points = []
    for name, runs in deciding.head_points.items():
        other = deciding.matching(name)
        if not sweep:
            metrics = deciding.metrics
        else:
            alone = setting if other or setting.baseline else dataclasses.replace(setting, new=True, baseline=_NO_POINT)
            # A point does not decide: what it says is for reading, so nothing is corrected and nothing gates.
            metrics = judge(
                [dataclasses.replace(t, gate=Gate.OFF, floor=None) for t in tracks], _sides(tracks, other, runs), alone
            )
        everywhere = [*runs, *_confirming(head, runs)], [*other, *_confirming(base, other)]
        points.append(_point(*everywhere, metrics, tracks, entry.experiment.plots))
    order = (GateResult.PASS, GateResult.WARN, GateResult.FAIL)
    return ExperimentComparison(
        name=entry.experiment.name,
        path=entry.experiment.path,
        description=entry.experiment.description,
        head=head_version,
        baseline=entry.baseline,
        relation=str(entry.relation),
        renamed_from=entry.renamed_from,
        points=tuple(points),
        metrics=deciding.metrics,
        best_head=deciding.best_head,
        best_base=deciding.best_base,
        changes=_changes(deciding.head, deciding.base),
        head_cost=_cost(head),
        base_cost=_cost(base) if base else None,
        rule=setting.rule,
        plots=entry.experiment.plots,
        gate=max((metric.gate for metric in deciding.metrics), key=order.index, default=GateResult.PASS),
        notes=(
            *deciding.notes,
            # Of other examples, or judged by other code, the scores do not mean the same.
            *([] if "" in setting.incomparable else _checkpoints(deciding, predictions, setting.rule)),
            *_notes(entry, head, base, decides),
        ),
    )


def _confirming(side: Sequence[_Run], point: Sequence[_Run]) -> list[_Run]:
    """Return the runs on fresh seeds of the point that these runs are of."""
    name = _point_id(point[0].trial.point) if point else None
    return [run for run in side if run.trial.confirms and _point_id(run.trial.point) == name]


_NO_POINT = "the baseline has no such point"


def _tracks(experiment: Experiment, decides: Experiment | None) -> tuple[Track, ...]:
    """Return the metrics to compare: those of the rules that decide, then what head alone tracks, ungated."""
    if decides is None:
        return experiment.metrics.track
    known = {track.name for track in decides.metrics.track}
    more = [track for track in experiment.metrics.track if track.name not in known]
    ungated = [dataclasses.replace(track, gate=Gate.OFF, floor=None, primary=False) for track in more]
    return (*decides.metrics.track, *ungated)


def _runs(
    planned: Sequence[PlannedTrial], records: Mapping[str, Record], attempts: Mapping[str, Sequence[Attempt]]
) -> list[_Run]:
    groups: dict[tuple[bool, str, int], list[PlannedTrial]] = {}
    for one in planned:
        trial = one.trial
        groups.setdefault((trial.confirms, _point_id(trial.point), trial.seed), []).append(one)
    runs = []
    for group in groups.values():
        group.sort(key=lambda one: one.trial.repeat)
        recorded = [one for one in group if one.trial.key in records]
        newest = recorded[-1] if recorded else group[-1]
        record = records.get(newest.trial.key)
        runs.append(
            _Run(
                planned=newest,
                record=record,
                metrics=Metrics(record) if record is not None else None,
                failed=[attempt for one in group for attempt in attempts.get(one.trial.key, ())],
                earlier=[(one.trial.repeat, Metrics(records[one.trial.key])) for one in recorded[:-1]],
            )
        )
    return runs


def _setting(
    entry: ExperimentPlan,
    experiment: Experiment,
    tracks: Sequence[Track],
    head: Sequence[_Run],
    base: Sequence[_Run],
    setting: Setting,
) -> Setting:
    """Return the circumstances under which the experiment's metrics are judged."""
    reason = None
    if entry.relation is Relation.NEW:
        reason = "the baseline does not have this experiment"
    elif entry.base_experiment is None:
        reason = entry.baseline.note or "there is no baseline commit"
    return dataclasses.replace(
        setting,
        rule=experiment.compare,
        noise=setting.noise if experiment.compare.noise == "history" else {},
        baseline=reason,
        new=entry.relation is Relation.NEW,
        missing=experiment.baseline.missing,
        first=entry.baseline.chosen == "none",
        incomparable=_incomparable(entry, tracks, head, base),
    )


def _incomparable(
    entry: ExperimentPlan, tracks: Sequence[Track], head: Sequence[_Run], base: Sequence[_Run]
) -> dict[str, str]:
    """Return why the sides' values do not mean the same, by metric; "" stands for all metrics."""
    other = entry.base_experiment
    if other is None or not head or not base:
        return {}
    before = {track.name: track for track in other.metrics.track}
    reasons = {}
    for track in tracks:
        old = before.get(track.name)
        if old is not None and old.summary != track.summary:
            reasons[track.name] = "its summary rule changed, so the values do not mean the same"
        elif old is not None and old.goal != track.goal:
            reasons[track.name] = f"its goal changed from {old.goal} to {track.goal}"
    one, two = base[0].trial, head[0].trial
    if one.evaluation is not None and two.evaluation is not None and one.evaluation != two.evaluation:
        reasons[""] = "the declared evaluation code changed"
    elif one.evaluation is not None and two.evaluation is None:
        # Otherwise a change could edit the evaluation and take the declaration away with it.
        reasons[""] = "the evaluation code is no longer declared, so it is not known whether it changed"
    evaluating = sorted({data.name for e in (entry.experiment, other) for data in e.data if data.role is Role.EVAL})
    pins, old_pins = dict(two.document["data"]), dict(one.document["data"])
    changed = [f"`{name}`" for name in evaluating if pins.get(name) != old_pins.get(name)]
    if changed:
        reasons[""] = f"the evaluation data {', '.join(changed)} changed"
    return reasons


# Points


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deciding:
    """What decides: the only point of each side, or the best one of a sweep."""

    head_points: Mapping[str, Sequence[_Run]]
    """Runs on the spec's seeds by point, in the plan's order."""
    base_points: Mapping[str, Sequence[_Run]]
    head: Sequence[_Run]
    base: Sequence[_Run]
    best_head: Mapping[str, Value] | None
    best_base: Mapping[str, Value] | None
    metrics: tuple[MetricComparison, ...]
    notes: tuple[str, ...]

    def matching(self, name: str) -> Sequence[_Run]:
        """Return the baseline's runs of the point with the same swept values, if exactly one has them."""
        if name in self.base_points:
            return self.base_points[name]
        # The baseline may not sweep what head does: then its fixed parameters say which point it is.
        wanted = self.head_points[name][0].trial.point
        fitting = [
            runs
            for runs in self.base_points.values()
            if wanted and {key: runs[0].trial.params.get(key) for key in wanted} == wanted
        ]
        return fitting[0] if len(fitting) == 1 else []


def _deciding(
    entry: ExperimentPlan, tracks: Sequence[Track], head: Sequence[_Run], base: Sequence[_Run], setting: Setting
) -> _Deciding:
    notes: list[str] = []
    head_points, base_points = _by_point(head), _by_point(base)
    best_head = _chosen(tracks, head_points)
    best_base = _chosen(tracks, base_points)
    head_runs, head_of = _representing(entry.experiment, head, head_points, best_head, "this change", notes)
    base_runs, base_of = _representing(entry.base_experiment, base, base_points, best_base, "the baseline", notes)
    setting = dataclasses.replace(setting, head_best_of=head_of, base_best_of=base_of)
    return _Deciding(
        head_points=head_points,
        base_points=base_points,
        head=head_runs,
        base=base_runs,
        best_head=head_points[best_head][0].trial.point if best_head is not None and len(head_points) > 1 else None,
        best_base=base_points[best_base][0].trial.point if best_base is not None and len(base_points) > 1 else None,
        metrics=judge(tracks, _sides(tracks, base_runs, head_runs), setting),
        notes=tuple(notes),
    )


def _by_point(runs: Iterable[_Run]) -> dict[str, list[_Run]]:
    points: dict[str, list[_Run]] = {}
    for run in runs:
        if not run.trial.confirms:
            points.setdefault(_point_id(run.trial.point), []).append(run)
    return points


def _chosen(tracks: Sequence[Track], points: Mapping[str, Sequence[_Run]]) -> str | None:
    if len(points) == 1:
        return next(iter(points))
    track = ranking(tracks)
    if track is None:
        return None
    return _best_point(track, {name: [_value(track, run, tracks) for run in runs] for name, runs in points.items()})


def _representing(
    experiment: Experiment | None,
    runs: Sequence[_Run],
    points: Mapping[str, Sequence[_Run]],
    best: str | None,
    side: str,
    notes: list[str],
) -> tuple[Sequence[_Run], int]:
    """Return the runs that stand for a side, and among how many points they were chosen without confirmation."""
    if len(points) < 2:
        return (next(iter(points.values())) if points else []), 1
    if best is None:
        notes.append(f"no point of {side}'s sweep of {len(points)} has a value on every seed, or no metric has a goal")
        return next(iter(points.values())), 1
    confirm: Collection[int] = experiment.sweep.confirm if experiment is not None and experiment.sweep else ()
    if confirm:
        confirmed = [run for run in runs if run.trial.confirms and _point_id(run.trial.point) == best]
        # On the head side a confirmation that failed must show; the baseline's may never have been asked for.
        if confirmed and (side == "this change" or any(run.record is not None for run in confirmed)):
            notes.append(f"best of {len(points)} points for {side}, judged on {len(confirm)} fresh seeds")
            return confirmed, 1
        notes.append(f"best of {len(points)} points for {side}, not yet trained on the seeds that confirm it")
    else:
        notes.append(f"best of {len(points)} points for {side}, not confirmed on fresh seeds")
    lost = sum(any(run.record is None for run in point) for point in points.values())
    if lost:
        notes.append(f"{lost} of {len(points)} points of {side} lack a result and could not win")
    return points[best], len(points)


def _point_id(point: Mapping[str, Value]) -> str:
    return json.dumps(point, sort_keys=True)


def _sides(tracks: Sequence[Track], base: Sequence[_Run], head: Sequence[_Run]) -> list[tuple[Side, Side]]:
    return [(_side(track, base, tracks), _side(track, head, tracks)) for track in tracks]


def _side(track: Track, runs: Sequence[_Run], tracks: Sequence[Track]) -> Side:
    samples = []
    for run in runs:
        value, trial = _value(track, run, tracks), run.planned.trial
        if isinstance(value, Unusable):
            found = Sample(
                seed=trial.seed,
                repeat=trial.repeat,
                key=trial.key,
                value=None,
                problem=value.text,
                invalid=value.invalid,
            )
        else:
            assert run.metrics is not None
            count = run.metrics.count(track.name)
            found = Sample(seed=trial.seed, repeat=trial.repeat, key=trial.key, value=value, count=count)
        samples.append(found)
    return Side.of(samples)


def _value(track: Track, run: _Run, tracks: Sequence[Track]) -> float | Unusable:
    if run.metrics is None:
        if run.failed:
            last = run.failed[-1]
            return Unusable(f"has no value: the trial {str(last.outcome).replace('_', ' ')}, {last.reason}")
        return Unusable("has no value: the trial was not run")
    return summary_value(track, run.metrics, tracks)


def _point(
    head: Sequence[_Run],
    base: Sequence[_Run],
    metrics: tuple[MetricComparison, ...],
    tracks: Sequence[Track],
    plots: Sequence[Plot],
) -> PointComparison:
    names = dict.fromkeys([*(track.name for track in tracks), *(name for plot in plots for name in plot.y)])
    curves = [Curves(name=name, base=_series(name, base), head=_series(name, head)) for name in names]
    return PointComparison(
        point=head[0].trial.point,
        metrics=metrics,
        base_trials=tuple(_trial(run, tracks) for run in base),
        head_trials=tuple(_trial(run, tracks) for run in head),
        curves=tuple(curve for curve in curves if curve.base or curve.head),
    )


def _series(name: str, runs: Sequence[_Run]) -> dict[int, Series]:
    return {
        run.trial.seed: run.metrics.series[name]
        for run in runs
        if run.metrics is not None and name in run.metrics.series
    }


def _trial(run: _Run, tracks: Sequence[Track]) -> TrialSummary:
    record = run.record
    repeats: dict[str, tuple[float, ...]] = {}
    for track in tracks if run.earlier else ():
        values = [summary_value(track, metrics, tracks) for _, metrics in run.earlier]
        repeats[track.name] = tuple(value for value in values if not isinstance(value, Unusable))
    return TrialSummary(
        key=run.trial.key,
        seed=run.trial.seed,
        repeat=run.trial.repeat,
        point=run.trial.point,
        attempt=record.attempt if record is not None else run.failed[-1] if run.failed else None,
        recorded=record is not None,
        reused=run.planned.action is Action.REUSE,
        problems=record.problems if record is not None else (),
        ignored=record.ignored if record is not None else (),
        repeats=repeats,
        earlier=_rented(run.failed if record is not None else run.failed[:-1]),
    )


def _rented(attempts: Sequence[Attempt]) -> tuple[Rented, ...]:
    return tuple(
        Rented(key=one.key, number=one.number, cost_usd=one.cost_usd, usage=one.usage)
        for one in attempts
        if one.usage is not None
    )


# What else differs


def _changes(head: Sequence[_Run], base: Sequence[_Run]) -> tuple[Change, ...]:
    """Return where the key documents of the two sides that decide differ; seeds are no change."""
    if not head or not base:
        return ()
    found = differences(base[0].trial.document, head[0].trial.document)
    return tuple(
        Change(what=one.where, before=_shown(one.before), after=_shown(one.after))
        for one in found
        if one.where not in ("seed", "repeat", "format")
    )


def _shown(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _cost(runs: Sequence[_Run]) -> Cost:
    attempts = []
    for run in runs:
        own = [*run.failed, *([run.record.attempt] if run.record is not None else [])]
        attempts += [(attempt, run.planned.action is Action.RUN) for attempt in own]
    machines = dict.fromkeys(attempt.hardware for attempt, _ in attempts if attempt.hardware is not None)
    return Cost(
        duration_s=math.fsum(attempt.duration_s for attempt, _ in attempts),
        cost_usd=math.fsum(attempt.cost_usd for attempt, _ in attempts),
        trials=len(runs),
        spent_s=math.fsum(attempt.duration_s for attempt, spent in attempts if spent),
        spent_usd=math.fsum(attempt.cost_usd for attempt, spent in attempts if spent),
        hardware=tuple(machines),
        worst_usd=math.fsum(_worst_usd(run) for run in runs),
    )


def _worst_usd(run: _Run) -> float:
    own = [*run.failed, *([run.record.attempt] if run.record is not None else [])]
    return max((attempt.usage.worst_usd or 0.0 for attempt in own if attempt.usage is not None), default=0.0)


def _checkpoints(deciding: _Deciding, predictions: Mapping[str, Predictions], rule: CompareRule) -> list[str]:
    """Say what per-example predictions tell where each side has one run only, so that seeds tell nothing."""
    if len(deciding.head) != 1 or len(deciding.base) != 1:
        return []
    keys = [side[0].trial.key for side in (deciding.base, deciding.head)]
    if not all(key in predictions for key in keys):
        return []
    return [paired_sentence(predictions[keys[0]], predictions[keys[1]], rule.confidence, keys=keys)]


def _notes(entry: ExperimentPlan, head: Sequence[_Run], base: Sequence[_Run], decides: Experiment | None) -> list[str]:
    notes = []
    machines = [_machines(side) for side in (base, head)]
    if all(machines) and machines[0] != machines[1]:
        notes.append(f"the sides ran on different hardware: {_listed(machines[0])} and now {_listed(machines[1])}")
    other = entry.base_experiment
    if other is not None and entry.experiment.metrics.evaluation and not other.metrics.evaluation:
        notes.append("the baseline does not declare its evaluation code, so it is not known whether that changed")
    repeated = sorted({run.trial.seed for run in (*head, *base) if run.earlier})
    if repeated:
        seeds = f"seed{'s' if len(repeated) > 1 else ''} {', '.join(map(str, repeated))}"
        notes.append(f"the newest repeat counts for {seeds}, trained more than once")
    if decides is not None and decides.metrics.track != entry.experiment.metrics.track:
        notes.append("the change edits the tracked metrics; their rules apply after the merge")
    return notes


def _machines(runs: Sequence[_Run]) -> set[str]:
    hardware = [run.record.attempt.hardware for run in runs if run.record is not None]
    return {", ".join((machine.machine, *machine.gpus)) for machine in hardware if machine is not None}


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in sorted(names))

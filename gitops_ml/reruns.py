"""A past training once more: its spec as it was, with other data, parameters, seeds or another backend.

The changes are made to the spec's plain data, which is then validated like any spec: what no spec may say, no rerun
can. Code and environment are read from the commit's own tree; only a changed data entry may come from another one.
"""

import dataclasses
import enum
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gitops_ml.diagnostics import Severity
from gitops_ml.entries import pins
from gitops_ml.errors import UserError
from gitops_ml.planning import (
    Action,
    ExperimentPlan,
    Plan,
    PlannedTrial,
    Relation,
    Situation,
    Specs,
    Tree,
    TreeFile,
    Trial,
    data_pin,
    digest,
    inside,
    next_repeat,
    recorded_trial,
    side_trials,
)
from gitops_ml.records import BaselineChoice, Record, Series, Version
from gitops_ml.schema import nearest_or_all
from gitops_ml.source import read_source, shown
from gitops_ml.spec import Data, Experiment, Track, Value
from gitops_ml.summaries import Metrics, Unusable, summary_value
from gitops_ml.validation import load
from gitops_ml.values import dataclass

WORK_TREE = "worktree"
"""As a version of data in the repository: as it lies there, committed or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChange:
    """Another content for one data entry: ``uri`` empty means the spec's own."""

    name: str
    uri: str
    version: str | None

    @property
    def in_repository(self) -> bool:
        """Say whether it is a path (of the spec's own URI that is not known here)."""
        return "://" not in self.uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be other than it was."""

    data: Mapping[str, DataChange] = dataclasses.field(default_factory=dict)
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """As they were written, by name."""
    seeds: Sequence[int] = ()
    backend: str | None = None


def data_change(text: str) -> DataChange:
    """Return what ``NAME=URI[@VERSION]`` asks for; in a URI with a scheme the ``@`` before a path is no version's.

    Raises:
        UserError: it has another form.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise UserError(f"{text[:80]}: give NAME=URI@VERSION, or NAME=PATH@COMMIT, such as train=data/train.csv")
    before, at, version = rest.rpartition("@")
    if not at or ("://" in rest and "/" in version):
        return DataChange(name=name, uri=rest, version=None)
    if not version:
        raise UserError(f"{text[:80]}: nothing stands behind the @; give a version, a commit or `{WORK_TREE}`")
    return DataChange(name=name, uri=before, version=version)


def param_change(text: str) -> tuple[str, str]:
    """Return the name and the value, as it was written, of ``NAME=VALUE``.

    Raises:
        UserError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"{text[:80]}: give NAME=VALUE, such as lr=0.05")
    return name, value


# The spec


def changed(text: bytes, path: str, changes: Changes, record: Record | None = None) -> Experiment:
    """Return the experiment that a spec describes, narrowed to a record's trial if there is one, with the changes.

    Args:
        text: the spec as it stands in the commit, valid.
        path: its file.
        changes: what is to be other.
        record: the one trial to repeat; None: all points and seeds.

    Raises:
        UserError: a change names what the spec does not have, or leaves it invalid.
    """
    spec: dict[str, Any] = dict(read_source(text, path).data)
    if record is not None:
        spec["params"] = {name: _plain(value) for name, value in record.params.items()}
        spec["seeds"] = [record.seed]
        spec["sweep"] = {"list": [{name: _plain(value) for name, value in record.point.items()}]}
    spec["data"] = [_with_data(dict(entry), changes) for entry in spec.get("data", ())]
    _known("data entry", changes.data, [entry["name"] for entry in spec["data"]])
    params = dict(spec.get("params", {}))
    _known("parameter", changes.params, list(params))
    for name, value in changes.params.items():
        params[name] = _value(name, value, params[name])
        if "sweep" in spec:
            spec["sweep"] = _fixed(spec["sweep"], name, params[name], at_points=record is not None)
    spec["params"] = params
    if changes.seeds:
        spec["seeds"] = list(changes.seeds)
    if changes.backend is not None:
        spec["backend"] = changes.backend
    if "sweep" in spec:
        spec["sweep"] = {name: value for name, value in spec["sweep"].items() if name != "confirm"}
        if not any(_size(spec["sweep"].get(form)) for form in ("grid", "list", "random")):
            del spec["sweep"]
    # JSON is YAML, but for the two halves that it makes of a character beyond 16 bits.
    experiment, findings = load(json.dumps(spec, ensure_ascii=False).encode(), path)
    if experiment is None:
        errors = [finding for finding in findings if finding.severity is Severity.ERROR]
        said = "; ".join(f"{finding.message} [{finding.code}]" for finding in errors)
        raise UserError(f"{path} cannot be run with these changes: {said}")
    return experiment


def _with_data(entry: dict[str, Any], changes: Changes) -> dict[str, Any]:
    change = changes.data.get(entry["name"])
    if change is None:
        return entry
    if change.uri:
        entry["uri"] = change.uri
    entry.pop("version", None)
    # A path's version says which commit it is read from; in a spec it has none.
    return entry if "://" not in entry["uri"] or change.version is None else {**entry, "version": change.version}


def _known(what: str, asked: Collection[str], known: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            advice = nearest_or_all(name, known) if known else f"; it has no {what}"
            raise UserError(f"the spec there has no {what} `{name[:80]}`{advice}")


def _value(name: str, text: str, before: object) -> object:
    """Return a parameter's value, read as in a spec; where the spec has a text it is taken as it stands.

    It is of the kind that the spec has there: a number that becomes a text is a slip of the finger, and the training
    would find out after the machine was paid for.
    """
    if isinstance(before, str):
        return text
    source = read_source(text.encode(), f"--param {name}")
    wanted = _kind(before)
    if source.problems or _kind(source.data) != wanted:
        there = json.dumps(before, ensure_ascii=False)
        raise UserError(
            f"--param {shown(f'{name}={text}')[1:-1]}: {shown(there)} stands in the spec there; give {wanted}"
        )
    return source.data


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case [first, *rest]:
            kinds = {_kind(first), *map(_kind, rest)}
            of = {"a number": "numbers", "a text": "texts", "true or false": "true and false"}
            return f"a list of {' and '.join(sorted(of.get(kind, 'values') for kind in kinds))}"
        case _:
            return "something else"


def _fixed(sweep: dict[str, Any], name: str, value: object, *, at_points: bool) -> dict[str, Any]:
    """Return a sweep in which one parameter has one value."""
    if at_points:  # the trial's own point, whose names stay
        return {"list": [{key: value if key == name else old for key, old in sweep["list"][0].items()}]}
    fixed: dict[str, Any] = {}
    for form, what in sweep.items():
        if form == "grid":
            fixed[form] = {key: values for key, values in what.items() if key != name}
        elif form == "list":
            without = [{key: old for key, old in point.items() if key != name} for point in what]
            fixed[form] = [point for index, point in enumerate(without) if point not in without[:index]]
        elif form == "random" and name in what["space"]:
            # Without it, all that is drawn after it would be other numbers.
            raise UserError(
                f"--param {name}: it is drawn at random there, so each trial has its own; rerun one of them by its key"
            )
        else:
            fixed[form] = what
    return fixed


def _size(sweep: Any) -> int:
    return len([point for point in sweep if point]) if isinstance(sweep, list) else len(sweep or ())


def _plain(value: Value) -> object:
    return list(value) if isinstance(value, tuple) else value


# Trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """What is trained again, and what it is compared with."""

    experiment: Experiment
    """With the changes."""
    original: Experiment
    head: tuple[PlannedTrial, ...]
    base: tuple[PlannedTrial, ...]
    """The originals that have a record."""
    repeats: bool
    """Nothing that determines the result is other than it was: the numbers should come out the same."""
    version: Version
    source: Version
    """The commit of the originals."""

    def plan(self, name: str) -> Plan:
        """Return what ``compare`` takes; ``name`` is how the original was called."""
        choice = BaselineChoice(version=self.source, ref=name, chosen="original")
        if not self.base:
            choice = dataclasses.replace(choice, version=None, note=f"{name} has no record to compare with")
        entry = ExperimentPlan(
            experiment=self.experiment,
            base_experiment=self.original if self.base else None,
            baseline=choice,
            relation=Relation.CHANGED if self.base else Relation.NO_BASELINE,
            head=self.head,
            base=self.base,
        )
        return Plan(head=self.version, baseline=choice, experiments=(entry,))


def originals(planned: Sequence[Trial], records: Sequence[Record]) -> Mapping[str, Record]:
    """Return the record of each planned trial, by its key: the newest repeat of the same content.

    A spec that names no environment is trained in that of its day, which is part of the key and gone by now; records
    that differ in that alone are the trial's too, those of the same commit first.

    Args:
        planned: the trials as the commit's spec gives them today.
        records: those that may be theirs.
    """
    by_content: dict[str, list[Record]] = {}
    for record in records:
        by_content.setdefault(_content(record.document), []).append(record)
    found = {}
    for trial in planned:
        candidates = by_content.get(_content(trial.document), ())
        if candidates:
            found[trial.key] = max(
                candidates,
                key=lambda record: (
                    record.document.get("environment") == trial.document["environment"],
                    record.commit == trial.version.commit,
                    record.repeat,
                    record.attempt.started_at,
                    record.key,
                ),
            )
    return found


def _content(document: Mapping[str, Any]) -> str:
    environment = document.get("environment")
    if isinstance(environment, Mapping):
        environment = {name: value for name, value in environment.items() if name != "interpreter"}
    return digest({**document, "environment": environment, "repeat": 0})


def first_repeats(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return each point on each seed once."""
    return tuple(trial for trial in trials if trial.repeat == 0)


def rerun(
    experiment: Experiment,
    original: Experiment,
    specs: Specs,
    situation: Situation,
    found: Sequence[tuple[Trial, Record | None]],
    data_from: Mapping[str, Tree],
    *,
    dirty: bool,
) -> Rerun:
    """Return the trials to train, and their originals.

    Args:
        experiment: with the changes.
        original: as the spec describes it.
        specs: the commit's.
        situation: known records; with ``force`` a changed trial that has a record is trained again.
        found: the original trials with their records.
        data_from: other trees for changed data.
        dirty: some of that data is in no commit.
    """
    tree = specs.tree
    trials = side_trials(experiment, tree, specs.paths, situation, data_from=data_from, described=original)
    newest = {_first(trial.document): trial for trial in trials}
    contents = {_first(trial.document if record is None else record.document) for trial, record in found}
    repeats = newest.keys() <= contents
    version = dataclasses.replace(tree.version, dirty=tree.version.dirty or dirty)
    head = []
    for content, trial in newest.items():
        source = _source(trial, found)
        if content not in contents and source is not None:
            trial = dataclasses.replace(trial, derived_from=source)
        head.append(_planned(dataclasses.replace(trial, version=version), situation, again=repeats))
    base = []
    for trial, record in found:
        if record is not None:
            recorded = dataclasses.replace(recorded_trial(record, original, tree.version), point=trial.point)
            base.append(PlannedTrial(trial=recorded, action=Action.REUSE, reason="has a record"))
    return Rerun(
        experiment=experiment,
        original=original,
        head=tuple(head),
        base=tuple(base),
        repeats=repeats,
        version=version,
        source=tree.version,
    )


def _first(document: Mapping[str, Any]) -> str:
    """Return the key without any repeat: the same for all repeats of one content."""
    return digest({**document, "repeat": 0})


def _source(trial: Trial, found: Sequence[tuple[Trial, Record | None]]) -> str | None:
    """Return the key of the original that a trial comes from: of the same point and seed, else of the nearest."""
    if not found:
        return None
    ranked = sorted(found, key=lambda pair: (pair[0].point != trial.point, pair[0].seed != trial.seed, pair[1] is None))
    planned, record = ranked[0]
    return planned.key if record is None else record.key


def _planned(trial: Trial, situation: Situation, *, again: bool) -> PlannedTrial:
    if trial.key in situation.known:
        if not again and not situation.force:
            return PlannedTrial(trial=trial, action=Action.REUSE, reason="has a record")
        trial = next_repeat(trial)
    reason = "a rerun"
    return PlannedTrial(trial=trial, action=Action.RUN, reason=reason, estimate=situation.estimate(trial))


def pinned_data(
    experiment: Experiment, tree: Tree, record: Record, changes: Changes, blobs: Collection[str]
) -> Mapping[str, Tree]:
    """Return trees that hold a record's own data, where the commit's tree has another content.

    A record that is itself a rerun with other data, or one of uncommitted data, was trained on what its commit does
    not hold. A file is found by its object id as long as git has it.

    Args:
        experiment: the record's, as the spec describes it.
        tree: of the record's commit.
        record: whose data.
        changes: data that is to be other anyway.
        blobs: ids of the record's files that git still has, see ``data_blobs``.

    Raises:
        UserError: some data of the record cannot be found again.
    """
    known = pins(record.document)
    found = {}
    for entry in experiment.data:
        pin = known.get(entry.name)
        if entry.name in changes.data or pin is None:
            continue
        if pin_there(entry, experiment, tree) == pin:
            continue
        oid = pin.removeprefix("git:")
        if "://" in entry.uri or oid not in blobs:
            raise UserError(
                f"{record.key[:12]} was trained on other data than its spec names: `{entry.name}` was {shown(pin)}, "
                f"and it is not known where that is; say it: --data {entry.name}=URI@VERSION"
            )
        path = inside(entry.uri, experiment.workdir)
        found[entry.name] = dataclasses.replace(tree, files={path: TreeFile(path, "100644", oid)})
    return found


def data_blobs(record: Record) -> Sequence[str]:
    """Return the object ids that a record's data is pinned to."""
    found = pins(record.document).values()
    return [pin.removeprefix("git:") for pin in found if re.fullmatch("git:[0-9a-f]{40,64}", pin)]


def pin_there(entry: Data, experiment: Experiment, tree: Tree) -> str | None:
    """Return what fixes a data entry's content at a tree; None: the tree does not have it."""
    try:
        return data_pin(entry, experiment, tree)
    except UserError:
        return None


# Whether a repeat gave the same numbers


class Sameness(enum.StrEnum):
    """How the numbers of a repeat stand to the original's."""

    BIT_EQUAL = "bit-equal"
    WITHIN_TOLERANCE = "equal within tolerance"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """One metric of a repeat against the original, over all runs."""

    name: str
    sameness: Sameness
    difference: float | None
    """The largest between two runs' values; None: some run lacks it, or its value is no number."""


def repeated(pairs: Sequence[tuple[Record, Record]], tracks: Sequence[Track]) -> Sequence[Repeated]:
    """Return how each metric came out again: tracked ones first, in their order, then the others by name.

    Args:
        pairs: the original and its repeat, for each run, with their series.
        tracks: tell how a value is taken, and how much of a difference is tolerated.
    """
    metrics = [(Metrics(before), Metrics(after)) for before, after in pairs]
    names = {name for sides in metrics for side in sides for name in (*side.series, *side.scalars)}
    wanted = {track.name: track for track in tracks}
    found = []
    for name in [*wanted, *sorted(names - wanted.keys())]:
        track = wanted.get(name) or Track(name=name)
        judged = [_judged(track, before, after, tracks) for before, after in metrics]
        sameness = max((one for one, _ in judged), key=list(Sameness).index)
        differences = [difference for _, difference in judged]
        known = [difference for difference in differences if difference is not None]
        largest = max(known) if len(known) == len(differences) else None
        found.append(Repeated(name=name, sameness=sameness, difference=largest))
    return found


def _judged(track: Track, before: Metrics, after: Metrics, tracks: Sequence[Track]) -> tuple[Sameness, float | None]:
    one, other = (summary_value(track, side, tracks) for side in (before, after))
    known = not isinstance(one, Unusable) and not isinstance(other, Unusable)
    difference = abs(float(other) - float(one)) if known else None  # type: ignore[arg-type]
    if _numbers(track.name, before) == _numbers(track.name, after):
        return Sameness.BIT_EQUAL, difference
    if difference is None or not math.isfinite(difference):
        return Sameness.DIFFERENT, None
    tolerance = track.tolerance.absolute + track.tolerance.relative * abs(float(one))  # type: ignore[arg-type]
    # Of a series some step may differ whose value does not count.
    within = difference <= tolerance and tolerance > 0
    return Sameness.WITHIN_TOLERANCE if within else Sameness.DIFFERENT, difference


def _numbers(name: str, metrics: Metrics) -> Any:
    """Return what a metric's bits are compared by: as texts, in which NaN equals NaN and 0 is not -0."""
    series: Series | None = metrics.series.get(name)
    if series is not None:
        return [*map(repr, series.steps)], [*map(repr, series.values)]
    scalar = metrics.scalars.get(name)
    return None if scalar is None else repr(scalar.value)

"""Specs x git trees x known records -> a plan: which trials, with which keys, and what to do about each.

Pure: trees are listings that the caller read with git, known keys are a set. The key rules are a contract
(docs/decisions.md, "Keys"): golden vectors in the tests keep them.
"""

import dataclasses
import enum
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gitops_ml import pointers
from gitops_ml.errors import UserError
from gitops_ml.globs import compiled, folders_above, rooted
from gitops_ml.pins import content
from gitops_ml.records import BaselineChoice, Record, Version
from gitops_ml.spec import Data, Experiment, Missing, RandomSweep, Range, Scalar, Value
from gitops_ml.values import dataclass

KEY_FORMAT = "gitops-ml-key/1"
"""Changes only when the meaning of a key does: every key in every repository changes with it."""

# Never part of the code: they describe experiments, they do not run in them.
_OWN_FILES = ("gitops-ml.yaml", "gitops-ml.accepted.yaml")
# Not part of the code unless a spec includes them by name.
_LEFT_OUT = ("**/*.md", ".github/**", ".gitlab/**", ".gitlab-ci.yml")


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One entry of a git tree: ``mode`` is git's (100644, 100755, 120000, 160000), ``oid`` its object id."""

    path: str
    mode: str
    oid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A whole repository state, readable without a checkout."""

    version: Version
    files: Mapping[str, TreeFile]
    """By path, in git's order."""
    read: Callable[[str], bytes] = dataclasses.field(repr=False, compare=False)
    """Object id of a blob -> its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training: experiment x point x seed. Everything a backend needs besides the objects themselves."""

    key: str
    document: Mapping[str, Any]
    experiment: Experiment
    version: Version
    point: Mapping[str, Value]
    params: Mapping[str, Value]
    seed: int
    repeat: int = 0
    files: tuple[TreeFile, ...] = ()
    """What the bundle holds, paths from the repository's root: included code, environment, repository data."""
    sources: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Of data that DVC keeps, by the entry's name: what ``datasets.dvc`` needs to find it."""
    evaluation: str | None = None
    confirms: bool = False
    """Trained on a fresh seed to confirm a sweep's winner."""
    derived_from: str | None = None
    """The key of the trial that this is a rerun of, with changes."""


class Action(enum.StrEnum):
    """What ``run`` does about a trial."""

    REUSE = "reuse"
    RUN = "run"
    SKIP = "skip"
    """Has no record and is not trained; the reason says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a trial may take and cost. ``worst_usd``: price x deadline; ``source`` names the price's origin and date."""

    cost_usd: Decimal = Decimal(0)
    worst_usd: Decimal = Decimal(0)
    duration_s: float | None = None
    source: str = ""
    instance_type: str = ""
    """The machine that the backend would take first, for policy; empty: it cannot tell, or has none."""
    region: str = ""
    instance_types: tuple[str, ...] = ()
    """All machines that it may take."""
    candidates: tuple[str, ...] = ()
    """What it would try, each with its price, for people."""
    note: str = ""
    """What else is to be known about the figures, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """A trial and what is to be done about it, with the reason in words."""

    trial: Trial
    action: Action
    reason: str
    estimate: Estimate = Estimate()


class Relation(enum.StrEnum):
    """How an experiment stands to the baseline commit."""

    SAME = "same"
    """Equal head and base keys."""
    CHANGED = "changed"
    NEW = "new"
    REMOVED = "removed"
    NO_BASELINE = "no baseline"
    """There is no baseline commit, or the spec there is not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """One experiment on both sides. ``head`` is empty when it was removed, ``base`` when it is new."""

    experiment: Experiment
    base_experiment: Experiment | None
    baseline: BaselineChoice
    relation: Relation
    head: tuple[PlannedTrial, ...]
    base: tuple[PlannedTrial, ...]
    renamed_from: str | None = None

    def trials(self) -> Iterator[PlannedTrial]:
        """Yield both sides' trials, head first."""
        yield from self.head
        yield from self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would run, be reused and cost, for one head version against one baseline."""

    head: Version
    baseline: BaselineChoice
    experiments: tuple[ExperimentPlan, ...]

    def to_run(self) -> tuple[PlannedTrial, ...]:
        """Return the trials to train, each key once, head side first."""
        sides = (*(e.head for e in self.experiments), *(e.base for e in self.experiments))
        planned = {p.trial.key: p for p in reversed(list(itertools.chain(*sides))) if p.action is Action.RUN}
        return tuple(reversed(planned.values()))

    def keys(self) -> frozenset[str]:
        """Return the keys of all trials on both sides."""
        return frozenset(p.trial.key for e in self.experiments for p in e.trials())


# Keys


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value in its one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def files_digest(files: Sequence[TreeFile]) -> str:
    """Return the digest of some files' paths, modes and contents, whatever their order."""
    return digest(sorted([file.path, file.mode, file.oid] for file in files))


def inside(path: str, workdir: str) -> str:
    """Return a path from the repository's root for one that a spec gives relative to its workdir.

    Raises:
        UserError: it leads out of the repository.
    """
    found = rooted(workdir, path)
    if found is None:
        raise UserError(f"{path} leads out of the repository (from workdir {workdir})")
    return found


def code_files(experiment: Experiment, tree: Tree, specs: Collection[str]) -> tuple[TreeFile, ...]:
    """Return the files whose change means that the code changed, in the tree's order.

    ``specs`` are the paths of all specs: they describe experiments and are never code.
    """
    code = experiment.code
    exclude = [inside(glob, experiment.workdir) for glob in code.exclude]
    if code.include is None:
        include, exclude = ["**"], [*exclude, *_LEFT_OUT]
    else:
        include = [inside(glob, experiment.workdir) for glob in code.include]
    for data in experiment.data:
        if "://" not in data.uri:
            path = inside(data.uri, experiment.workdir)
            exclude += [path, f"{path}/**"]
            if not data_files(data, experiment, tree):
                # What DVC says about it beside the digest, which the key has, changes nothing.
                exclude.append(f"{path.rstrip('/')}.dvc")
    wanted, unwanted = compiled(tuple(include)), compiled(tuple(exclude))
    return tuple(
        file
        for path, file in tree.files.items()
        if wanted(path) and not unwanted(path) and path not in specs and path not in _OWN_FILES
    )


def data_files(data: Data, experiment: Experiment, tree: Tree) -> tuple[TreeFile, ...]:
    """Return the repository files of a data entry: one file, or all below a folder; none for other kinds of URI."""
    if "://" in data.uri:
        return ()
    path = inside(data.uri, experiment.workdir).rstrip("/")
    if path in tree.files:
        return (tree.files[path],)
    return tuple(file for name, file in tree.files.items() if name.startswith(path + "/"))


def data_pin(data: Data, experiment: Experiment, tree: Tree) -> str:
    """Return what fixes the content of a data entry: its version, or the object id of what the tree holds.

    Raises:
        UserError: the tree does not hold it.
    """
    if data.version is not None:
        return content(data.version)
    files = data_files(data, experiment, tree)
    if not files:
        out = _dvc_out(data, experiment, tree)
        if out is None:
            raise UserError(f"{experiment.path}: data `{data.name}`: {data.uri} is not in {_name(tree.version)}")
        return f"md5:{out.md5}"
    if files[0].path == inside(data.uri, experiment.workdir).rstrip("/"):
        return f"git:{files[0].oid}"
    return f"git-tree:{files_digest(files)}"


def data_source(data: Data, experiment: Experiment, tree: Tree) -> Mapping[str, str]:
    """Return what ``datasets.dvc`` needs to find a data entry that DVC keeps; empty: it does not."""
    if "://" in data.uri or data_files(data, experiment, tree):
        return {}
    out = _dvc_out(data, experiment, tree)
    if out is None:
        return {}
    configs = [f"{folder}/.dvc/config".lstrip("/") for folder in folders_above(inside(data.uri, experiment.workdir))]
    config = next((path for path in configs if path in tree.files), None)
    remote = pointers.dvc_remote(tree.read(tree.files[config].oid), config, out.remote) if config is not None else {}
    return {"kind": "dvc", "md5": out.md5, "layout": out.layout, **remote}


def _dvc_out(data: Data, experiment: Experiment, tree: Tree) -> pointers.DvcOut | None:
    path = inside(data.uri, experiment.workdir).rstrip("/")
    for file in pointers.dvc_files(path):
        if file in tree.files and (out := pointers.dvc_out(tree.read(tree.files[file].oid), file, path)) is not None:
            return out
    return None


def environment_files(experiment: Experiment, tree: Tree) -> tuple[TreeFile, ...]:
    """Return the files that the environment names.

    Raises:
        UserError: the tree does not hold one.
    """
    name = experiment.environment.requirements
    if name is None:
        return ()
    path = inside(name, experiment.workdir)
    if path not in tree.files:
        raise UserError(f"{experiment.path}: environment.requirements: {name} is not in {_name(tree.version)}")
    return (tree.files[path],)


def environment_document(experiment: Experiment, tree: Tree, interpreter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment's part of the key document.

    Args:
        experiment: whose environment.
        tree: where the files stand that it names.
        interpreter: what runs it when the spec names nothing: Python minor version, platform, packages.
    """
    environment = experiment.environment
    document: dict[str, Any] = {"env": dict(environment.env)}
    if environment.image is not None:
        document["image"] = environment.image.rpartition("@")[2]
    elif environment.requirements is not None:
        document["requirements"] = [file.oid for file in environment_files(experiment, tree)]
        document["python"] = environment.python or interpreter["python"]
    else:
        document["interpreter"] = {**interpreter, "python": environment.python or interpreter["python"]}
    return document


# Points and trials


def points(experiment: Experiment) -> tuple[Mapping[str, Value], ...]:
    """Return the swept values of each point, in a stable order; one empty point without a sweep."""
    sweep = experiment.sweep
    if sweep is None:
        return ({},)
    if sweep.grid is not None:
        names = list(sweep.grid)
        return tuple(dict(zip(names, values, strict=True)) for values in itertools.product(*sweep.grid.values()))
    if sweep.list is not None:
        return tuple(dict(point) for point in sweep.list)
    if sweep.random is not None:
        return _random_points(sweep.random)
    return ({},)


def _random_points(sweep: RandomSweep) -> tuple[Mapping[str, Value], ...]:
    import random

    # Only random() is the same in every Python; six digits make the last bits of exp() and log() harmless.
    draw = random.Random(sweep.seed).random  # noqa: S311 reproducible on purpose
    return tuple({name: _drawn(space, draw()) for name, space in sorted(sweep.space.items())} for _ in range(sweep.n))


def _drawn(space: Range | tuple[Scalar, ...], u: float) -> Scalar:
    if not isinstance(space, Range):
        return space[min(int(u * len(space)), len(space) - 1)]
    if space.log:
        low, high = math.log(space.low), math.log(space.high)
        return float(f"{math.exp(low + u * (high - low)):.6g}")
    return float(f"{space.low + u * (space.high - space.low):.6g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a plan is made in, besides specs and trees."""

    known: Collection[str]
    """Keys that have a record."""
    interpreter: Mapping[str, Any]
    """Python minor version (``python``), ``platform`` and ``packages`` (sorted name==version)."""
    force: bool = False
    """Train the head side again, as the next repeat."""
    estimate: Callable[[Trial], Estimate] = lambda _: Estimate()


def side_trials(
    experiment: Experiment,
    tree: Tree,
    specs: Collection[str],
    situation: Situation,
    *,
    winner: Mapping[str, Value] | None = None,
    data_from: Mapping[str, Tree] | None = None,
    described: Experiment | None = None,
) -> tuple[Trial, ...]:
    """Return an experiment's trials at one tree: points x seeds, each followed by its recorded repeats.

    Args:
        experiment: as its spec stands in the tree.
        tree: code, data and environment are read from here.
        specs: paths of all specs in the tree.
        situation: known keys and the interpreter.
        winner: the sweep's best point, if known: it is trained again on the seeds that ``sweep.confirm`` names.
        data_from: where the files of a data entry stand, by its name, if not in the tree.
        described: the experiment whose code it is, if its own data entries are other ones than its spec's: what was
            data there is no code here.

    Raises:
        UserError: a file that the spec names is not in the tree.
    """
    code = code_files(described or experiment, tree, specs)
    if not code:
        reason = (
            "only what git tracks is: `git add` the training's files, or name them in `code.include`"
            if experiment.code.include is None
            else f"`code.include` selects nothing: {', '.join(experiment.code.include)}"
        )
        raise UserError(f"{experiment.path}: no file of {_name(tree.version)} is part of the code; {reason}")
    data = [(entry, (data_from or {}).get(entry.name, tree)) for entry in experiment.data]
    named = [
        *environment_files(experiment, tree),
        *(file for entry, holder in data for file in data_files(entry, experiment, holder)),
    ]
    sources = {entry.name: source for entry, holder in data if (source := data_source(entry, experiment, holder))}
    evaluation = tuple(inside(glob, experiment.workdir) for glob in experiment.metrics.evaluation)
    evaluates = compiled(evaluation)
    evaluating = [file for path, file in tree.files.items() if evaluation and evaluates(path)]
    files = tuple({file.path: file for file in (*code, *named)}.values())
    shared = {
        "format": KEY_FORMAT,
        "run": experiment.run if isinstance(experiment.run, str) else list(experiment.run),
        "workdir": experiment.workdir,
        "environment": environment_document(experiment, tree, situation.interpreter),
        "code": files_digest(code),
        "data": sorted([entry.name, data_pin(entry, experiment, holder)] for entry, holder in data),
        "nodes": experiment.resources.nodes,
    }

    def trial(point: Mapping[str, Value], seed: int, repeat: int, *, confirms: bool) -> Trial:
        params = {**experiment.params, **point}
        document = {**shared, "params": _jsonable(params), "seed": seed, "repeat": repeat}
        return Trial(
            key=digest(document),
            document=document,
            experiment=experiment,
            version=tree.version,
            point=point,
            params=params,
            seed=seed,
            repeat=repeat,
            files=files,
            sources=sources,
            evaluation=files_digest(evaluating) if evaluation else None,
            confirms=confirms,
        )

    def repeats(point: Mapping[str, Value], seed: int, *, confirms: bool = False) -> Iterator[Trial]:
        for repeat in itertools.count():
            this = trial(point, seed, repeat, confirms=confirms)
            if repeat > 0 and this.key not in situation.known:
                return
            yield this
            if this.key not in situation.known:
                return

    runs = [t for point in points(experiment) for seed in experiment.seeds for t in repeats(point, seed)]
    if winner is not None and experiment.sweep is not None:
        # It may come from a record, whose values stand in another order; people read both beside each other.
        winner = {name: winner[name] for name in (*experiment.params, *winner) if name in winner}
        runs += [t for seed in experiment.sweep.confirm for t in repeats(winner, seed, confirms=True)]
    return tuple(runs)


def recorded_trial(record: Record, experiment: Experiment, version: Version) -> Trial:
    """Return the trial that a record is of, as far as the record tells: without its files."""
    return Trial(
        key=record.key,
        document=record.document,
        experiment=experiment,
        version=version,
        point=record.point,
        params=record.params,
        seed=record.seed,
        repeat=record.repeat,
        evaluation=record.evaluation,
        derived_from=record.derived_from,
    )


def next_repeat(trial: Trial) -> Trial:
    """Return the same training as one more repeat."""
    document = {**trial.document, "repeat": trial.repeat + 1}
    return dataclasses.replace(trial, key=digest(document), document=document, repeat=trial.repeat + 1)


# Plans


@dataclass(frozen=True, slots=True, kw_only=True)
class Specs:
    """All experiments of one tree, by path, with the tree they stand in."""

    tree: Tree
    experiments: Mapping[str, Experiment]
    paths: frozenset[str]
    """All spec files, also those that are not valid."""

    def by_name(self) -> Mapping[str, Experiment]:
        """Return the experiments by name."""
        return {experiment.name: experiment for experiment in self.experiments.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The baseline side for some experiments: ``specs`` None when there is no such commit."""

    choice: BaselineChoice
    specs: Specs | None
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Spec paths there that are not valid -> why."""


def counterpart(experiment: Experiment, base: Specs) -> Experiment | None:
    """Return the experiment of the same name on the base side, else the one in the same file (a rename)."""
    return base.by_name().get(experiment.name) or base.experiments.get(experiment.path)


def plan_experiment(
    experiment: Experiment,
    head: Specs,
    base: Base,
    situation: Situation,
    *,
    winners: tuple[Mapping[str, Value] | None, Mapping[str, Value] | None] = (None, None),
    train_same: bool,
) -> ExperimentPlan:
    """Return what is to be done for one experiment.

    Args:
        experiment: as it stands on the head side.
        head: the head side's specs.
        base: the baseline side.
        situation: known records, interpreter, force.
        winners: the sweep's best point on the head and the base side, if they are known.
        train_same: train the head side although it has the baseline's keys (head is the baseline ref itself, or
            the experiment was asked for by name).
    """
    other = counterpart(experiment, base.specs) if base.specs is not None else None
    head_trials = side_trials(experiment, head.tree, head.paths, situation, winner=winners[0])
    base_trials: tuple[Trial, ...] = ()
    choice = base.choice
    if base.specs is not None and other is not None:
        try:
            base_trials = side_trials(other, base.specs.tree, base.specs.paths, situation, winner=winners[1])
        except UserError as error:
            choice = dataclasses.replace(choice, note=_joined(choice.note, f"cannot be planned there: {error}"))
            other = None
    broken = base.broken.get(experiment.path)
    if base.specs is None:
        relation = Relation.NO_BASELINE
    elif broken is not None:
        relation = Relation.NO_BASELINE
        choice = dataclasses.replace(choice, note=_joined(choice.note, f"the spec there is not valid: {broken}"))
    elif other is None:
        relation = Relation.NO_BASELINE if choice is not base.choice else Relation.NEW
    elif _first_keys(head_trials) == _first_keys(base_trials):
        relation = Relation.SAME
    else:
        relation = Relation.CHANGED
    train = relation is not Relation.SAME or train_same or situation.force
    planned_head = _planned_head(head_trials, situation, train=train)
    return ExperimentPlan(
        experiment=experiment,
        base_experiment=other,
        baseline=choice,
        relation=relation,
        head=planned_head,
        base=_planned_base(base_trials, experiment, situation, relation, {p.trial.key for p in planned_head}),
        renamed_from=other.name if other is not None and other.name != experiment.name else None,
    )


def removed_experiments(head: Specs, base: Base) -> tuple[ExperimentPlan, ...]:
    """Return a plan entry for each experiment that the baseline has and head has not."""
    if base.specs is None:
        return ()
    kept = {other.name for e in head.experiments.values() if (other := counterpart(e, base.specs)) is not None}
    return tuple(
        ExperimentPlan(
            experiment=experiment,
            base_experiment=experiment,
            baseline=base.choice,
            relation=Relation.REMOVED,
            head=(),
            base=(),
        )
        for experiment in base.specs.experiments.values()
        if experiment.name not in kept and experiment.path not in head.paths
    )


def _first_keys(trials: Sequence[Trial]) -> frozenset[str]:
    return frozenset(trial.key for trial in trials if trial.repeat == 0 and not trial.confirms)


def _planned_head(trials: Sequence[Trial], situation: Situation, *, train: bool) -> tuple[PlannedTrial, ...]:
    planned = [_planned(trial, situation, train=train) for trial in trials]
    if situation.force:
        newest = {(trial.confirms, digest(_jsonable(trial.point)), trial.seed): trial for trial in trials}
        again = [next_repeat(trial) for trial in newest.values() if trial.key in situation.known]
        planned += [
            PlannedTrial(trial=t, action=Action.RUN, reason="asked for again", estimate=situation.estimate(t))
            for t in again
        ]
    return tuple(planned)


def _planned(trial: Trial, situation: Situation, *, train: bool) -> PlannedTrial:
    if trial.key in situation.known:
        return PlannedTrial(trial=trial, action=Action.REUSE, reason="has a record")
    if not train:
        return PlannedTrial(trial=trial, action=Action.SKIP, reason="as on the baseline")
    reason = "confirms the sweep's winner" if trial.confirms else "no record"
    return PlannedTrial(trial=trial, action=Action.RUN, reason=reason, estimate=situation.estimate(trial))


def _planned_base(
    trials: Sequence[Trial],
    experiment: Experiment,
    situation: Situation,
    relation: Relation,
    head_keys: Collection[str],
) -> tuple[PlannedTrial, ...]:
    missing = experiment.baseline.missing
    planned = []
    for trial in trials:
        if trial.key in situation.known:
            planned.append(PlannedTrial(trial=trial, action=Action.REUSE, reason="has a record"))
        elif relation is Relation.SAME:
            planned.append(PlannedTrial(trial=trial, action=Action.SKIP, reason="as on head"))
        elif missing is Missing.RUN or trial.key in head_keys:
            estimate = situation.estimate(trial)
            planned.append(
                PlannedTrial(trial=trial, action=Action.RUN, reason="the baseline has no record", estimate=estimate)
            )
        else:
            reason = f"the baseline has no record, and `baseline.missing` is `{missing}`"
            planned.append(PlannedTrial(trial=trial, action=Action.SKIP, reason=reason))
    return tuple(planned)


def expected_duration(durations: Sequence[float]) -> float | None:
    """Return what a trial will probably take, from what earlier ones took: the median, in seconds."""
    import statistics

    return statistics.median(durations) if durations else None


# JSON and explanations


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as ``schemas/plan.v1.schema.json`` has it; equal plans give equal documents."""
    return {
        "schema": "gitops-ml/plan/v1",
        "head": _version_json(plan.head),
        "baseline": _choice_json(plan.baseline),
        "experiments": [
            {
                "name": entry.experiment.name,
                "path": entry.experiment.path,
                "relation": str(entry.relation),
                "renamed_from": entry.renamed_from,
                "baseline": _choice_json(entry.baseline),
                "head": [_planned_json(planned) for planned in entry.head],
                "base": [_planned_json(planned) for planned in entry.base],
            }
            for entry in plan.experiments
        ],
        "to_run": [planned.trial.key for planned in plan.to_run()],
        "worst_cost_usd": float(sum((p.estimate.worst_usd for p in plan.to_run()), Decimal(0))),
    }


def _version_json(version: Version) -> dict[str, Any]:
    return {"commit": version.commit, "tree": version.tree, "label": version.label, "dirty": version.dirty}


def _choice_json(choice: BaselineChoice) -> dict[str, Any]:
    return {
        "commit": choice.version.commit if choice.version else None,
        "ref": choice.ref,
        "chosen": choice.chosen,
        "behind": choice.behind,
        "note": choice.note,
    }


def _planned_json(planned: PlannedTrial) -> dict[str, Any]:
    trial = planned.trial
    return {
        "key": trial.key,
        "point": _jsonable(trial.point),
        "seed": trial.seed,
        "repeat": trial.repeat,
        "action": str(planned.action),
        "reason": planned.reason,
        "cost_usd": float(planned.estimate.cost_usd),
        "worst_usd": float(planned.estimate.worst_usd),
        "duration_s": planned.estimate.duration_s,
        "price_source": planned.estimate.source,
        "region": planned.estimate.region,
        "instance_types": list(planned.estimate.instance_types),
        "candidates": list(planned.estimate.candidates),
        "cost_note": planned.estimate.note,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where two key documents differ, such as ``params.lr``; None: not there."""

    where: str
    before: object
    after: object


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[Difference, ...]:
    """Return where two key documents differ, in order of place."""
    found: list[Difference] = []
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif name == "data" and isinstance(one, Sequence) and isinstance(other, Sequence):
            found += differences(dict(one), dict(other), f"{prefix}data.")
        elif name == "packages" and isinstance(one, Sequence) and isinstance(other, Sequence):
            pairs = [dict(str(p).split("==", 1) for p in packages) for packages in (one, other)]
            found += differences(pairs[0], pairs[1], f"{prefix}packages.")
        elif one != other:
            found.append(Difference(where=f"{prefix}{name}", before=one, after=other))
    return tuple(found)


def _jsonable(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _joined(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


def _name(version: Version) -> str:
    return "the work tree" if version.dirty else f"commit {version.commit[:12]}"

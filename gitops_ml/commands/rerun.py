"""``gitops-ml rerun``: a past commit or record once more, with other data, parameters or seeds.

    gitops-ml rerun 3f9a2c1b                            # exactly as it was: do the numbers come out again?
    gitops-ml rerun v1.2 --data train=@HEAD             # right code, and the data that HEAD has at the same place
    gitops-ml rerun v1.2 --data train=data/new.csv@worktree --param lr=0.05 --seed 7

The spec is the one of that commit, and so is the code. A commit that a squash merge left behind is fetched from where
``report --push`` put it. What was changed is trained under its own key, and its record says what it was derived from.
"""

import argparse
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gitops_ml import plugins, reruns
from gitops_ml.baselines import Planner
from gitops_ml.commands._commits import obtained
from gitops_ml.commands._predictions import predictions
from gitops_ml.commands.plan import estimate, over_budget
from gitops_ml.commands.run import add_training_arguments, carry_out
from gitops_ml.comparison import Comparison, compare
from gitops_ml.errors import DeniedError, ExitCode, UserError
from gitops_ml.history import matching_keys
from gitops_ml.planning import (
    Action,
    Situation,
    Specs,
    Tree,
    Trial,
    code_files,
    digest,
    files_digest,
    inside,
    points,
    recorded_trial,
    side_trials,
)
from gitops_ml.pointers import dvc_files
from gitops_ml.project import PROJECT_FILE, project_from
from gitops_ml.records import Record, number_json
from gitops_ml.reruns import WORK_TREE, Changes, DataChange, Repeated, Rerun, Sameness
from gitops_ml.spec import Data, Experiment
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("what", metavar="COMMIT|KEY", help="a commit, or the start of a record's key")
    parser.add_argument("--experiment", metavar="NAME", help="which one, when the commit has several")
    parser.add_argument(
        "--data",
        metavar="NAME=URI[@VERSION]",
        action="append",
        default=[],
        type=_checked(reruns.data_change),
        help="other data. A path in the repository is read from HEAD, from PATH@COMMIT, or as it lies in the work "
        f"tree: PATH@{WORK_TREE}. Without a URI (NAME=@VERSION) it is the spec's own; may be repeated",
    )
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_checked(reruns.param_change),
        help="another value of a parameter, of the kind that it has there; may be repeated",
    )
    parser.add_argument(
        "--seed", metavar="N", action="append", default=[], type=int, help="this seed instead; may be repeated"
    )
    parser.add_argument("--backend", metavar="NAME", help="train there instead")
    parser.add_argument("--force", action="store_true", help="train again what has a record with these changes too")
    add_training_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="do not fetch; use what was fetched last")
    parser.add_argument(
        "--format", choices=("text", "json", "md"), default="text", help="how to print it (default: text)"
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Train it, and say how it compares with the original."""
    changes = _changes(args)
    if not args.offline:
        tools.results.refresh()
    record, commit = _named(args.what, tools, offline=args.offline)
    specs, experiment = _experiment(commit, record, args, tools)
    made = _rerun(specs, experiment, record, changes, args, tools)
    plan = made.plan(args.what)
    if over := over_budget(plan):
        raise DeniedError("\n".join(over))
    trials = [planned.trial for planned in made.head if planned.action is Action.RUN]
    if not trials:
        tools.note("nothing to train: all of it has a record; --force trains it again")
    code = ExitCode.OK
    if trials:
        wish = argparse.Namespace(**{**vars(args), "detach": False})
        summary = carry_out(trials, wish, tools, is_result=False)
        code = summary.exit_code
        if summary.interrupted:
            return code
    keys = plan.keys()
    records = tools.results.records(keys)
    comparison = compare(
        plan,
        records,
        tools.results.attempts(keys),
        predictions=predictions(plan, records, tools),
        today=tools.now().date(),
    )
    _say(args, made, comparison, _repeated(made, records), tools)
    return code


def _checked(read: Any) -> Any:
    def checked(text: str) -> Any:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    checked.__name__ = "change"
    return checked


def _changes(args: argparse.Namespace) -> Changes:
    if args.backend is not None and args.backend not in plugins.known("backend"):
        plugins.load("backend", args.backend)  # says which there are
    for option, names in (("--data", [change.name for change in args.data]), ("--param", [n for n, _ in args.param])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{option} {twice[0]} is given twice")
    return Changes(
        data={change.name: change for change in args.data},
        params=dict(args.param),
        seeds=tuple(dict.fromkeys(args.seed)),
        backend=args.backend,
    )


# What was asked for


def _named(name: str, tools: Tools, *, offline: bool) -> tuple[Record | None, str]:
    """Return the record or the commit that the name stands for, and the commit.

    Raises:
        UserError: it stands for nothing, or for more than one thing.
    """
    commit = tools.repository.resolve(name)
    keys: Sequence[str] = ()
    if re.fullmatch("[0-9a-f]{4,64}", name):
        keys = matching_keys(name, tools.results.keys())
        if commit is None and not keys:
            known = {entry.commit for entry in tools.results.entries()[0] if entry.commit.startswith(name)}
            if len(known) > 1:
                raise UserError(f"`{name}` is the start of {len(known)} commits; give more of it")
            commit = next(iter(known), name if len(name) in (40, 64) else None)
    if keys and (commit is not None or len(keys) > 1):
        others = f"commit {commit[:12]} and " if commit is not None else ""
        raise UserError(f"`{name}` is the start of {others}{_records(keys)}; give more of it")
    record = tools.results.records(keys).get(keys[0]) if keys else None
    if keys and record is None:
        raise UserError(f"the record {keys[0][:12]} cannot be read, so it is not known what it was trained with")
    wanted = record.commit if record is not None else commit
    if wanted is None:
        raise UserError(f"`{name}` is no commit and no start of a record's key; `gitops-ml log` shows both")
    found = obtained(wanted, tools, offline=offline)
    if found is None:
        where = "" if offline else f" or on {tools.project.ledger.remote}"
        raise UserError(
            f"commit {wanted[:12]} is not here{where}; its code is needed to train it again. "
            "`report --push` keeps such commits as refs/gitops-ml/commits/*"
        )
    return record, found


def _records(keys: Sequence[str]) -> str:
    return f"record {keys[0][:12]}" if len(keys) == 1 else f"{len(keys)} records"


def _experiment(commit: str, record: Record | None, args: argparse.Namespace, tools: Tools) -> tuple[Specs, Experiment]:
    """Return the commit's specs, and the experiment that is meant."""
    planner = Planner(
        tools.repository,
        globs=_globs(commit, tools),
        remote=tools.project.ledger.remote,
        situation=Situation(known=frozenset(), interpreter=tools.interpreter),
        winner=lambda _experiment, _planned: None,
        default_branch=lambda: tools.default_branch,
    )
    specs, broken = planner.specs_and_broken(commit)
    short = commit[:12]
    by_name = specs.by_name()
    if record is not None:
        found = specs.experiments.get(record.path) or by_name.get(record.experiment)
        if found is None:
            why = broken.get(record.path)
            lacks = f"its spec {record.path} is not valid there: {why}" if why else f"{record.path} is not there"
            where = f"on uncommitted work on top of {short}" if record.dirty else f"at {short}"
            raise UserError(f"{record.key[:12]} was trained {where}, and {lacks}")
        if args.experiment not in (None, found.name):
            raise UserError(f"{record.key[:12]} is of {found.name}, not of {args.experiment}")
        return specs, found
    if args.experiment is not None:
        if args.experiment not in by_name:
            known = ", ".join(sorted(by_name)) or "none"
            raise UserError(f"no experiment is called `{args.experiment}` at {short}; known are: {known}")
        return specs, by_name[args.experiment]
    if len(by_name) > 1:
        raise UserError(f"{short} has several experiments: {', '.join(sorted(by_name))}; say which: --experiment NAME")
    if not by_name:
        reasons = "".join(f"; {path} is not valid: {why}" for path, why in sorted(broken.items())[:3])
        raise UserError(f"there is no experiment at {short}{reasons}")
    return specs, next(iter(by_name.values()))


def _globs(commit: str, tools: Tools) -> Sequence[str]:
    """Return where specs stood at the commit."""
    text = tools.repository.object(f"{commit}:{PROJECT_FILE}")
    project = project_from(text.data)[0] if text is not None and text.kind == "blob" else None
    return (project or tools.project).specs


def _rerun(
    specs: Specs,
    experiment: Experiment,
    record: Record | None,
    changes: Changes,
    args: argparse.Namespace,
    tools: Tools,
) -> Rerun:
    tree = specs.tree
    situation = Situation(
        known=tools.results.keys(),
        interpreter=tools.interpreter,
        force=args.force,
        estimate=lambda trial: estimate(trial, tools, live=True),
    )
    text = tree.read(tree.files[experiment.path].oid)
    with_changes = reruns.changed(text, experiment.path, changes, record)
    data_from, dirty = _changed_data(with_changes, changes, tools, offline=args.offline)
    if record is None:
        planned = reruns.first_repeats(side_trials(experiment, tree, specs.paths, situation))
        known = reruns.originals(planned, _candidates(planned, tools))
        found = [(trial, known.get(trial.key)) for trial in planned]
    else:
        blobs = reruns.data_blobs(record)
        there = {oid for oid, one in zip(blobs, tools.repository.objects(blobs), strict=True) if one is not None}
        pinned = reruns.pinned_data(experiment, tree, record, changes, there)
        _check_code(record, experiment, specs)
        data_from, dirty = {**pinned, **data_from}, dirty or (record.dirty and bool(pinned))
        # Its swept values may be other ones now; it is the same point all the same.
        trial = recorded_trial(record, experiment, tree.version)
        found = [(dataclasses.replace(trial, point=points(with_changes)[0]), record)]
    return reruns.rerun(with_changes, experiment, specs, situation, found, data_from, dirty=dirty)


def _check_code(record: Record, experiment: Experiment, specs: Specs) -> None:
    code = files_digest(code_files(experiment, specs.tree, specs.paths))
    if record.dirty and code != record.document.get("code"):
        raise UserError(
            f"{record.key[:12]} was trained on uncommitted work on top of {record.commit[:12]}, which git does not "
            f"have; `gitops-ml rerun {record.commit[:12]}` trains what was committed there"
        )


def _candidates(planned: Sequence[Trial], tools: Tools) -> Sequence[Record]:
    """Return the records that may be of the planned trials: of the same parameters, seeds and data."""

    def what(params: Mapping[str, Any], seed: int, data: Mapping[str, str]) -> str:
        return digest([{name: list(v) if isinstance(v, tuple) else v for name, v in params.items()}, seed, dict(data)])

    wanted = {what(trial.params, trial.seed, dict(trial.document["data"])) for trial in planned}
    entries = tools.results.entries()[0]
    keys = [entry.key for entry in entries if what(entry.params, entry.seed, entry.data) in wanted]
    return [*tools.results.records(keys).values()]


# Data of another time


def _changed_data(
    experiment: Experiment, changes: Changes, tools: Tools, *, offline: bool
) -> tuple[Mapping[str, Tree], bool]:
    """Return the trees that hold changed data of the repository, and whether some of it is in no commit."""
    found: dict[str, Tree] = {}
    dirty = False
    for entry in experiment.data:
        change = changes.data.get(entry.name)
        if change is None or "://" in entry.uri:
            continue
        if change.version in (None, WORK_TREE):
            found[entry.name], uncommitted = _todays_data(entry, experiment, change, tools)
            dirty = dirty or uncommitted
            continue
        commit = obtained(change.version or "", tools, offline=offline)
        if commit is None:
            raise UserError(
                f"--data {entry.name}: `{change.version}` names no commit here; data in the repository is given as "
                f"PATH, PATH@COMMIT or PATH@{WORK_TREE}"
            )
        found[entry.name] = tools.repository.tree(commit, change.version or "")
    return found, dirty


def _todays_data(entry: Data, experiment: Experiment, change: DataChange, tools: Tools) -> tuple[Tree, bool]:
    """Return HEAD's tree or, if that is asked for, the work tree's, and whether the data there is in no commit."""
    path = inside(entry.uri, experiment.workdir)
    head = tools.repository.head().commit
    if head is None:
        raise UserError(f"--data {entry.name}: nothing is checked out here; give PATH@COMMIT")
    committed = tools.repository.tree(head, "HEAD")
    lying = tools.repository.work_tree((path, f"{path}/**", *dvc_files(path))) or committed
    before, now = (reruns.pin_there(entry, experiment, tree) for tree in (committed, lying))
    if change.version == WORK_TREE:
        return (committed, False) if before == now else (lying, True)
    here = f"--data {entry.name}={change.uri}@{WORK_TREE}"
    if now and not before:
        raise UserError(f"{entry.uri} is not committed; {here} takes it as it lies in the work tree")
    if before != now:
        tools.note(f"note: {entry.uri} is taken from HEAD; what lies in the work tree differs: {here}")
    return committed, False


# What came of it


def _repeated(made: Rerun, records: Mapping[str, Record]) -> Sequence[Repeated] | None:
    """Return how the numbers came out again; None: it was no repeat, or some run of either side has no record."""
    if not made.repeats or not made.base:
        return None
    before = {(str(p.trial.point), p.trial.seed): records.get(p.trial.key) for p in made.base}
    pairs = []
    for planned in made.head:
        one = before.get((str(planned.trial.point), planned.trial.seed))
        other = records.get(planned.trial.key)
        if one is None or other is None or one.key == other.key:
            return None
        pairs.append((one, other))
    return reruns.repeated(pairs, made.experiment.metrics.track)


def _say(
    args: argparse.Namespace,
    made: Rerun,
    comparison: Comparison,
    repeated: Sequence[Repeated] | None,
    tools: Tools,
) -> None:
    from gitops_ml import markdown
    from gitops_ml.comparison_json import comparison_to_json

    if args.format == "json":
        document = {
            "commit": made.source.commit,
            "originals": [planned.trial.key for planned in made.base],
            "keys": [planned.trial.key for planned in made.head],
            "derived_from": {p.trial.key: p.trial.derived_from for p in made.head if p.trial.derived_from},
            "repeat": None if repeated is None else [_repeat_document(one) for one in repeated],
            "comparison": comparison_to_json(comparison),
        }
        tools.say(json.dumps(document, indent=1, allow_nan=False))
        return
    render = markdown.summary if args.format == "md" else markdown.terminal
    tools.say(render(comparison).rstrip("\n"))
    if repeated is not None:
        tools.say("\n" + _repeat_text(repeated, len(made.head), md=args.format == "md"))
    for planned in made.head:
        if planned.trial.derived_from:
            tools.note(f"{planned.trial.key[:12]} is derived from {planned.trial.derived_from[:12]}")


def _repeat_text(repeated: Sequence[Repeated], runs: int, *, md: bool) -> str:
    from gitops_ml import markdown, wording

    counted = Counter(one.sameness for one in repeated)
    if counted[Sameness.BIT_EQUAL] == len(repeated):
        text = f"exact repeat of {wording.count(runs, 'run')}: {_all(len(repeated))} bit-equal"
    else:
        parts = [f"{wording.count(counted[kind], 'metric')} {kind}" for kind in Sameness if counted[kind]]
        text = f"exact repeat of {wording.count(runs, 'run')}: {', '.join(parts)}"
    header = ("metric", "again", "largest difference")
    rows = [(one.name, str(one.sameness), _number(one.difference)) for one in repeated]
    if md:
        return f"{text}\n\n{markdown.table(header, [[markdown.code(name), *more] for name, *more in rows], right=(2,))}"
    cells = [header, *((wording.clean(name, 48), *more) for name, *more in rows)]
    return "\n".join([text, *(f"  {line}" for line in markdown.columns(cells, right=(2,)))])


def _all(count: int) -> str:
    return "the one metric is" if count == 1 else f"all {count} metrics are"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _repeat_document(one: Repeated) -> dict[str, Any]:
    difference = None if one.difference is None else number_json(one.difference)
    return {"metric": one.name, "result": str(one.sameness), "difference": difference}

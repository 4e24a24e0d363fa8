"""``gitops-ml plan``: what would run, be reused and cost; nothing is spent."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence

from gitops_ml import planning, wording
from gitops_ml.baselines import Planner, Wish
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.globs import compiled
from gitops_ml.planning import Estimate, Plan, PlannedTrial, Situation, Tree, TreeFile, Trial
from gitops_ml.records import FILE_LIMIT_BYTES, Outcome
from gitops_ml.spec import Experiment, Value
from gitops_ml.tools import Tools

_NAMES = 5
"""How many untracked files are named."""
_BY_ITSELF = (Outcome.FAILED, Outcome.TIMED_OUT)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_plan_arguments(parser)
    parser.add_argument(
        "--format", choices=("text", "json", "md"), default="text", help="how to print it (default: text)"
    )
    parser.add_argument(
        "--explain", metavar="KEY", help="say why this trial runs: what differs from the nearest known record"
    )


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that makes a plan."""
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="by name; none: all")
    parser.add_argument("--head", metavar="REV", help="plan this commit instead of the work tree")
    parser.add_argument("--base", metavar="REV", help="compare with this commit instead of what the specs say")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")


def plan_for(args: argparse.Namespace, tools: Tools, *, live: bool = False) -> Plan:
    """Return the plan that the arguments ask for; the ledger is fetched unless ``--offline``.

    Args:
        args: the options of ``add_plan_arguments``.
        tools: of the command.
        live: with today's prices instead of those that this version knows.
    """
    if not args.offline:
        tools.results.refresh()
    planner = Planner(
        tools.repository,
        globs=tools.project.specs,
        remote=tools.project.ledger.remote,
        situation=Situation(
            known=tools.results.keys(),
            interpreter=tools.interpreter,
            force=getattr(args, "force", False),
            estimate=lambda trial: estimate(trial, tools, live=live),
        ),
        winner=lambda experiment, planned: winner(experiment, planned, tools),
        default_branch=lambda: tools.default_branch,
    )
    return planner.plan(Wish(head=args.head, base=args.base, names=tuple(args.experiments)))


def note_untracked(plan: Plan, tools: Tools) -> None:
    """Say which files of the work tree its trainings will not find, because git does not know of them yet."""
    trials = [planned.trial for planned in plan.to_run() if planned.trial.version == plan.head]
    experiments = {t.experiment.path: t.experiment for t in trials if t.experiment.code.include is None}
    if not experiments:
        return
    known = {file.path for trial in trials for file in trial.files} | {e.experiment.path for e in plan.experiments}
    files = {path: TreeFile(path, "100644", "") for path in tools.repository.untracked() if path not in known}
    tree = Tree(version=plan.head, files=files, read=lambda _: b"")
    names: set[str] = set()
    for experiment in experiments.values():
        outputs = compiled(tuple(planning.inside(read.path, experiment.workdir) for read in experiment.metrics.read))
        code = (file.path for file in planning.code_files(experiment, tree, ()))
        names |= {path for path in code if not outputs(path) and "__pycache__/" not in path}
    if names:
        some = ", ".join(wording.clean(name) for name in sorted(names)[:_NAMES])
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        tools.note(f"note: not part of the code, since git does not know of it: {some}{more}; `git add` what is needed")


def note_elsewhere(plan: Plan, tools: Tools) -> None:
    """Say which reused records lack on the ledger what their specs now want there (``store: git``)."""
    for entry in plan.experiments:
        if all(artifact.store != "git" for artifact in entry.experiment.artifacts):
            continue
        from gitops_ml.outputs import goes_to_ledger

        wanted = goes_to_ledger(entry.experiment)
        # Of several repeats the newest counts, and they follow each other.
        newest = {(json.dumps(p.trial.point, default=list), p.trial.seed): p for p in entry.head}
        reused = [p.trial.key for p in newest.values() if p.action is planning.Action.REUSE]
        lacking = [
            (record.key, file.path)
            for record in tools.results.records(reused).values()
            for file in record.files
            if file.store != "git" and file.size_bytes <= FILE_LIMIT_BYTES and wanted(file.path)
        ]
        if lacking:
            records = wording.count(len({key for key, _ in lacking}), "reused record")
            paths = ", ".join(wording.clean(path) for path in sorted({path for _, path in lacking})[:_NAMES])
            tools.note(
                f"note: {entry.experiment.name}: {records} without {paths} on the ledger, where `store: git` now wants "
                f"it; a record never changes: `gitops-ml run --force {entry.experiment.name}` trains new ones"
            )


def estimate(trial: Trial, tools: Tools, *, live: bool = False) -> Estimate:
    """Ask the trial's backend what it may cost."""
    return tools.backend(trial.experiment.backend or tools.project.backend).estimate(trial, live=live)


def over_budget(plan: Plan) -> Sequence[str]:
    """Return a line for each experiment that may cost more than its spec allows."""
    from gitops_ml.policy import over_budget as said

    found = ((entry.experiment.path, said(entry)) for entry in plan.experiments)
    return [f"{path}: {words}; raise it, or ask for less" for path, words in found if words is not None]


def winner(experiment: Experiment, planned: Iterable[PlannedTrial], tools: Tools) -> Mapping[str, Value] | None:
    """Return a sweep's best point once all its trials have a record, or failed by themselves.

    A point that fails every time (a learning rate at which it runs out of memory) cannot win, and must not keep the
    others from being confirmed. One that was preempted or cancelled may still win: it is waited for.
    """
    from gitops_ml.comparison import winner as best_point

    trials = [entry.trial for entry in planned]
    known = tools.results.keys()
    open_keys = [trial.key for trial in trials if trial.key not in known]
    if open_keys:
        attempts = tools.results.attempts(open_keys)
        if any(not attempts.get(key) or attempts[key][-1].outcome not in _BY_ITSELF for key in open_keys):
            return None
    if not trials:
        return None
    return best_point(experiment, tools.results.records(trial.key for trial in trials))


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the plan."""
    plan = plan_for(args, tools)
    if args.head is None:
        note_untracked(plan, tools)
    note_elsewhere(plan, tools)
    if args.explain:
        tools.say(explanation(args.explain, plan, tools))
    elif args.format == "json":
        tools.say(json.dumps(planning.plan_to_json(plan), indent=2, ensure_ascii=False))
    else:
        from gitops_ml import markdown

        tools.say((markdown.plan_table if args.format == "md" else markdown.plan_text)(plan).rstrip())
    over = over_budget(plan)
    for line in over:
        tools.note(line)
    return ExitCode.DENIED if over else ExitCode.OK


def explanation(short_key: str, plan: Plan, tools: Tools) -> str:
    """Say in lines what differs between a planned trial and the nearest known record of its experiment.

    Raises:
        UserError: the key fits no trial of the plan, or several.
    """
    fitting = {p.trial.key: p for e in plan.experiments for p in e.trials() if p.trial.key.startswith(short_key)}
    if len(fitting) != 1:
        found = "no trial" if not fitting else f"{len(fitting)} trials"
        raise UserError(f"{found} of the plan has a key that starts with `{short_key}`; `gitops-ml plan` lists them")
    (planned,) = fitting.values()
    trial = planned.trial
    lines = [f"{trial.key[:12]} {trial.experiment.name} seed {trial.seed}: {planned.action}, {planned.reason}"]
    if planned.action is planning.Action.REUSE:
        return lines[0]
    candidates = [
        (planning.differences(record.document, trial.document), record.key)
        for record in tools.results.all_records()
        if record.experiment == trial.experiment.name
    ]
    if not candidates:
        return "\n".join([*lines, "no record of this experiment is known yet"])
    differing, key = min(candidates, key=lambda candidate: (len(candidate[0]), candidate[1]))
    lines.append(f"the nearest record is {key[:12]}; it differs in:")
    lines += [f"  {d.where}: {_shown(d.before)} -> {_shown(d.after)}" for d in differing]
    if any(d.where == "code" for d in differing):
        lines += _changed_files(tools, key, trial)
    return "\n".join(lines)


def _changed_files(tools: Tools, key: str, trial: Trial) -> list[str]:
    """Name the files behind a changed code digest, if the record's commit is still here."""
    record = tools.results.records([key])[key]
    if record.dirty or tools.repository.resolve(record.commit) is None:
        return []
    before = tools.repository.tree(record.commit, record.commit[:12]).files
    now = {file.path: file.oid for file in trial.files}
    changed = [path for path, oid in now.items() if path not in before or before[path].oid != oid]
    return [f"    {path}" for path in sorted(changed)]


def _shown(value: object) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"

"""``gitops-ml compare``: head against its baseline, or any two commits, records or reports.

    gitops-ml compare                          # the work tree against the baseline that the specs name
    gitops-ml compare main~3 HEAD              # any two commits
    gitops-ml compare 3f9a2c1b 77d0e4aa        # two records, by the start of their keys
    gitops-ml compare reports/digits/A reports/digits/B      # the head sides of two reports

Ends with 1 when a gate fails, or when ``gitops-ml.accepted.yaml`` has findings.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from gitops_ml.acceptance import FILE, Acknowledgement, read_acknowledgements
from gitops_ml.commands._noise import noise
from gitops_ml.commands._predictions import predictions
from gitops_ml.commands.plan import plan_for
from gitops_ml.comparison import Comparison, GateResult, compare
from gitops_ml.diagnostics import as_text
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.planning import Action, ExperimentPlan, Plan, PlannedTrial, Relation, recorded_trial
from gitops_ml.records import BaselineChoice, Record, Version
from gitops_ml.spec import Experiment, Metrics, Track
from gitops_ml.tools import Tools

MAX_REPORT_BYTES = 64 * 2**20


class AcceptanceError(UserError):
    """``gitops-ml.accepted.yaml`` has findings, so what it accepts is not known."""

    exit_code = ExitCode.FINDINGS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "sides",
        nargs="*",
        metavar="A B",
        help="two commits, records (start of the key) or reports; none: head, baseline",
    )
    parser.add_argument(
        "--experiment",
        dest="experiments",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one; repeatable",
    )
    parser.add_argument("--head", metavar="REV", help="compare this commit instead of the work tree")
    parser.add_argument("--base", metavar="REV", help="compare with this commit instead of what the specs say")
    parser.add_argument("--offline", action="store_true", help="do not fetch the ledger; use what was fetched last")
    parser.add_argument(
        "--format", choices=("text", "json", "md"), default="text", help="how to print it (default: text)"
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the comparison."""
    if len(args.sides) not in (0, 2):
        raise UserError(f"compare takes two sides or none, not {len(args.sides)}: {' '.join(args.sides)}")
    comparison = _two_sides(args, tools) if args.sides else comparison_for(args, tools)
    if args.format == "json":
        from gitops_ml.comparison_json import comparison_to_json

        tools.say(json.dumps(comparison_to_json(comparison), indent=1, allow_nan=False))
    else:
        from gitops_ml import markdown, wording

        text = markdown.summary(comparison) if args.format == "md" else markdown.terminal(comparison)
        tools.say(text.rstrip("\n"))
        lacking = [t for one in comparison.experiments for t in wording.trials(one, head=True) if not t.recorded]
        if not args.sides and any(trial.attempt is None for trial in lacking):
            tools.note("`gitops-ml run` trains what was not run")
    return ExitCode.FINDINGS if comparison.gate is GateResult.FAIL else ExitCode.OK


def comparison_for(args: argparse.Namespace, tools: Tools) -> Comparison:
    """Return the comparison that the arguments ask for, by a plan.

    Raises:
        AcceptanceError: the acknowledgements of head have findings.
    """
    plan = plan_for(args, tools)
    keys = plan.keys()
    records = tools.results.records(keys)
    return compare(
        plan,
        records,
        tools.results.attempts(keys),
        acknowledgements=acknowledgements(plan.head, tools),
        noise=noise(plan, records, tools),
        predictions=predictions(plan, records, tools),
        today=tools.now().date(),
    )


def acknowledgements(head: Version, tools: Tools) -> Sequence[Acknowledgement]:
    """Return what head accepts.

    Raises:
        AcceptanceError: the file has findings, such as an entry whose last day is over.
    """
    found = tools.repository.object(f"{head.tree}:{FILE}")
    if found is None:
        return ()
    entries, findings = read_acknowledgements(found.data, tools.now().date())
    if findings:
        raise AcceptanceError(as_text(findings))
    return entries


# Any two


def _two_sides(args: argparse.Namespace, tools: Tools) -> Comparison:
    base, head = args.sides
    if args.head or args.base:
        raise UserError("--head and --base name the same as the two sides; give one or the other")
    commits = [tools.repository.resolve(side) for side in (base, head)]
    if not args.offline:
        tools.results.refresh()
    sides = [None if commit else _recorded(side, tools) for side, commit in zip((base, head), commits, strict=True)]
    if all(commits):
        return comparison_for(argparse.Namespace(**{**vars(args), "base": base, "head": head, "offline": True}), tools)
    for side, commit in zip((base, head), commits, strict=True):
        if commit:
            raise UserError(
                f"`{side}` is a commit and the other side is not; compare two commits, or records and reports"
            )
    before, after = sides
    assert before is not None
    assert after is not None
    plan = _recorded_plan((base, before), (head, after), args.experiments, _tracks(tools))
    records = {record.key: record for record in (*before, *after)}
    return compare(
        plan,
        records,
        {},
        noise=noise(plan, records, tools),
        predictions=predictions(plan, records, tools),
    )


def _recorded(name: str, tools: Tools) -> Sequence[Record]:
    """Return the records that a key or a report stands for.

    Raises:
        UserError: it stands for nothing, or for several keys.
    """
    from gitops_ml.history import matching_keys

    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        keys = matching_keys(name, tools.results.keys())
        if len(keys) > 1:
            raise UserError(f"`{name}` is the start of {len(keys)} keys; give more of it")
    else:
        keys = _report_keys(name, tools)
    found = list(tools.results.records(keys).values())
    if not found:
        raise UserError(
            f"`{name}` is no commit, no record's key and no report here; a key needs 4 characters, a report its folder"
        )
    return found


def _report_keys(name: str, tools: Tools) -> Sequence[str]:
    """Return the keys of a report's head side; the report stands in a folder here, or on the ledger."""
    from gitops_ml.comparison_json import comparison_from_json
    from gitops_ml.records import json_document

    file = tools.cwd / name / "report.json"
    if file.is_file() and file.stat().st_size <= MAX_REPORT_BYTES:
        content: bytes | None = file.read_bytes()
    elif not name.startswith("reports/"):
        content = None
    else:
        content = (tools.results.report_files(name.rstrip("/")) or {}).get("report.json")
    if content is None:
        return ()
    experiments = comparison_from_json(json_document(content)).experiments
    points = [point for experiment in experiments for point in experiment.points]
    return [trial.key for point in points for trial in point.head_trials if trial.recorded]


def _tracks(tools: Tools) -> Mapping[str, Experiment]:
    """Return the work tree's experiments by name, for their metrics' rules; a broken spec has none."""
    from gitops_ml.baselines import Planner, Wish
    from gitops_ml.planning import Situation

    planner = Planner(
        tools.repository,
        globs=tools.project.specs,
        remote=tools.project.ledger.remote,
        situation=Situation(known=frozenset(), interpreter=tools.interpreter),
        winner=lambda _experiment, _planned: None,
        default_branch=lambda: tools.default_branch,
    )
    try:
        plan = planner.plan(Wish())
    except UserError as error:
        tools.note(f"the specs here cannot be read, so every metric is shown and none is judged: {error}")
        return {}
    return {entry.experiment.name: entry.experiment for entry in plan.experiments}


def _recorded_plan(
    base: tuple[str, Sequence[Record]],
    head: tuple[str, Sequence[Record]],
    names: Sequence[str],
    known: Mapping[str, Experiment],
) -> Plan:
    """Return a plan over records as they are, matched by experiment; two single ones match whatever their names."""
    sides = [_by_experiment(records) for _, records in (base, head)]
    before, after = sides
    if len(before) == len(after) == 1:
        before = dict(zip(after, before.values(), strict=True))
    version = _version(*head)
    choice = BaselineChoice(version=_version(*base), ref=base[0], chosen="given")
    entries = []
    for name, records in after.items():
        if names and name not in names:
            continue
        experiment = known.get(name) or _shown(name, [*records, *before.get(name, ())])
        # The trials are given, so the spec's seeds and sweep have no say.
        experiment = dataclasses.replace(experiment, sweep=None)
        entries.append(
            ExperimentPlan(
                experiment=experiment,
                base_experiment=experiment if name in before else None,
                baseline=choice,
                relation=Relation.CHANGED if name in before else Relation.NEW,
                head=tuple(_planned(record, experiment, version) for record in records),
                base=tuple(_planned(record, experiment, _version(*base)) for record in before.get(name, ())),
            )
        )
    if not entries:
        raise UserError(f"{head[0]} has no experiment that is called {' or '.join(names)}; it has {', '.join(after)}")
    return Plan(head=version, baseline=choice, experiments=tuple(entries))


def _by_experiment(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.experiment, []).append(record)
    return found


def _version(label: str, records: Sequence[Record]) -> Version:
    return Version(commit=records[0].commit, tree="", label=label, dirty=records[0].dirty)


def _shown(name: str, records: Sequence[Record]) -> Experiment:
    """Return an experiment that tracks all that its records have, without judging: no goal is known."""
    names = [one.name for record in records for one in record.series]
    names += [one.name for record in records for one in record.scalars]
    tracks = tuple(Track(name=metric) for metric in dict.fromkeys(names))
    return Experiment(path=records[0].path, name=name, run="", metrics=Metrics(track=tracks))


def _planned(record: Record, experiment: Experiment, version: Version) -> PlannedTrial:
    return PlannedTrial(trial=recorded_trial(record, experiment, version), action=Action.REUSE, reason="has a record")

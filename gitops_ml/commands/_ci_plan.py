"""A change as ``ci`` plans it: settings, policy and rules of the target branch's tip over the change's own specs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from gitops_ml import policy as policies
from gitops_ml.baselines import Planner, Wish
from gitops_ml.ci import Event, EventKind, Spend, Steps
from gitops_ml.commands._jobs import known_jobs
from gitops_ml.commands.plan import estimate, winner
from gitops_ml.diagnostics import as_text
from gitops_ml.errors import UserError
from gitops_ml.globs import matches
from gitops_ml.planning import Plan, Situation, Specs, digest
from gitops_ml.policy import Approval, Binding, Decision, Policy, Ruling, Spent
from gitops_ml.project import PROJECT_FILE, Project, project_from
from gitops_ml.records import Attempt, Outcome, Record
from gitops_ml.spec import Experiment
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target branch's tip, which says what a change may do."""

    branch: str
    commit: str
    project: Project
    policy: Policy
    specs: Specs
    binding: Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan under the target's rules, and what was decided about it."""

    plan: Plan
    """With everything that would be trained."""
    held: Plan
    """With what may be trained."""
    decision: Decision
    rules: Mapping[str, Experiment]
    edited: Mapping[str, Sequence[str]]
    """Rules that the change edits, by experiment: they apply after the merge."""
    ended: Sequence[Attempt] = ()
    """Trainings of the change that were ended, and that the plan does not name any more."""


def target_project(branch: str, head: str, tools: Tools, *, remote: str) -> tuple[str, Project]:
    """Return the target branch's tip, fetched now, and the project's settings there with the specs' places of head.

    Raises:
        ServiceError: the remote cannot be reached; an old tip could bring an old policy back.
        UserError: there is no such branch, or its settings are not valid.
    """
    repository = tools.repository
    tip = repository.fetch(remote, f"refs/heads/{branch}")
    if tip is None:
        raise UserError(f"{remote} has no branch `{branch}`, whose tip says what may be trained; `--target` names it")
    theirs, ours = (_project_at(commit, tools) for commit in (tip, head))
    return tip, dataclasses.replace(theirs, specs=ours.specs)


def _project_at(commit: str, tools: Tools) -> Project:
    found = tools.repository.object(f"{commit}:{PROJECT_FILE}")
    if found is None:
        return Project()
    project, findings = project_from(found.data, f"{commit[:12]}:{PROJECT_FILE}")
    if project is None:
        raise UserError(as_text(findings))
    return project


def plan_change(
    event: Event,
    steps: Steps,
    target: tuple[str, str],
    tools: Tools,
    *,
    approval: Approval | None,
    names: Sequence[str] = (),
    count_jobs: bool = True,
) -> tuple[Target, Planned]:
    """Plan the event's head and decide about it.

    Args:
        event: with head and target known.
        steps: what is to be done.
        target: the target branch's name and its tip.
        tools: whose project holds the trusted settings and policy, see ``target_project``.
        approval: that was given, if one was.
        names: experiments that were named; none: all.
        count_jobs: ask the backends for jobs that are not over; a job without credentials cannot.
    """
    branch, tip = target
    assert event.head is not None
    theirs = _project_at(tip, tools)
    records = {record.key: record for record in tools.results.all_records()}
    planner = Planner(
        tools.repository,
        globs=tools.project.specs,
        base_globs=theirs.specs,
        remote=tools.project.ledger.remote,
        situation=Situation(
            known=tools.results.keys(),
            interpreter=tools.interpreter,
            force=steps.force,
            estimate=lambda trial: estimate(trial, tools, live=count_jobs),
        ),
        winner=lambda experiment, planned: winner(experiment, planned, tools),
        default_branch=lambda: tools.default_branch,
    )
    rules = planner.specs_at(tip)
    # Compared with itself the branch would have nothing to train or to collect.
    pushed = event.branch == branch and event.kind in (EventKind.PUSH, EventKind.SCHEDULE, EventKind.MANUAL)
    plan = planner.plan(
        Wish(
            head=event.head,
            before=event.before if pushed else None,
            branch=event.branch if pushed else "",
            tips={branch: tip},
            # The tip itself needs no rules beside its own.
            rules=None if pushed else rules,
            names=tuple(names),
        )
    )
    attempts = [a for of_key in tools.results.attempts(tools.results.attempted()).values() for a in of_key]
    foreign = {key for key, record in records.items() if record.attempt.origin.kind != "ci"}
    plan = policies.without_foreign(plan, foreign, lambda trial: estimate(trial, tools, live=count_jobs))
    settings = policies.policy_from(tools.project.policy)
    bound = Binding(head=event.head, target=tip, policy=digest(dict(tools.project.policy)))
    own = planner.specs_at_head(event.head)
    decided = policies.rules_for(own, rules)
    decision = policies.decide(
        plan,
        settings,
        _spent(event, tip, plan, settings, records, attempts, tools, count_jobs=count_jobs),
        approval if steps.run is not Spend.NEVER else None,
        backend=tools.project.backend,
        fork=event.fork is not False,
        unwanted=lambda experiment: _unwanted(experiment, event, steps),
    )
    edited = {name: policies.edited_rules(own[name], one) for name, one in decided.items()}
    return (
        Target(branch=branch, commit=tip, project=theirs, policy=settings, specs=rules, binding=bound),
        Planned(
            plan=plan,
            held=policies.held(plan, decision),
            decision=decision,
            rules={} if pushed else decided,
            edited={} if pushed else {name: places for name, places in edited.items() if places},
            ended=_ended(event, plan, attempts),
        ),
    )


def settled(now: Planned, before: Planned) -> Planned:
    """Return a plan that was made anew after a training, with the earlier one's word for what was not to be trained.

    What has a record no longer counts towards ``auto_run_below``: each round would let as much through again.
    """
    denied = {e.name: e for e in before.decision.experiments if e.ruling is not Ruling.TRAIN}
    entries = tuple(denied.get(e.name, e) for e in now.decision.experiments)
    decision = dataclasses.replace(now.decision, experiments=entries)
    return dataclasses.replace(now, decision=decision, held=policies.held(now.plan, decision))


def _unwanted(experiment: Experiment, event: Event, steps: Steps) -> str | None:
    """Say why nobody wants it trained now."""
    if steps.run is Spend.NEVER:
        return steps.why
    triggers = experiment.triggers
    if event.kind in (EventKind.CHANGE, EventKind.LABEL, EventKind.COMMENT) and triggers.change != "run":
        return f"its `triggers.change` is `{triggers.change}`; `/gitops-ml run` trains it"
    # A push to another branch than the default one trains nothing in any case.
    if event.kind is EventKind.PUSH and triggers.push is not None and not matches(event.branch or "", triggers.push):
        return f"its `triggers.push` does not name the branch `{event.branch}`"
    return None


def _spent(
    event: Event,
    tip: str,
    plan: Plan,
    policy: Policy,
    records: Mapping[str, Record],
    failed: Sequence[Attempt],
    tools: Tools,
    *,
    count_jobs: bool,
) -> Spent:
    """Count what the ledger says was spent, and what live jobs may still spend.

    To a change belongs what was trained for its number, whatever became of the commits since, and what was trained for
    its commits, whoever asked.

    Two changes that are decided in the same moment do not see each other's jobs yet: that race remains.
    """
    attempts = [*(record.attempt for record in records.values()), *failed]
    costly = [attempt for attempt in attempts if attempt.cost_usd > 0]
    month = tools.now().strftime("%Y-%m")
    assert event.head is not None
    commits = _commits_of(event.head, tip, {attempt.commit for attempt in costly}, tools) if costly else frozenset()
    ours = [a for a in costly if a.commit in commits or (event.change is not None and a.origin.change == event.change)]
    live = Decimal(0)
    if count_jobs and policy.max_cost_per_month_usd is not None:
        worst = {planned.trial.key: planned.estimate.worst_usd for planned in plan.to_run()}
        for known in known_jobs(tools):
            # What the plan would train is counted there; of others nothing but policy's own limit is known.
            if not known.status.state.final and known.job.key not in worst:
                live += policy.max_cost_per_trial_usd or Decimal(0)
    return Spent(
        change=sum((Decimal(str(a.cost_usd)) for a in ours), Decimal(0)),
        month=sum((Decimal(str(a.cost_usd)) for a in costly if a.started_at.startswith(month)), Decimal(0)),
        live=live,
    )


def _ended(event: Event, plan: Plan, attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    if event.change is None:
        return ()
    keys = plan.keys()
    return tuple(
        one
        for one in attempts
        if one.outcome is Outcome.CANCELLED and one.origin.change == event.change and one.key not in keys
    )


def _commits_of(head: str, tip: str, commits: set[str], tools: Tools) -> frozenset[str]:
    """Return those commits that belong to the change: head's history without the target's."""
    repository = tools.repository
    here = {commit for commit in commits if commit == head or repository.resolve(commit) is not None}
    return frozenset(
        commit
        for commit in here
        if repository.is_ancestor(commit, head) and (commit == head or not repository.is_ancestor(commit, tip))
    )


def decided_lines(planned: Planned) -> Iterator[str]:
    """Yield what a reviewer has to know besides the comparison, names between backticks."""
    yield from planned.decision.sentences()
    if ended := planned.ended:
        cost = sum((Decimal(str(one.cost_usd)) for one in ended), Decimal(0))
        which = "1 training that this change does not want any more was" if len(ended) == 1 else ""
        which = which or f"{len(ended)} trainings that this change does not want any more were"
        yield f"{which} ended, which cost {cost:.2f} USD"
    for name, places in sorted(planned.edited.items()):
        listed = ", ".join(f"`{place}`" for place in places)
        yield f"`{name}`: this change edits {listed}; the target branch's rules decide until it is merged"

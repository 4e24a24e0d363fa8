"""What may be spent, reached and by whom: a plan, the target branch's policy and an approval -> a decision in words.

Policy and the rules that decide come from the tip of the target branch, never from the change and never from the commit
it branched off. Nothing here looks at the world: what was spent, and what the approver may do, is handed in.
"""

import dataclasses
import enum
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gitops_ml.errors import ExitCode
from gitops_ml.globs import compiled
from gitops_ml.planning import (
    Action,
    Estimate,
    ExperimentPlan,
    Plan,
    PlannedTrial,
    Relation,
    Specs,
    Trial,
    counterpart,
    next_repeat,
)
from gitops_ml.spec import Experiment, Missing, usd_from
from gitops_ml.values import dataclass

PERMISSIONS = ("none", "read", "write", "maintain", "admin")
"""In rising order, as ``policy.approvers`` and the forges name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The ``policy`` of ``gitops-ml.yaml``. None: everything is allowed, or there is no limit."""

    backends: tuple[str, ...] | None = None
    instance_types: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    secrets: tuple[str, ...] = ()
    """A secret reaches only trainings, and only if it is named here."""
    data: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    max_cost_per_trial_usd: Decimal | None = None
    max_cost_per_change_usd: Decimal | None = None
    max_cost_per_month_usd: Decimal | None = None
    auto_run_below_usd: Decimal = Decimal(0)
    """Plans below it are trained without approval; what costs nothing always is."""
    approvers: str = "write"
    forks: str = "never"


def policy_from(settings: Mapping[str, Any]) -> Policy:
    """Return the policy of settings that the project's schema has accepted."""
    lists = ("backends", "instance_types", "regions", "secrets", "data", "images")
    amounts = ("max_cost_per_trial", "max_cost_per_change", "max_cost_per_month", "auto_run_below")
    fields: dict[str, Any] = {name: tuple(settings[name]) for name in lists if name in settings}
    fields |= {f"{name}_usd": usd_from(settings[name]) for name in amounts if name in settings}
    fields |= {name: settings[name] for name in ("approvers", "forks") if name in settings}
    return Policy(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a plan and an approval hold for; when one of the three has moved, they hold no more."""

    head: str
    target: str
    """Tip of the target branch."""
    policy: str
    """Digest of the policy there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent before, and what jobs that are not over may still spend, in US dollars."""

    change: Decimal = Decimal(0)
    month: Decimal = Decimal(0)
    live: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's word that a head may be trained."""

    how: str
    """``environment``, ``command`` or ``label``."""
    head: str
    by: str = ""
    permission: str = "none"
    """What the forge says that they may do; an environment's reviewers were asked by the forge itself."""
    experiments: tuple[str, ...] = ()
    """By name; none: all."""


class Ruling(enum.StrEnum):
    """What happens to an experiment's trials that have no record."""

    TRAIN = "train"
    WAIT = "wait"
    """It waits for an approval."""
    REFUSE = "refuse"
    """No approval helps: the policy has to change, on the target branch."""
    LEAVE = "leave"
    """Nobody wants it now; that is no denial."""
    AT_WORK = "at-work"
    """It was allowed, and goes on where the job that started it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentDecision:
    """One experiment that has something to train."""

    name: str
    ruling: Ruling
    trials: int
    worst_usd: Decimal
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a plan may do. Experiments that have nothing to train are not in it."""

    head: str
    experiments: tuple[ExperimentDecision, ...]
    approvers: str
    spent: Spent
    notes: tuple[str, ...] = ()
    """Why an approval that was given does not count."""

    def names(self, ruling: Ruling) -> tuple[str, ...]:
        """Return the experiments with that ruling."""
        return tuple(entry.name for entry in self.experiments if entry.ruling is ruling)

    @property
    def worst_usd(self) -> Decimal:
        """What the trials that may be trained cost at most."""
        return sum((e.worst_usd for e in self.experiments if e.ruling is Ruling.TRAIN), Decimal(0))

    @property
    def exit_code(self) -> ExitCode:
        """DENIED when something that was wanted may not be trained."""
        left = any(entry.ruling not in (Ruling.TRAIN, Ruling.AT_WORK) for entry in self.experiments)
        denied = self.names(Ruling.WAIT) or self.names(Ruling.REFUSE) or (self.notes and left)
        return ExitCode.DENIED if denied else ExitCode.OK

    def sentences(self) -> tuple[str, ...]:
        """Say for people what is not trained, why, what is needed and by whom; names stand between backticks."""
        left = [entry for entry in self.experiments if entry.ruling not in (Ruling.TRAIN, Ruling.AT_WORK)]
        lines = [*self.notes, *(f"`{entry.name}` is not trained: {'; '.join(entry.reasons)}" for entry in left)]
        lines += [
            f"`{entry.name}`: {'; '.join(entry.reasons)}, first results by `gitops-ml reconcile`"
            for entry in self.experiments
            if entry.ruling is Ruling.AT_WORK
        ]
        if self.names(Ruling.WAIT):
            lines.append(
                f"to train it, someone with {self.approvers} permission comments "
                f"`/gitops-ml run --sha {self.head}`, or puts the label `gitops-ml/run` on this change"
            )
        if self.names(Ruling.REFUSE):
            lines.append(
                "what policy refuses needs a change of `policy` in `gitops-ml.yaml` on the target branch first"
            )
        return tuple(lines)


def decide(
    plan: Plan,
    policy: Policy,
    spent: Spent,
    approval: Approval | None,
    *,
    backend: str,
    fork: bool = False,
    unwanted: Callable[[Experiment], str | None] = lambda _: None,
) -> Decision:
    """Return which experiments of the plan may be trained now.

    Experiments are taken in the plan's order: what no longer fits below a limit is left, what comes after and still
    fits is taken, so that 40 new experiments train as far as the policy goes.

    Args:
        plan: with the rules of the target side, see ``under_rules``.
        policy: of the target branch's tip.
        spent: before this plan.
        approval: that was given, if one was.
        backend: the one of experiments that name none.
        fork: the change comes from a fork.
        unwanted: says why nobody wants an experiment trained now (its triggers); None: it is wanted.
    """
    objection = objection_to(approval, plan.head.commit, policy) if approval is not None else None
    notes = (objection,) if objection else ()
    if notes:
        approval = None
    taken: dict[str, Decimal] = {}
    decided = []
    for entry in plan.experiments:
        trials = tuple(_to_run(entry))
        if not trials:
            continue
        name = entry.experiment.name
        worst = _costs(trials)
        # Two experiments may share a trial, which is trained once: as the dearer of the two would.
        others, after = sum(taken.values(), Decimal(0)), {**taken, **worst, **_larger(taken, worst)}
        total = sum(after.values(), Decimal(0))
        asked = approval is not None and (not approval.experiments or name in approval.experiments)
        if refusals := tuple(_refusals(entry, trials, policy, spent, total, backend=backend, fork=fork)):
            ruling, reasons = Ruling.REFUSE, refusals
        elif asked:
            ruling, reasons = Ruling.TRAIN, ()
        elif (why := unwanted(entry.experiment)) is not None:
            ruling, reasons = Ruling.LEAVE, (why,)
        elif waits := _waits_for(trials, policy, total, backend=backend, fork=fork):
            ruling, reasons = Ruling.WAIT, (waits,)
        else:
            ruling, reasons = Ruling.TRAIN, ()
        if ruling is Ruling.TRAIN:
            taken = after
        cost = total - others
        decided.append(ExperimentDecision(name=name, ruling=ruling, trials=len(worst), worst_usd=cost, reasons=reasons))
    return Decision(
        head=plan.head.commit, experiments=tuple(decided), approvers=policy.approvers, spent=spent, notes=notes
    )


def _to_run(entry: ExperimentPlan) -> Iterator[PlannedTrial]:
    return (planned for planned in entry.trials() if planned.action is Action.RUN)


def _costs(trials: Sequence[PlannedTrial]) -> dict[str, Decimal]:
    """Return what each key may cost."""
    costs: dict[str, Decimal] = {}
    for planned in trials:
        costs[planned.trial.key] = max(costs.get(planned.trial.key, Decimal(0)), planned.estimate.worst_usd)
    return costs


def _larger(one: Mapping[str, Decimal], other: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {key: max(one[key], other[key]) for key in one.keys() & other.keys()}


def objection_to(approval: Approval, head: str, policy: Policy) -> str | None:
    """Say why an approval does not count; None: it does."""
    if approval.head != head:
        stands = f"the approval is for `{approval.head[:12]}`, and the change stands at `{head[:12]}` now"
        return f"{stands}; look at it and approve it anew"
    if approval.how != "environment" and not _suffices(approval.permission, policy.approvers):
        needed = f"policy asks for {policy.approvers} permission, and they have {approval.permission}"
        return f"`{approval.by}` may not approve this: {needed}"
    return None


def _suffices(permission: str, needed: str) -> bool:
    return permission in PERMISSIONS and PERMISSIONS.index(permission) >= PERMISSIONS.index(needed)


def _refusals(
    entry: ExperimentPlan,
    trials: Sequence[PlannedTrial],
    policy: Policy,
    spent: Spent,
    total: Decimal,
    *,
    backend: str,
    fork: bool,
) -> Iterator[str]:
    """Yield what stands against training, whoever approves it."""
    if fork and policy.forks == "never":
        yield "policy trains no change from a fork (`forks: never`)"
    # The base side's spec may be an old one, so both sides' are looked at; what a side's trials share is said once.
    experiments = {id(planned.trial.experiment): planned.trial.experiment for planned in trials}
    reasons = [reason for one in experiments.values() for reason in _reaches(one, policy, backend)]
    reasons += [reason for planned in trials for reason in _remotes(planned.trial, policy)]
    reasons += [reason for planned in trials for reason in _machine(planned, policy, backend)]
    yield from dict.fromkeys(reasons)
    dearest = max((planned.estimate.worst_usd for planned in trials), default=Decimal(0))
    worst = sum(_costs(trials).values(), Decimal(0))
    if (over := over_budget(entry)) is not None:
        yield over
    for what, cost, limit in (
        ("one trial", dearest, policy.max_cost_per_trial_usd),
        ("this change", spent.change + total, policy.max_cost_per_change_usd),
        ("this month", spent.month + spent.live + total, policy.max_cost_per_month_usd),
    ):
        if limit is not None and worst > 0 and cost > limit:
            yield f"with it {what} may cost up to {_usd(cost)}, and policy allows {_usd(limit)}"


def over_budget(entry: ExperimentPlan) -> str | None:
    """Say that an experiment's trainings may cost more than its ``budget.max_cost``; None: they may not."""
    worst = sum(_costs(tuple(_to_run(entry))).values(), Decimal(0))
    budget = entry.experiment.budget.max_cost_usd
    if budget is None or worst <= budget:
        return None
    return f"it may cost up to {_usd(worst)}, and its `budget.max_cost` is {_usd(budget)}"


def _reaches(experiment: Experiment, policy: Policy, backend: str) -> Iterator[str]:
    """Yield what an experiment asks for that policy does not allow."""
    asked: tuple[tuple[str, Sequence[str], Collection[str] | None, str], ...] = (
        ("the backend", (experiment.backend or backend,), policy.backends, "backends"),
        ("the secret", experiment.environment.secrets, policy.secrets, "secrets"),
    )
    for what, values, allowed, key in asked:
        for value in values:
            if allowed is not None and value not in allowed:
                yield f"policy does not allow {what} `{value}` (`{key}`: {_listed(allowed)})"
    image = experiment.environment.image
    patterns: tuple[tuple[str, Sequence[str], Sequence[str] | None, str], ...] = (
        ("the data source", [data.uri for data in experiment.data if "://" in data.uri], policy.data, "data"),
        ("the image", [image] if image else [], policy.images, "images"),
    )
    for what, values, globs, key in patterns:
        for value in values:
            if globs is not None and not _matches(value, globs):
                yield f"policy does not allow {what} `{value}` (`{key}`: {_listed(globs)})"


def _remotes(trial: Trial, policy: Policy) -> Iterator[str]:
    """Yield what a trial would fetch from where policy does not allow, by way of DVC's settings in the repository."""
    for source in trial.sources.values():
        remote = source.get("remote", "")
        if "://" in remote and policy.data is not None and not _matches(remote, policy.data):
            yield f"policy does not allow the DVC remote `{remote}` (`data`: {_listed(policy.data)})"


def _machine(planned: PlannedTrial, policy: Policy, backend: str) -> Iterator[str]:
    if (planned.trial.experiment.backend or backend) == "local":
        return
    estimate = planned.estimate
    for what, values, globs, key in (
        (
            "the instance type",
            estimate.instance_types or (estimate.instance_type,),
            policy.instance_types,
            "instance_types",
        ),
        ("the region", (estimate.region,), policy.regions, "regions"),
    ):
        for value in values:
            if globs is not None and not value:
                yield f"the backend does not say {what} beforehand, which policy limits (`{key}`: {_listed(globs)})"
            elif globs is not None and not _matches(value, globs):
                yield f"policy does not allow {what} `{value}` (`{key}`: {_listed(globs)})"


def _matches(value: str, globs: Sequence[str]) -> bool:
    # `..` would lead out of what a glob like `s3://bucket/public/**` means.
    return ".." not in urllib.parse.unquote(value).split("/") and compiled(tuple(globs))(value) is not None


def _waits_for(
    trials: Sequence[PlannedTrial], policy: Policy, cost: Decimal, *, backend: str, fork: bool
) -> str | None:
    """Say why an approval is needed; None: none is."""
    if fork:
        return "it comes from a fork, and policy asks for an approval (`forks: approval`)"
    for planned in trials:
        estimate = planned.estimate
        free = (planned.trial.experiment.backend or backend) == "local" or estimate.source
        if estimate.worst_usd == 0 and not free:
            return "what it costs is not known beforehand, so it needs an approval"
    if sum(_costs(trials).values()) == 0 or cost < policy.auto_run_below_usd:
        return None
    limit = policy.auto_run_below_usd
    below = f"only plans below {_usd(limit)}" if limit else "nothing that costs money"
    return f"all together may cost up to {_usd(cost)}, and policy trains {below} without approval"


def _usd(amount: Decimal) -> str:
    return f"{amount:.2f} USD"


def _listed(allowed: Collection[str]) -> str:
    return ", ".join(f"`{one}`" for one in list(allowed)[:10]) + (", ..." if len(allowed) > 10 else "") or "none"


# The target side's rules


def under_rules(experiment: Experiment, target: Specs | None) -> Experiment:
    """Return a change's experiment with what the target branch decides about it, if it is there.

    By name, else by its file, so that a rename keeps the rules. Head's own metrics stay in the plan: ``rules_for``
    hands the deciding ones to the comparison, which shows what head alone tracks.
    """
    decides = counterpart(experiment, target) if target is not None else None
    if decides is None:
        return experiment
    return dataclasses.replace(experiment, baseline=decides.baseline, budget=decides.budget, triggers=decides.triggers)


def rules_for(experiments: Mapping[str, Experiment], target: Specs | None) -> Mapping[str, Experiment]:
    """Return the target side's experiments that decide, by the name that each has in the change."""
    found = {} if target is None else {name: counterpart(one, target) for name, one in experiments.items()}
    return {name: one for name, one in found.items() if one is not None}


def edited_rules(experiment: Experiment, decides: Experiment) -> tuple[str, ...]:
    """Return which rules a change edits, by their place in the spec; they apply after the merge."""
    edited = {
        "metrics.track": experiment.metrics.track != decides.metrics.track,
        "baseline": experiment.baseline != decides.baseline,
        "compare": experiment.compare != decides.compare,
        "budget": experiment.budget != decides.budget,
        "triggers": experiment.triggers != decides.triggers,
    }
    return tuple(name for name, differs in edited.items() if differs)


def held(plan: Plan, decision: Decision) -> Plan:
    """Return the plan without the trainings that were not decided for; each says why.

    A trial that a refused experiment shares with another is trained only as the other has it: its key says nothing
    of backend and secrets.
    """
    train = decision.names(Ruling.TRAIN)
    reasons = {entry.name: entry for entry in decision.experiments}

    def side(trials: Sequence[PlannedTrial], name: str) -> tuple[PlannedTrial, ...]:
        return tuple(
            planned
            if planned.action is not Action.RUN or name in train
            else dataclasses.replace(planned, action=Action.SKIP, reason=_short(reasons.get(name)))
            for planned in trials
        )

    return dataclasses.replace(
        plan,
        experiments=tuple(
            dataclasses.replace(
                entry, head=side(entry.head, entry.experiment.name), base=side(entry.base, entry.experiment.name)
            )
            for entry in plan.experiments
        ),
    )


def _short(entry: ExperimentDecision | None) -> str:
    if entry is None:
        return "not decided for"
    words = {Ruling.WAIT: "waits for an approval", Ruling.REFUSE: "refused by policy", Ruling.AT_WORK: "at work"}
    return words.get(entry.ruling, "; ".join(entry.reasons))


# Records that were not made in CI


def without_foreign(plan: Plan, foreign: Collection[str], estimate: Callable[[Trial], Estimate]) -> Plan:
    """Return the plan as CI trusts it: what only somebody's own machine has a record of is trained again.

    It is trained as the next repeat, because the first record under a key stays for ever.

    Args:
        plan: with every known record reused.
        foreign: keys whose record was not made in CI.
        estimate: what a trial may cost.
    """

    def again(trials: tuple[PlannedTrial, ...], *, train: bool) -> tuple[PlannedTrial, ...]:
        newest = {(p.trial.confirms, str(sorted(p.trial.point.items())), p.trial.seed): p for p in trials}
        doubted = [p.trial for p in newest.values() if p.action is Action.REUSE and p.trial.key in foreign]
        repeats = [next_repeat(trial) for trial in doubted]
        action, reason = (Action.RUN, _FOREIGN) if train else (Action.SKIP, _FOREIGN)
        return trials + tuple(
            PlannedTrial(trial=one, action=action, reason=reason, estimate=estimate(one)) for one in repeats
        )

    entries = []
    for entry in plan.experiments:
        if entry.relation in (Relation.SAME, Relation.REMOVED):
            entries.append(entry)
            continue
        base = again(entry.base, train=entry.experiment.baseline.missing is Missing.RUN)
        entries.append(dataclasses.replace(entry, head=again(entry.head, train=True), base=base))
    return dataclasses.replace(plan, experiments=tuple(entries))


_FOREIGN = "its record was not made in CI, which does not gate on it"

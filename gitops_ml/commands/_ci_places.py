"""Places where somebody may want trainings, the default branch and all open changes, and the jobs that none wants."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Protocol

from gitops_ml import wording
from gitops_ml.backends.base import Asked, JobState, JobStatus
from gitops_ml.ci import Event, EventKind, Spend, Steps
from gitops_ml.commands._ci_plan import Planned, Target
from gitops_ml.commands._jobs import Known
from gitops_ml.comparison import Comparison
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges.base import Change, Forge
from gitops_ml.policy import Approval
from gitops_ml.records import Attempt, Origin, Outcome
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass

_PREFIX = "gitops-ml/"
_AT_A_TIME = 32


class NotHereError(UserError):
    """A head's objects cannot be had, perhaps because the change has just moved."""


class Flow(Protocol):
    """What is needed of ``ci``: one event's plan, comparison and publication."""

    local: bool
    """The forge is a folder, which has one change."""
    origin: Origin
    """Of what is kept."""

    def forge(self) -> Forge:
        """Return the forge."""

    def prepare(self, event: Event) -> None:
        """Bring the head here, and take the settings of the target branch."""

    def plan(
        self, event: Event, steps: Steps, approval: Approval | None, names: Sequence[str]
    ) -> tuple[Target, Planned]:
        """Plan the event's head under the target's rules."""

    def compare(self, planned: Planned) -> Comparison:
        """Compare what is to be compared."""

    def publish(self, event: Event, steps: Steps, planned: Planned, comparison: Comparison) -> dict[str, str]:
        """Report, comment and set statuses."""


def places(
    flow: Flow, args: argparse.Namespace, tools: Tools, *, default: str, without_forge: bool = False
) -> Iterator[Event]:
    """Yield the default branch's tip and the heads of all open changes, as if each had just been pushed.

    Args:
        flow: knows the forge.
        args: with the remote.
        tools: of the command.
        default: name of the default branch.
        without_forge: where the forge may not be asked, take the heads of branches.
    """
    tip = tools.repository.fetch(args.remote, f"refs/heads/{default}", whole=True)
    if tip is None:
        raise UserError(f"{args.remote} has no branch `{default}`; `--target` names the default branch")
    everywhere = Event(kind=EventKind.SCHEDULE, name="reconcile", default=default, fork=False)
    yield dataclasses.replace(everywhere, head=tip, branch=default, target=default)
    try:
        changes = list(flow.forge().open_changes())
    except ServiceError as error:
        if not without_forge:
            raise
        # On GitLab a job without our token may not ask; where a change was trained its branch is here.
        tools.note(f"branches are looked at instead of changes: {error}")
        for branch, head in tools.repository.branches(args.remote).items():
            if branch != default and not branch.startswith(_PREFIX):
                yield dataclasses.replace(everywhere, kind=EventKind.CHANGE, head=head, branch=branch, target=default)
        return
    for change in changes:
        yield of_change(dataclasses.replace(everywhere, kind=EventKind.CHANGE), change)


def of_change(event: Event, change: Change) -> Event:
    """Return the event as one of the change, as the forge tells it."""
    return dataclasses.replace(
        event,
        head=change.head,
        branch=change.head_ref,
        target=change.base_ref,
        change=change.number,
        fork=change.fork,
        draft=change.draft,
    )


def by_branch(events: Sequence[Event]) -> bool:
    """Say whether the places are branches, since the forge could not be asked for changes."""
    return any(event.kind is EventKind.CHANGE and event.change is None for event in events)


def asked_at(event: Event) -> Asked:
    """Return for what a job is asked for."""
    # What is not known to be from here may be from a fork.
    return Asked(head=event.head or "", change=event.change, fork=event.fork is not False)


def steps_at(event: Event) -> Steps:
    """Return what is to be done at a place."""
    # `run` lets policy say what is not trained, as for a push.
    return Steps(
        why="what had ended was collected",
        plan=True,
        run=Spend.POLICY,
        report=True,
        comment=event.change is not None,
        status=True,
    )


# What nobody wants any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is wanted at one place."""

    head: str
    keys: frozenset[str]
    """Of all trials of its plan, on both sides."""


def place_of(flow: Flow, event: Event) -> Place:
    """Return what is wanted at a place; nothing, if it cannot be planned, since so it cannot be trained either.

    Raises:
        ServiceError: it cannot be known.
        NotHereError: the same.
    """
    assert event.head is not None
    try:
        flow.prepare(event)
        keys = flow.plan(event, steps_at(event), None, ())[1].plan.keys()
    except (ServiceError, NotHereError):
        raise
    except UserError:
        keys = frozenset()
    return Place(head=event.head, keys=keys)


def unwanted(jobs: Mapping[str, Asked | None], wanted: Sequence[Place], *, by_branch: bool = False) -> list[str]:
    """Return the keys of those jobs that were asked for by a change and that no place wants any more.

    A key names content, so that what another place's plan holds goes on, whoever asked for it first. All that was asked
    for by a head that still stands goes on as well: what was trained again has keys that no plan names.

    Args:
        jobs: for what each was asked. What a person started, or the default branch, is left alone.
        wanted: at all places.
        by_branch: the places are branches, among which no fork's change is.
    """
    heads = {place.head for place in wanted}
    planned = {key for place in wanted for key in place.keys}
    return [
        key
        for key, asked in jobs.items()
        if asked is not None
        and asked.change is not None
        and asked.head not in heads
        and key not in planned
        and not (by_branch and asked.fork)
    ]


def unwanted_after_all(
    flow: Flow, jobs: Mapping[str, Asked | None], events: Sequence[Event], look: Callable[[], Iterable[Event]]
) -> list[str]:
    """Return the keys of those jobs that no place wants, neither as they were listed nor as they are by then.

    To plan all places takes its time, in which somebody may push what is at work already.

    Args:
        flow: plans.
        jobs: as for ``unwanted``; they were looked at before the places were listed.
        events: all places.
        look: lists all places anew.

    Raises:
        ServiceError: it cannot be known.
        NotHereError: the same.
    """
    wanted = [place_of(flow, event) for event in events]
    gone = unwanted(jobs, wanted, by_branch=by_branch(events))
    if gone:
        heads = {place.head for place in wanted}
        later = [event for event in look() if event.head not in heads]
        wanted += [place_of(flow, event) for event in later]
        gone = unwanted(jobs, wanted, by_branch=by_branch([*events, *later]))
    return gone


def end_all(jobs: Sequence[Known]) -> Mapping[str, UserError]:
    """End jobs side by side; returns why it failed, by key."""
    failed: dict[str, UserError] = {}

    def end(known: Known) -> None:
        try:
            known.backend.cancel(known.job.key)
        except UserError as error:
            failed[known.job.key] = error

    if jobs:
        with ThreadPoolExecutor(max_workers=min(_AT_A_TIME, len(jobs))) as pool:
            list(pool.map(end, jobs))
    return failed


def attempt_of(known: Known, status: JobStatus, origin: Origin) -> Attempt:
    """Return what is kept of a job that is over and did not succeed, whose trial no plan knows any more."""
    asked, ended, began = status.asked, status.ended_at, status.started_at
    assert asked is not None
    began = began or ended or known.job.submitted_at
    return Attempt(
        key=known.job.key,
        number=1,
        experiment=known.job.experiment,
        outcome=Outcome(status.state.value),
        reason=wording.clean(status.reason, 1000),
        exit_code=status.exit_code,
        backend=known.backend_name,
        commit=asked.head,
        dirty=False,
        params={name: tuple(v) if isinstance(v, list) else v for name, v in known.job.params.items()},
        seed=known.job.seed,
        started_at=began.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        duration_s=max(0.0, round(((ended or began) - began).total_seconds(), 3)),
        cost_usd=status.cost_usd,
        hardware=status.hardware,
        origin=dataclasses.replace(origin, change=asked.change),
        usage=status.usage,
    )


def is_kept(attempt: Attempt, earlier: Sequence[Attempt]) -> bool:
    """Say whether one of the kept attempts is this one, told by its machine or its begin."""

    def machine(one: Attempt) -> str:
        return one.usage.instance_id if one.usage is not None else ""

    def began(one: Attempt) -> tuple[Outcome, str]:
        return one.outcome, one.started_at

    return any((machine(one) == machine(attempt) != "") or began(one) == began(attempt) for one in earlier)


def asked_by_a_change(known: Known) -> bool:
    """Say whether CI started the job for a change, and it is at work or has failed: the others leave a record."""
    asked = known.status.asked
    return asked is not None and asked.change is not None and known.status.state is not JobState.SUCCEEDED

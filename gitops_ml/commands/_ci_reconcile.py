"""Bring every open change and the default branch to what their jobs have left, whatever became of the CI jobs.

What is there is asked anew: jobs of the backends, records on the ledger, statuses and comments on the forge. So it does
not matter what was killed, and doing it twice changes nothing the second time.
"""

import argparse
import dataclasses
import enum
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gitops_ml import markdown, wording
from gitops_ml.ci import Event, EventKind, Spend, Steps
from gitops_ml.commands._ci_plan import Planned, Target
from gitops_ml.commands._jobs import Known, known_jobs
from gitops_ml.commands.gc import end, identity_of, leftovers_of
from gitops_ml.commands.report import folder_for
from gitops_ml.commands.run import collect_ended
from gitops_ml.comparison import Comparison
from gitops_ml.errors import ExitCode, ServiceError, UserError, worst
from gitops_ml.forges.base import Forge, Standing, State
from gitops_ml.handover import Writer, live_in, take
from gitops_ml.policy import Approval
from gitops_ml.records import Attempt, Origin, Record
from gitops_ml.tools import Tools

NO_RESULT = "ended without a result; the run's log says why"
_ROUNDS = 3
_PREFIX = "gitops-ml/"


class Part(enum.StrEnum):
    """Which half: what holds the cloud's credentials and what holds the forge's are kept apart."""

    ALL = "all"
    COLLECT = "collect"
    PUBLISH = "publish"


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


def reconcile(
    flow: Flow, args: argparse.Namespace, tools: Tools, *, default: str, part: Part
) -> tuple[int, dict[str, str]]:
    """Go through all places and return the exit code and the outputs.

    A gate that fails is the change's business, not this command's. What goes wrong at one place does not keep the
    others from being looked at.
    """
    work = _Reconciliation(flow, args, tools, default=default, part=part)
    return work.run()


class _Reconciliation:
    def __init__(self, flow: Flow, args: argparse.Namespace, tools: Tools, *, default: str, part: Part) -> None:
        self._flow = flow
        self._args = args
        self._tools = tools
        self._default = default
        self._part = part
        self._jobs: Mapping[str, Known] = {}
        self._live: set[str] = set()
        """Keys of jobs that are not over."""
        self._taken: set[str] = set()
        """Keys whose outcome was not known before."""
        self._failed: list[Attempt] = []
        self._writer: Writer | None = None
        self._planned: set[str] = set()
        """Keys that a place's plan holds."""
        self._codes: list[int] = [ExitCode.OK]

    def run(self) -> tuple[int, dict[str, str]]:
        tools = self._tools
        places = self._places()
        default = next(places)
        # Its settings say which ledger and backends there are.
        self._flow.prepare(default)
        tools.results.refresh()
        self._look_at_jobs()
        for event in itertools.chain([default], places):
            if self._part is Part.COLLECT and self._jobs.keys() - self._live <= self._planned:
                break  # nobody has to be asked for places where nothing can be
            tools.say(f"{_named(event)}: {self._at(event)}")
        if self._part is not Part.PUBLISH:
            self._sweep()
        outputs = {}
        if self._writer is not None:
            outputs["digest"] = self._writer.close(self._failed, live=sorted(self._live))
        elif tools.results.kept():
            tools.results.push("Keep what was collected")
        return worst(*self._codes), outputs

    def _places(self) -> Iterator[Event]:
        """Yield the default branch's tip and the heads of all open changes, as if each had just been pushed."""
        tip = self._tools.repository.fetch(self._args.remote, f"refs/heads/{self._default}", whole=True)
        if tip is None:
            raise UserError(f"{self._args.remote} has no branch `{self._default}`; `--target` names the default branch")
        everywhere = Event(kind=EventKind.SCHEDULE, name="reconcile", default=self._default, fork=False)
        yield dataclasses.replace(everywhere, head=tip, branch=self._default, target=self._default)
        try:
            changes = list(self._flow.forge().open_changes())
        except ServiceError as error:
            if self._part is not Part.COLLECT:
                raise
            # On GitLab a job without our token may not ask; where a change was trained its branch is here.
            self._tools.note(f"branches are looked at instead of changes: {error}")
            yield from self._branches(everywhere)
            return
        for change in changes:
            yield dataclasses.replace(
                everywhere,
                kind=EventKind.CHANGE,
                head=change.head,
                branch=change.head_ref,
                target=change.base_ref,
                change=change.number,
                fork=change.fork,
                draft=change.draft,
            )

    def _branches(self, everywhere: Event) -> Iterator[Event]:
        for branch, head in self._tools.repository.branches(self._args.remote).items():
            if branch != self._default and not branch.startswith(_PREFIX):
                yield dataclasses.replace(
                    everywhere, kind=EventKind.CHANGE, head=head, branch=branch, target=self._default
                )

    def _look_at_jobs(self) -> None:
        tools, args = self._tools, self._args
        if self._part is not Part.PUBLISH:
            self._jobs = {known.job.key: known for known in known_jobs(tools)}
            self._live = {key for key, known in self._jobs.items() if not known.status.state.final}
        elif args.source is not None:
            if not args.digest:
                raise UserError("`--from` needs `--digest`: what the job that collected said itself")
            self._live = set(live_in(tools.cwd / args.source, args.digest))
        if self._part is Part.COLLECT:
            if args.out is None:
                raise UserError("to collect is to hand over what was collected: name a new folder with `--out DIR`")
            self._writer = Writer(tools.cwd / args.out)

    def _at(self, event: Event) -> str:
        """Do what is to be done at one place, and say what that was."""
        try:
            self._flow.prepare(event)
            planned = self._plan(event)
            self._planned |= planned.plan.keys()
            if self._part is not Part.PUBLISH:
                planned = self._collect(event, planned)
            elif self._args.source is not None:
                planned = self._take(event, planned)
            taken = planned.plan.keys() & self._taken
            if self._part is Part.COLLECT:
                return f"{_trials(len(taken))} collected"
            return self._say(event, planned, taken)
        except UserError as error:
            if isinstance(error, ServiceError):
                self._codes.append(error.exit_code)
            return wording.clean(str(error).splitlines()[0], 300) if str(error) else "it cannot be looked at"

    def _plan(self, event: Event) -> Planned:
        return self._flow.plan(event, _steps(event), None, ())[1]

    # What jobs have left

    def _collect(self, event: Event, planned: Planned) -> Planned:
        """Keep the outcome of this place's jobs that are over."""
        over = self._jobs.keys() - self._live
        trials = {p.trial.key: p.trial for p in planned.plan.to_run() if p.trial.key in over}
        if not trials:
            return planned
        before = self._tools.results.attempts(trials)
        writer = self._writer

        def hand_over(record: Record, folder: Path) -> None:
            if writer is not None:
                writer.add(trials[record.key], record, folder)

        origin = dataclasses.replace(self._flow.origin, change=event.change)
        summary = collect_ended(list(trials.values()), self._tools, hand_over, origin)
        failed = [attempt for attempt in summary.failed if attempt not in before.get(attempt.key, ())]
        self._failed += failed
        self._taken |= {record.key for record in summary.records} | {attempt.key for attempt in failed}
        self._codes += [error.exit_code for _, error in summary.refused]
        return self._plan(event)

    def _take(self, event: Event, planned: Planned) -> Planned:
        """Make records of what the other half has handed over for this place."""
        origin = dataclasses.replace(self._flow.origin, change=event.change)
        folder = self._tools.cwd / self._args.source
        for _ in range(_ROUNDS):  # what confirms a sweep is in the plan only when the points are known
            trials = [p.trial for p in planned.plan.to_run()]
            taken = take(folder, self._args.digest, trials, origin, done=self._taken, all_of=False)
            keys = {*taken.records, *(attempt.key for attempt in taken.failed)}
            if not keys:
                break
            self._tools.results.keep(taken.files)
            self._taken |= keys
            planned = self._plan(event)
        return planned

    # What is said

    def _say(self, event: Event, planned: Planned, taken: Collection[str]) -> str:
        without = {p.trial.key for p in planned.plan.to_run()}
        if at_work := without & self._live:
            return f"{_trials(len(at_work))} at work"
        statuses = self._flow.forge().statuses(event.head or "")
        if taken:
            self._publish(event, _believing(planned, taken))
            return f"{_trials(len(taken))} collected, and published"
        waits = [one for one in statuses.items() if one[0].startswith(_PREFIX) and one[1].state is State.PENDING]
        over = {context: self._flow.forge().run_is_over(one.url) for context, one in waits if one.url}
        if False in over.values():
            return "its run goes on"
        if without:
            for context in (context for context, ended in over.items() if ended):
                self._flow.forge().set_status(
                    event.head or "", context=context, state=State.ERROR, text=NO_RESULT, url=statuses[context].url
                )
            return f"{_trials(len(without))} without a record{', which no run trains any more' if over else ''}"
        if event.fork or event.draft:
            return "nothing to do"
        comparison = self._flow.compare(planned)
        if not any(over.values()) and self._is_said(event, comparison, statuses):
            return "up to date"
        self._flow.publish(event, _steps(event), planned, comparison)
        return "published"

    def _publish(self, event: Event, planned: Planned) -> None:
        self._flow.publish(event, _steps(event), planned, self._flow.compare(planned))

    def _is_said(self, event: Event, comparison: Comparison, statuses: Mapping[str, Standing]) -> bool:
        """Whether report, comment and statuses are there."""
        if not all(self._tools.results.report_files(folder_for(one)) for one in comparison.experiments):
            return False
        if event.change is None:
            return True
        names = [*(one.name for one in comparison.experiments), *comparison.unchanged]
        standing = [statuses.get(f"{_PREFIX}{name}") for name in names]
        if any(one is None or one.state is State.PENDING for one in standing):
            return False
        if self._flow.local:
            return True
        told = self._flow.forge().told(event.change, marker=markdown.marker(self._args.identity))
        return told is not None and told.commit == event.head

    def _sweep(self) -> None:
        """End what outlived its deadline."""
        for leftover in leftovers_of((), self._tools):
            error = end(leftover)
            if error is None:
                since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
                self._tools.say(f"ended {identity_of(leftover)}, overdue since {since}")
            else:
                self._codes.append(ExitCode.SERVICE)
                self._tools.note(f"could not end {identity_of(leftover)}: {error}")


def _steps(event: Event) -> Steps:
    # `run` lets policy say what is not trained, as for a push; nothing is trained here.
    return Steps(
        why="what had ended was collected",
        plan=True,
        run=Spend.POLICY,
        report=True,
        comment=event.change is not None,
        status=True,
    )


def _believing(planned: Planned, taken: Collection[str]) -> Planned:
    """Return the plan with what was trained decided for: it was allowed when it began."""
    trained = {
        entry.experiment.name
        for entry in planned.plan.experiments
        if any(one.trial.key in taken for one in entry.trials())
    }
    others = tuple(entry for entry in planned.decision.experiments if entry.name not in trained)
    return dataclasses.replace(planned, decision=dataclasses.replace(planned.decision, experiments=others))


def _named(event: Event) -> str:
    return f"change {event.change}" if event.change is not None else f"branch {wording.clean(event.branch or '')}"


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"

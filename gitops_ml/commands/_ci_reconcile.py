"""Bring every open change and the default branch to what their jobs have left, whatever became of the CI jobs.

What is there is asked anew: jobs of the backends, records on the ledger, statuses and comments on the forge. So it does
not matter what was killed, and doing it twice changes nothing the second time.
"""

import argparse
import dataclasses
import enum
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from gitops_ml import markdown, wording
from gitops_ml.backends.base import JobState, JobStatus
from gitops_ml.ci import Event, EventKind
from gitops_ml.commands._ci_places import (
    Flow,
    NotHereError,
    asked_at,
    asked_by_a_change,
    attempt_of,
    end_all,
    is_kept,
    places,
    steps_at,
    unwanted_after_all,
)
from gitops_ml.commands._ci_plan import Planned
from gitops_ml.commands._jobs import Known, known_jobs
from gitops_ml.commands.gc import end, identity_of, leftovers_of
from gitops_ml.commands.report import folder_for
from gitops_ml.commands.run import carry_out, collect_ended
from gitops_ml.comparison import Comparison
from gitops_ml.errors import ExitCode, ServiceError, TrialError, UserError, worst
from gitops_ml.forges.base import Standing, State
from gitops_ml.handover import Writer, ended_in, heads_in, live_in, take
from gitops_ml.ledger import attempt_path
from gitops_ml.planning import PlannedTrial, Trial
from gitops_ml.policy import Ruling
from gitops_ml.records import Attempt, Origin, Outcome, Record, Usage, attempt_to_json, json_bytes
from gitops_ml.tools import Tools

NO_RESULT = "ended without a result; the run's log says why"
_ROUNDS = 3
_PREFIX = "gitops-ml/"


class Part(enum.StrEnum):
    """Which half: what holds the cloud's credentials and what holds the forge's are kept apart."""

    ALL = "all"
    COLLECT = "collect"
    PUBLISH = "publish"


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
        self._ended: list[Attempt] = []
        """Of jobs that no place wants any more."""
        self._heads: dict[str, int] = {}
        """Heads that stand no longer, with their changes' numbers, whose trainings ended well all the same."""
        self._again: set[str] = set()
        """Keys that were submitted again."""
        self._codes: list[int] = [ExitCode.OK]

    def run(self) -> tuple[int, dict[str, str]]:
        tools = self._tools
        everywhere = self._places()
        default = next(everywhere)
        # Its settings say which ledger and backends there are.
        self._flow.prepare(default)
        tools.results.refresh()
        self._look_at_jobs()
        if any(asked_by_a_change(known) for known in self._jobs.values()):
            everywhere = iter(listed := list(everywhere))
            self._end_unwanted([default, *listed])
        standing = set()
        for event in itertools.chain([default], everywhere):
            standing.add(event.head)
            if self._part is Part.COLLECT and self._open() <= self._planned:
                break  # nobody has to be asked for places where nothing can be
            tools.say(f"{_named(event)}: {self._at(event)}")
        for event in self._older(default, standing):
            tools.say(f"{_named(event)} at {(event.head or '')[:12]}: {self._at(event, tell=False)}")
        if self._part is not Part.PUBLISH:
            self._sweep()
        outputs = {}
        if self._writer is not None:
            outputs["digest"] = self._writer.close(
                self._failed, live=sorted(self._live), ended=self._ended, heads=self._heads
            )
        elif tools.results.kept():
            tools.results.push("Keep what was collected")
        return worst(*self._codes), outputs

    def _places(self) -> Iterator[Event]:
        without_forge = self._part is Part.COLLECT
        return places(self._flow, self._args, self._tools, default=self._default, without_forge=without_forge)

    def _look_at_jobs(self) -> None:
        tools, args = self._tools, self._args
        if self._part is not Part.PUBLISH:
            self._jobs = {known.job.key: known for known in known_jobs(tools)}
            self._live = {key for key, known in self._jobs.items() if not known.status.state.final}
        elif args.source is not None:
            if not args.digest:
                raise UserError("`--from` needs `--digest`: what the job that collected said itself")
            self._live = set(live_in(tools.cwd / args.source, args.digest))
            self._heads = dict(heads_in(tools.cwd / args.source, args.digest))
            self._keep_ended(ended_in(tools.cwd / args.source, args.digest, self._flow.origin, tools.now()))
        if self._part is Part.COLLECT:
            if args.out is None:
                raise UserError("to collect is to hand over what was collected: name a new folder with `--out DIR`")
            self._writer = Writer(tools.cwd / args.out)

    def _open(self) -> set[str]:
        """Return the keys of jobs about which something may be done at the place that plans them."""
        return {key for key, known in self._jobs.items() if known.status.state.final or known.status.retry_at}

    # What nobody wants any more

    def _end_unwanted(self, events: Sequence[Event]) -> None:
        """End the jobs of changes that are closed or have another head, unless somebody else wants what they train.

        What became of them is kept without a plan, which knows them no more.
        """
        heads = {event.head for event in events}
        kept = self._tools.results.attempts(self._jobs)
        mine = {
            key: known
            for key, known in self._jobs.items()
            if asked_by_a_change(known)
            and (asked := known.status.asked) is not None
            and asked.head not in heads
            and not (
                known.status.state.final
                and is_kept(attempt_of(known, known.status, self._flow.origin), kept.get(key, ()))
            )
        }
        if not mine:
            return
        asked_for = {key: known.status.asked for key, known in mine.items()}
        try:
            gone = unwanted_after_all(self._flow, asked_for, events, self._places)
        except (ServiceError, NotHereError) as error:
            self._codes.append(ExitCode.SERVICE)
            self._tools.note(f"nothing of closed or moved changes was ended: {error}")
            return
        failed = end_all([mine[key] for key in gone if key in self._live])
        for key, why in failed.items():
            self._codes.append(why.exit_code)
            self._tools.note(f"could not end {_called(mine[key])}: {why}")
        for key in gone:
            known = mine[key]
            if key in self._live and key not in failed:
                assert known.status.asked is not None
                change = known.status.asked.change
                self._tools.say(f"ended {_called(known)}: nobody wants it since change {change} has moved or is closed")
            # What is only about to be over is kept by the next one.
            status = known.backend.poll([key]).get(key, known.status)
            if status.state.final and status.state is not JobState.SUCCEEDED:
                self._live.discard(key)
                self._ended.append(attempt_of(known, status, self._flow.origin))
        if self._part is Part.ALL:
            self._keep_ended(self._ended)

    def _keep_ended(self, ended: Sequence[Attempt]) -> None:
        """Keep attempts under the next free number each; what is there already stays."""
        results = self._tools.results
        before = results.attempts([attempt.key for attempt in ended])
        recorded = results.keys()
        self._ended = []
        for attempt in ended:
            earlier = before.get(attempt.key, ())
            if is_kept(attempt, earlier) or attempt.key in recorded:
                continue
            number = 1 + max((one.number for one in earlier), default=0)
            numbered = dataclasses.replace(attempt, number=number)
            results.keep({attempt_path(attempt.key, number): json_bytes(attempt_to_json(numbered))})
            self._ended.append(numbered)

    # One place

    def _older(self, default: Event, standing: Collection[str | None]) -> Sequence[Event]:
        """Return the heads that stand no longer and whose trainings ended well before anybody could end them.

        They are paid for, and a record is one whoever asked for it.
        """
        if self._part is not Part.PUBLISH:
            recorded = self._tools.results.keys()
            for key, known in self._jobs.items():
                asked = known.status.asked
                if (
                    asked is not None
                    and asked.change is not None
                    and asked.head not in standing
                    and key not in recorded | self._planned
                    and known.status.state is JobState.SUCCEEDED
                ):
                    self._heads[asked.head] = asked.change
        return [
            dataclasses.replace(default, kind=EventKind.CHANGE, head=head, branch=None, change=change)
            for head, change in sorted(self._heads.items())
        ]

    def _at(self, event: Event, *, tell: bool = True) -> str:
        """Do what is to be done at one place, and say what that was."""
        try:
            self._flow.prepare(event)
            planned = self._plan(event)
            self._planned |= planned.plan.keys()
            if self._part is not Part.PUBLISH:
                planned = self._collect(event, planned)
                # What an older head still lacks is wanted by nobody.
                planned = self._tried_again(event, planned) if tell else planned
            elif self._args.source is not None:
                planned = self._take(event, planned)
            taken = planned.plan.keys() & self._taken
            if self._part is Part.COLLECT or not tell:
                again = planned.plan.keys() & self._again
                return f"{_trials(len(taken))} collected" + (f", {len(again)} started again" if again else "")
            return self._say(event, planned, taken)
        except UserError as error:
            if isinstance(error, ServiceError):
                self._codes.append(error.exit_code)
            return wording.clean(str(error).splitlines()[0], 300) if str(error) else "it cannot be looked at"

    def _plan(self, event: Event) -> Planned:
        return self._flow.plan(event, steps_at(event), None, ())[1]

    # What jobs have left

    def _collect(self, event: Event, planned: Planned) -> Planned:
        """Keep the outcome of this place's jobs that are over."""
        over = self._jobs.keys() - self._live
        trials = {p.trial.key: p.trial for p in planned.plan.to_run() if p.trial.key in over}
        return self._collected(event, trials) if trials else planned

    def _collected(self, event: Event, trials: Mapping[str, Trial]) -> Planned:
        before = self._tools.results.attempts(trials)
        summary = collect_ended(list(trials.values()), self._tools, self._hand_over(trials), self._origin(event))
        failed = [attempt for attempt in summary.failed if attempt not in before.get(attempt.key, ())]
        self._failed += failed
        self._taken |= {record.key for record in summary.records} | {attempt.key for attempt in failed}
        self._codes += [error.exit_code for _, error in summary.refused]
        return self._plan(event)

    def _origin(self, event: Event) -> Origin:
        return dataclasses.replace(self._flow.origin, change=event.change)

    def _hand_over(self, trials: Mapping[str, Trial]) -> Callable[[Record, Path], None]:
        def hand_over(record: Record, folder: Path) -> None:
            if self._writer is not None:
                self._writer.add(trials[record.key], record, folder)

        return hand_over

    def _tried_again(self, event: Event, planned: Planned) -> Planned:
        """Submit again what lost its machine or found none, within what was allowed when it began."""
        rulings = {entry.name: entry.ruling for entry in planned.decision.experiments}
        waiting = [p for p in planned.plan.to_run() if p.trial.key in self._jobs.keys() - self._again]
        attempts = self._tools.results.attempts([p.trial.key for p in waiting])
        trials = {
            p.trial.key: p.trial
            for p in waiting
            if not event.draft
            and self._tools.backend(p.trial.experiment.backend or self._tools.project.backend).far
            and goes_on(
                self._jobs[p.trial.key].status,
                p,
                rulings.get(p.trial.experiment.name),
                attempts.get(p.trial.key, ()),
                head=event.head,
                now=self._tools.now(),
            )
        }
        if not trials:
            return planned
        options = argparse.Namespace(jobs=None, detach=True, logs=False)
        summary = carry_out(
            list(trials.values()),
            options,
            self._tools,
            self._hand_over(trials),
            self._origin(event),
            asked=asked_at(event),
            is_result=False,
        )
        started = {trial.key for trial in summary.going_on}
        self._again |= started
        self._live |= started
        # Of its machine time nothing may be left: that is the trial's affair, and said.
        self._codes += [error.exit_code for _, error in summary.refused if not isinstance(error, TrialError)]
        return planned

    def _take(self, event: Event, planned: Planned) -> Planned:
        """Make records of what the other half has handed over for this place."""
        origin = self._origin(event)
        folder = self._tools.cwd / self._args.source
        for _ in range(_ROUNDS):  # what confirms a sweep is in the plan only when the points are known
            trials = [p.trial for p in planned.plan.to_run()]
            taken = take(
                folder,
                self._args.digest,
                trials,
                origin,
                now=self._tools.now(),
                done=self._taken,
                all_of=False,
            )
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
        if event.change in {one.origin.change for one in self._ended} and self._may_tell(event, planned):
            self._publish(event, planned)
            return "what nobody wants any more was ended, and published"
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
        self._flow.publish(event, steps_at(event), planned, comparison)
        return "published"

    @staticmethod
    def _may_tell(event: Event, planned: Planned) -> bool:
        """Say whether the comment can be written: nothing is allowed to be trained that nobody has trained yet."""
        return not (event.fork or event.draft or planned.decision.names(Ruling.TRAIN))

    def _publish(self, event: Event, planned: Planned) -> None:
        self._flow.publish(event, steps_at(event), planned, self._flow.compare(planned))

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


def goes_on(
    status: JobStatus,
    planned: PlannedTrial,
    ruling: Ruling | None,
    attempts: Sequence[Attempt],
    *,
    head: str | None,
    now: datetime,
) -> bool:
    """Say whether a job that nobody watches is to be submitted again.

    It was asked for by CI, and it waits for a machine, or its machine was taken away, or none was to be had, as often
    as ``budget.retries.preempted`` allows. All attempts share the machine time of the trial, so that together they cost
    at most what the first one could; where that took an approval, it holds for its head and for no higher price.

    Args:
        status: of the job.
        planned: the trial in the place's plan of now, with what it may cost today.
        ruling: what policy says of its experiment today.
        attempts: all that did not succeed.
        head: of the place.
        now: aware UTC.
    """
    if status.asked is None or ruling in (None, Ruling.REFUSE):
        return False
    if status.state is JobState.WAITING:
        return status.retry_at is not None and status.retry_at <= now
    lost = sum(_is_no_fault(one.outcome.value, one.usage) for one in attempts)
    if not _is_no_fault(status.state.value, status.usage) or lost > planned.trial.experiment.budget.retries_preempted:
        return False
    if ruling is Ruling.TRAIN:
        return True
    allowed_usd = status.usage.worst_usd if status.usage is not None else None
    if status.asked.head != head or allowed_usd is None:
        return False
    return planned.estimate.worst_usd <= Decimal(str(allowed_usd))


def _is_no_fault(outcome: str, usage: Usage | None) -> bool:
    # Without a machine it is the wait for one that took too long.
    nowhere = outcome == Outcome.TIMED_OUT and usage is not None and not usage.instance_id
    return outcome in (Outcome.PREEMPTED, Outcome.LOST) or nowhere


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


def _called(known: Known) -> str:
    return f"{wording.clean(known.job.experiment, 100)} seed {known.job.seed} ({known.job.key[:12]})"


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"

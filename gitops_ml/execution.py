"""Carry out a plan: submit, watch, collect, keep; cancel when told to.

Everything is found again by its key, so a run that was killed at any point is continued by the next one: a job
that goes on is attached to, one that has ended is collected, and a record is kept once.
"""

import concurrent.futures
import dataclasses
import enum
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from gitops_ml.agent.redaction import redacted
from gitops_ml.backends.base import Asked, Backend, JobState, JobStatus
from gitops_ml.bundles import Blobs, Elsewhere, bundle
from gitops_ml.errors import ExitCode, ServiceError, UserError, worst
from gitops_ml.git import locked
from gitops_ml.ledger import attempt_path
from gitops_ml.outputs import Sink, made_record
from gitops_ml.planning import Trial
from gitops_ml.records import (
    Attempt,
    Origin,
    Outcome,
    Record,
    attempt_to_json,
    json_bytes,
)
from gitops_ml.values import dataclass

LOG_TAIL_BYTES = 4096
_COLLECT_LIMIT_S = 3600.0
_POLL_MIN_S, _POLL_MAX_S, _POLL_SHARE = 0.05, 1.0, 0.05
FAR_JOBS = 500
"""How many jobs of backends elsewhere are at work at the same time unless it is said."""
_ENDED_AT_A_TIME = 64
_ROUND_S = 5.0
"""How long machines are asked for at a stretch, of which there may be hundreds to ask for, before those at work are
looked at again."""
_PATIENCE_S = 300.0
"""How long a service may give no answer before we go; the jobs go on without us."""


class EventKind(enum.StrEnum):
    """What can happen to a trial."""

    SUBMITTED = "submitted"
    ATTACHED = "attached"
    CHANGED = "changed"
    LINE = "line"
    RETRIED = "retried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened to a trial; ``text`` is a log line, a reason or an error, as the kind says."""

    kind: EventKind
    trial: Trial
    status: JobStatus | None = None
    text: str = ""
    record: Record | None = None
    attempt: Attempt | None = None


class Keeper(Protocol):
    """What we need of ``ledger.Results``."""

    def attempts(self, keys: Iterable[str]) -> Mapping[str, Sequence[Attempt]]:
        """Return the attempts that did not succeed, by key."""

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep files until they are pushed; a record that is there stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside world of an execution."""

    backend: Callable[[Trial], tuple[str, Backend]]
    """The trial's backend and its name."""
    blobs: Blobs
    results: Keeper
    storage: Sink
    scratch: Path
    """A folder of ours; outputs are brought here to be read."""
    origin: Origin
    secret: Callable[[str], str | None]
    """A secret's value by its name, to keep it out of what is kept."""
    now: Callable[[], datetime]
    wait: Callable[[float], None]
    elsewhere: Elsewhere | None = None
    """Where files are that git's objects only point to."""
    asked: Asked | None = None
    """For what is submitted; None: a person wants it."""
    on_event: Callable[[Event], None] = lambda _: None
    on_outputs: Callable[[Record, Path], None] = lambda _record, _folder: None
    """Gets each new record with the raw outputs it was made from, before they are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How an execution ended. ``failed`` holds each trial's last attempt."""

    records: tuple[Record, ...] = ()
    failed: tuple[Attempt, ...] = ()
    refused: tuple[tuple[Trial, UserError], ...] = ()
    going_on: tuple[Trial, ...] = ()
    """Jobs that were submitted or attached to, and were not over when we left."""
    not_started: tuple[Trial, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """What the command says to the shell."""
        codes = [error.exit_code for _, error in self.refused]
        codes += [ExitCode.TRIAL_FAILED] if self.failed else []
        codes += [ExitCode.INTERRUPTED] if self.interrupted else []
        return worst(*codes)


def execute(
    trials: Sequence[Trial],
    ports: Ports,
    *,
    jobs: int,
    far_jobs: int = FAR_JOBS,
    detach: bool = False,
    follow: bool = False,
) -> Summary:
    """Train what is to be trained, at most ``jobs`` at a time, and keep every outcome.

    Args:
        trials: each key once.
        ports: backends, git, results, clock.
        jobs: how many may be at work on this machine at the same time; attached ones count.
        far_jobs: how many may be at work elsewhere.
        detach: return once they are submitted; the next execution collects them. Interrupted, it ends none.
        follow: pass on the training's log lines as events.
    """
    return _Execution(trials, ports, jobs=jobs, far_jobs=far_jobs, follow=follow).run(detach=detach)


def collect(trials: Sequence[Trial], ports: Ports) -> Summary:
    """Keep the outcome of jobs that are over; nothing is started, tried again or waited for."""
    return _Execution(trials, ports, jobs=len(trials), follow=False).collect()


class _Job:
    """A trial on its way."""

    def __init__(self, trial: Trial, name: str, backend: Backend) -> None:
        self.trial = trial
        self.name = name
        self.backend = backend
        self.status: JobStatus | None = None
        self.attached = False
        self.submitted = False
        """This execution started its newest attempt: nobody can have kept that one before us."""
        self.retries: Counter[str] = Counter()
        self.follower: threading.Thread | None = None


class _Execution:
    def __init__(
        self, trials: Sequence[Trial], ports: Ports, *, jobs: int, far_jobs: int = FAR_JOBS, follow: bool
    ) -> None:
        self._ports = ports
        self._limits = {False: jobs, True: far_jobs}
        self._follow = follow
        self._pending = deque(_Job(trial, *ports.backend(trial)) for trial in trials)
        self._active: dict[str, _Job] = {}
        self._records: list[Record] = []
        self._failed: list[Attempt] = []
        self._refused: list[tuple[Trial, UserError]] = []
        self._ending = False
        self._silent_since: datetime | None = None
        self._round_until = ports.now() + timedelta(seconds=_ROUND_S)
        self._emitting = threading.Lock()

    def run(self, *, detach: bool) -> Summary:
        try:
            known = _poll(self._pending)
            for job in self._pending:
                job.status = known.get(job.trial.key)
            unchanged_s = 0.0
            while self._pending or self._active:
                self._fill(at_a_stretch=detach)
                if detach:
                    # What was started elsewhere just now has nothing to say yet.
                    self._watch({key: j for key, j in self._active.items() if not (j.submitted and j.backend.far)})
                    self._fill(at_a_stretch=True)
                    break
                changed = self._watch(self._active)
                unchanged_s = 0.0 if changed else unchanged_s
                if self._active:
                    # Little is lost on a short training, and a long one is not asked without need.
                    pause_s = min(_POLL_MAX_S, max(_POLL_MIN_S, unchanged_s * _POLL_SHARE))
                    self._ports.wait(pause_s)
                    unchanged_s += pause_s
        except KeyboardInterrupt:
            if detach:
                self._leave_all()
            else:
                self._end_all()
            return self._summary(interrupted=True)
        return self._summary(interrupted=False)

    def collect(self) -> Summary:
        self._ending = True
        known = _poll(self._pending)
        for job in [job for job in self._pending if job.trial.key in known]:
            self._pending.remove(job)
            job.status, job.attached = known[job.trial.key], True
            self._active[job.trial.key] = job
            if not job.status.state.final:
                continue
            try:
                self._finish(job, job.status)
            except UserError as error:
                del self._active[job.trial.key]
                self._refused.append((job.trial, error))
                self._emit(Event(kind=EventKind.REFUSED, trial=job.trial, text=str(error)))
        return self._summary(interrupted=False)

    def _summary(self, *, interrupted: bool) -> Summary:
        return Summary(
            records=tuple(self._records),
            failed=tuple(self._failed),
            refused=tuple(self._refused),
            going_on=tuple(job.trial for job in self._active.values()),
            not_started=tuple(job.trial for job in self._pending),
            interrupted=interrupted,
        )

    def _fill(self, *, at_a_stretch: bool) -> None:
        """Start pending trials while there is room and, unless it is to be ``at_a_stretch``, the round lasts."""
        waiting: deque[_Job] = deque()
        while self._pending and any(map(self._is_free, self._limits)):
            job = self._pending.popleft()
            if not (self._is_free(job.backend.far) and self._has_room(job.trial)):
                waiting.append(job)
                continue
            # In the table before anything is started: an interruption finds it there.
            self._active[job.trial.key] = job
            self._begin(job)
            if not at_a_stretch and self._ports.now() >= self._round_until:
                break
        self._pending.extendleft(reversed(waiting))

    def _is_free(self, far: bool) -> bool:  # noqa: FBT001 it is which of two places
        return sum(job.backend.far is far for job in self._active.values()) < self._limits[far]

    def _has_room(self, trial: Trial) -> bool:
        sweep = trial.experiment.sweep
        if sweep is None or sweep.parallel is None:
            return True
        same = sum(job.trial.experiment is trial.experiment for job in self._active.values())
        return same < sweep.parallel

    def _begin(self, job: _Job) -> None:
        try:
            self._start(job)
        except UserError as error:
            self._refuse(job, error)

    def _start(self, job: _Job) -> None:
        status = job.status
        if status is not None and status.state.final and status.state is not JobState.SUCCEEDED:
            self._keep_failure(job, status)  # of a run that did not live to see it
        if status is not None and (not status.state.final or status.state is JobState.SUCCEEDED):
            job.attached = True
            self._emit(Event(kind=EventKind.ATTACHED, trial=job.trial, status=status))
            if status.retry_at is not None:
                self._help_on(job)
        else:
            self._submit(job)
        if self._follow:
            job.follower = threading.Thread(target=self._pass_on_log, args=(job,), daemon=True)
            job.follower.start()

    def _submit(self, job: _Job) -> None:
        job.status = self._submitted(job)
        job.submitted = True
        self._emit(Event(kind=EventKind.SUBMITTED, trial=job.trial, status=job.status))

    def _submitted(self, job: _Job) -> JobStatus:
        with bundle(job.trial, self._ports.blobs, self._ports.elsewhere) as made:
            return job.backend.submit(job.trial, dataclasses.replace(made, asked=self._ports.asked))

    def _watch(self, jobs: Mapping[str, _Job]) -> bool:
        """Ask the backends once, finish what is over, and say whether anything changed."""
        statuses = self._asked(jobs)
        self._round_until = self._ports.now() + timedelta(seconds=_ROUND_S)
        if statuses is None:
            return False
        changed = False
        due: list[tuple[datetime, _Job]] = []
        for key, job in list(jobs.items()):
            status = statuses.get(key) or _vanished(key, job.status)
            # Also when nothing changed since it was attached to: it may have been over then.
            if status.state.final:
                job.status = status
                changed = True
                try:
                    self._finish(job, status)
                except UserError as error:  # it is over, and the next run collects it; the others go on
                    self._refuse(job, error)
            elif status != job.status:
                changed = changed or not _only_costlier(status, job.status)
                job.status = status
                self._emit(Event(kind=EventKind.CHANGED, trial=job.trial, status=status))
            if status.retry_at is not None and status.retry_at <= self._ports.now():
                due.append((status.retry_at, job))
        self._ask_anew(due)
        return changed

    def _ask_anew(self, due: Sequence[tuple[datetime, _Job]]) -> None:
        """Help on those whose turn it is, the longest due first. For whom there is no time has it in the next round."""
        for _, job in sorted(due, key=lambda one: one[0]):
            self._help_on(job)
            if self._ports.now() >= self._round_until:
                return

    def _asked(self, jobs: Mapping[str, _Job]) -> dict[str, JobStatus] | None:
        """Ask the backends how the jobs stand; None: a service does not answer, which is borne for a while."""
        try:
            found = _poll(jobs.values())
        except ServiceError as error:
            self._silent_since = self._silent_since or self._ports.now()
            if error.lasting or (self._ports.now() - self._silent_since).total_seconds() > _PATIENCE_S:
                hint = "what is at work goes on without us; `gitops-ml run` goes on from here"
                raise ServiceError(f"{error}\n{hint}", lasting=error.lasting) from error
            return None
        self._silent_since = None
        return found

    def _help_on(self, job: _Job) -> None:
        """Ask anew for what the job waits for; from then on it is ours, whoever started it."""
        try:
            job.status = self._submitted(job)
        except UserError as error:
            self._refuse(job, error)
            return
        job.attached = False
        self._emit(Event(kind=EventKind.CHANGED, trial=job.trial, status=job.status))

    def _refuse(self, job: _Job, error: UserError) -> None:
        del self._active[job.trial.key]
        self._refused.append((job.trial, error))
        self._emit(Event(kind=EventKind.REFUSED, trial=job.trial, text=str(error)))

    def _finish(self, job: _Job, status: JobStatus) -> None:
        if job.follower is not None:
            job.follower.join(timeout=5)
        if status.state is JobState.SUCCEEDED:
            record = self._keep_record(job, status)
            del self._active[job.trial.key]
            self._records.append(record)
            self._emit(Event(kind=EventKind.SUCCEEDED, trial=job.trial, status=status, record=record))
            return
        attempt = self._keep_failure(job, status)
        if not self._ending and self._may_retry(job, attempt.outcome):
            self._emit(Event(kind=EventKind.RETRIED, trial=job.trial, status=status, attempt=attempt))
            job.attached = False
            job.status = None
            # It has its place again in this round or the next: many may have been taken away at once.
            self._pending.appendleft(self._active.pop(job.trial.key))
            return
        del self._active[job.trial.key]
        self._failed.append(attempt)
        self._emit(Event(kind=EventKind.FAILED, trial=job.trial, status=status, attempt=attempt))

    def _may_retry(self, job: _Job, outcome: Outcome) -> bool:
        budget = job.trial.experiment.budget
        if outcome in (Outcome.PREEMPTED, Outcome.LOST):  # no fault of the training
            kind, allowed = "preempted", budget.retries_preempted
        elif outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            kind, allowed = "failed", budget.retries_failed
        else:
            return False
        job.retries[kind] += 1
        return job.retries[kind] <= allowed

    def _keep_record(self, job: _Job, status: JobStatus) -> Record:
        trial = job.trial
        folder = self._ports.scratch / trial.key
        self._ports.scratch.mkdir(parents=True, exist_ok=True)
        # Another run that is attached to the same job collects it too, into the same folder.
        with locked(folder.with_suffix(".lock"), limit_s=_COLLECT_LIMIT_S):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                job.backend.collect(trial.key, folder)
                number = 1 + max((a.number for a in self._attempts(trial.key)), default=0)
                attempt = self._attempt(job, status, number, "")
                record, files = made_record(trial, attempt, folder, self._ports.storage)
                self._ports.results.keep(files)
                self._ports.on_outputs(record, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return record

    def _keep_failure(self, job: _Job, status: JobStatus) -> Attempt:
        """Keep an attempt that did not succeed, unless it is kept already, and return it."""
        key = job.trial.key
        earlier = self._attempts(key)
        number = 1 + max((attempt.number for attempt in earlier), default=0)
        attempt = self._attempt(job, status, number, self._log_tail(job))
        for other in earlier:
            if not job.submitted and _same(other, attempt):
                return other
        self._ports.results.keep({attempt_path(key, number): json_bytes(attempt_to_json(attempt))})
        return attempt

    def _attempts(self, key: str) -> Sequence[Attempt]:
        return self._ports.results.attempts([key]).get(key, ())

    def _attempt(self, job: _Job, status: JobStatus, number: int, log_tail: str) -> Attempt:
        trial = job.trial
        started = status.started_at or status.ended_at or self._ports.now()
        ended = status.ended_at or started
        return Attempt(
            key=trial.key,
            number=number,
            experiment=trial.experiment.name,
            outcome=Outcome(status.state.value),
            reason=self._clean(trial, status.reason),
            exit_code=status.exit_code,
            backend=job.name,
            commit=trial.version.commit,
            dirty=trial.version.dirty,
            params=trial.params,
            seed=trial.seed,
            started_at=started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            duration_s=max(0.0, round((ended - started).total_seconds(), 3)),
            cost_usd=status.cost_usd,
            hardware=status.hardware,
            origin=self._ports.origin,
            log_tail=log_tail,
            usage=status.usage,
        )

    def _log_tail(self, job: _Job) -> str:
        lines = deque(job.backend.logs(job.trial.key, follow=False), maxlen=400)
        text = self._clean(job.trial, "\n".join(lines))
        # Cut after cleaning, so that no half of a secret is left at the cut.
        tail = text.encode(errors="replace")[-LOG_TAIL_BYTES:]
        return tail.decode(errors="ignore")

    def _clean(self, trial: Trial, text: str) -> str:
        values = (self._ports.secret(name) for name in trial.experiment.environment.secrets)
        return redacted(text.encode(errors="replace"), [v for v in values if v]).decode(errors="replace")

    def _pass_on_log(self, job: _Job) -> None:
        try:
            for line in job.backend.logs(job.trial.key, follow=True):
                self._emit(Event(kind=EventKind.LINE, trial=job.trial, text=self._clean(job.trial, line)))
        except UserError as error:
            text = f"gitops-ml: the log is not followed any more: {error}"
            self._emit(Event(kind=EventKind.LINE, trial=job.trial, text=text))

    def _emit(self, event: Event) -> None:
        with self._emitting:
            self._ports.on_event(event)

    def _leave_all(self) -> None:
        """Tell what is at work from what was not started yet; nothing is ended."""
        for key, job in list(self._active.items()):
            if job.status is None or (job.status.state.final and not job.submitted):
                self._pending.appendleft(self._active.pop(key))

    def _end_all(self) -> None:
        """End the jobs that we started; one that somebody else started goes on."""
        self._ending = True
        ours = [job for job in self._active.values() if not job.attached]
        if not ours:
            return
        try:
            with concurrent.futures.ThreadPoolExecutor(max_workers=min(_ENDED_AT_A_TIME, len(ours))) as pool:
                futures = [pool.submit(job.backend.cancel, job.trial.key) for job in ours]
            if any(isinstance(future.exception(), UserError) for future in futures):
                return  # what could not be ended is said, and ends itself in its time
            for future in futures:
                future.result()
            known = _poll(ours)
            for job in ours:
                status = known.get(job.trial.key)
                if status is None:  # it was never started
                    self._pending.appendleft(self._active.pop(job.trial.key))
                elif status.state.final:
                    self._finish(job, status)
        except (KeyboardInterrupt, ServiceError):
            return  # asked twice, or nobody answers: what is left is said, and stays


def _poll(jobs: Iterable[_Job]) -> dict[str, JobStatus]:
    """Ask each backend once for all of its jobs."""
    by_name: dict[str, list[_Job]] = {}
    for job in jobs:
        by_name.setdefault(job.name, []).append(job)
    found: dict[str, JobStatus] = {}
    for group in by_name.values():
        found |= group[0].backend.poll([job.trial.key for job in group])
    return found


def _vanished(key: str, last: JobStatus | None) -> JobStatus:
    reason = "the backend no longer knows the job"
    if last is None:
        return JobStatus(key=key, state=JobState.LOST, reason=reason)
    return dataclasses.replace(last, state=JobState.LOST, reason=reason)


def _only_costlier(status: JobStatus, before: JobStatus | None) -> bool:
    """Say whether nothing has happened in between but that money was spent."""
    return before is not None and status == dataclasses.replace(before, usage=status.usage, cost_usd=status.cost_usd)


def _same(one: Attempt, other: Attempt) -> bool:
    if one.usage is not None and other.usage is not None and one.usage.instance_id:
        return one.usage.instance_id == other.usage.instance_id  # one machine per attempt
    # The key may be planned again from another commit or machine; the attempt is still the one that it was.
    # What it cost is known for good only when its machine is gone.
    names = ("number", "experiment", "commit", "dirty", "origin", "usage", "cost_usd")
    return dataclasses.replace(one, **{name: getattr(other, name) for name in names}) == other

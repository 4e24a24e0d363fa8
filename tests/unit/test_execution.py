"""Plans carried out with real agents: every outcome, and every way to be cut off."""

import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gitops_ml.backends.base import Bundle, Context, JobState, JobStatus
from gitops_ml.backends.local import LocalBackend
from gitops_ml.bundles import bundle
from gitops_ml.errors import ExitCode, ServiceError, UserError
from gitops_ml.execution import Event, EventKind, Ports, Summary, collect, execute
from gitops_ml.planning import Trial
from gitops_ml.records import Origin, Outcome, Usage
from gitops_ml.spec import Artifact, Budget, Environment, Metrics, Read, Sweep, Track
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.trials import WRITES, Kept, Objects, trial, until

METRICS = Metrics(read=(Read(path="out/*.json"),), track=(Track(name="accuracy"),))
ENVIRON = {"PATH": os.environ["PATH"], "TOKEN": "s3cret-value"}


class Here:
    """One repository's state, with as many executions on it as a test wants."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.kept = Kept()
        self.events: list[Event] = []
        self.objects = Objects()
        self.backend = self.connect()

    def connect(self) -> LocalBackend:
        return LocalBackend(
            Context(state=self.state, settings={"grace_s": 0.3}, environ=ENVIRON, now=lambda: datetime.now(UTC))
        )

    def execute(
        self,
        *trials: Trial,
        jobs: int = 2,
        wait: Callable[[float], None] | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
        **options: bool,
    ) -> Summary:
        def take(event: Event) -> None:
            self.events.append(event)
            on_event(event)

        return execute(trials, self.ports(wait=wait, on_event=take), jobs=jobs, **options)

    def ports(
        self, *, wait: Callable[[float], None] | None = None, on_event: Callable[[Event], None] = lambda _: None
    ) -> Ports:
        return Ports(
            backend=lambda _: ("local", self.backend),
            blobs=self.objects.blobs,
            results=self.kept,
            storage=FolderStorage(self.state / "storage"),
            scratch=self.state / "collected",
            origin=Origin(kind="local"),
            secret=ENVIRON.get,
            now=lambda: datetime.now(UTC),
            wait=wait or (lambda _: time.sleep(0.005)),
            on_event=on_event,
        )

    def kinds(self, of: Trial) -> list[EventKind]:
        kinds = [event.kind for event in self.events if event.trial is of]
        return [kind for kind in kinds if kind not in (EventKind.CHANGED, EventKind.LINE)]

    def submit(self, of: Trial) -> None:
        with bundle(of, self.objects.blobs) as made:
            self.backend.submit(of, made)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "state")


def test_execute__good_training__keeps_one_record(here: Here) -> None:
    of = trial(WRITES, metrics=METRICS, artifacts=(Artifact(path="out/metrics.json", store="git"),))

    summary = here.execute(of)

    record = here.kept.record(of)
    assert summary.exit_code is ExitCode.OK
    assert [r.key for r in summary.records] == [of.key]
    assert (record.attempt.outcome, record.attempt.number, record.attempt.backend) == (Outcome.SUCCEEDED, 1, "local")
    assert [(scalar.name, scalar.value) for scalar in record.scalars] == [("accuracy", 0.5)]
    assert record.problems == ()
    assert [(file.path, file.store) for file in record.files] == [("out/metrics.json", "git")]
    assert here.kept.files[f"records/{of.key[:2]}/{of.key}/outputs/out/metrics.json"] == b'{"accuracy": 0.5}\n'
    assert here.kinds(of) == [EventKind.SUBMITTED, EventKind.SUCCEEDED]


def test_execute__no_metrics_named__keeps_a_record_of_nothing(here: Here) -> None:
    of = trial("true")

    assert here.execute(of).exit_code is ExitCode.OK
    assert here.kept.record(of).scalars == ()


@pytest.mark.parametrize(
    ("run", "outcome", "reason", "exit_code"),
    [
        ("echo boom; exit 3", "failed", "the training exited with code 3", 3),
        ("kill -9 $$", "failed", "the training was killed (SIGKILL); often the machine was out of memory", -9),
        ("echo nothing", "failed", "wrote no metrics: no file matches out/*.json", 0),
        ("no-such-command", "failed", "the training exited with code 127", 127),
        ("sleep 600", "timed_out", "printed nothing for 0.2s (no_output)", 143),
    ],
)
def test_execute__bad_training__keeps_an_attempt(
    here: Here, run: str, outcome: str, reason: str, exit_code: int
) -> None:
    of = trial(run, metrics=METRICS, budget=Budget(no_output_s=0.2))

    summary = here.execute(of)

    (attempt,) = here.kept.attempts([of.key])[of.key]
    assert summary.exit_code is ExitCode.TRIAL_FAILED
    assert (attempt.outcome, attempt.reason, attempt.exit_code) == (outcome, reason, exit_code)
    assert here.kept.records() == []


def test_execute__metrics_that_are_not_numbers__are_kept_and_said(here: Here) -> None:
    of = trial('mkdir -p out; echo \'{"accuracy": NaN, "loss": 1.5}\' > out/metrics.json', metrics=METRICS)

    summary = here.execute(of)

    record = here.kept.record(of)
    assert summary.exit_code is ExitCode.OK
    assert math.isnan(next(scalar.value for scalar in record.scalars if scalar.name == "accuracy"))
    assert any("accuracy" in problem.where + problem.message for problem in record.problems)


def test_execute__tracked_metric_missing__is_a_problem(here: Here) -> None:
    of = trial("mkdir -p out; echo '{\"loss\": 1.5}' > out/metrics.json", metrics=METRICS)

    here.execute(of)

    (problem,) = here.kept.record(of).problems
    assert (problem.file, problem.where) == ("out/metrics.json", "accuracy")
    assert problem.message == "the tracked metric was not written; the files hold: loss"


def test_execute__same_metric_in_two_files__is_never_guessed(here: Here) -> None:
    of = trial(f"{WRITES}; echo '{{\"accuracy\": 0.9}}' > out/other.json", metrics=METRICS)

    here.execute(of)

    record = here.kept.record(of)
    assert [(s.name, s.value) for s in record.scalars] == [
        ("out/metrics.json:accuracy", 0.5),
        ("out/other.json:accuracy", 0.9),
    ]
    assert "accuracy" in {problem.where for problem in record.problems}


def test_execute__failed_log__is_kept_without_secrets(here: Here) -> None:
    of = trial("echo $TOKEN ghp_" + "a" * 36 + "; exit 1", environment=Environment(secrets=("TOKEN",)))

    here.execute(of)

    assert here.kept.attempts([of.key])[of.key][0].log_tail == "*** ***"


def test_execute__retries__go_on_until_one_succeeds(here: Here, tmp_path: Path) -> None:
    of = trial(f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 3", budget=Budget(retries_failed=2))

    summary = here.execute(of)

    assert summary.exit_code is ExitCode.OK
    assert here.kept.record(of).attempt.number == 3
    assert [attempt.number for attempt in here.kept.attempts([of.key])[of.key]] == [1, 2]
    assert here.kinds(of)[1:-1:2] == [EventKind.RETRIED] * 2


def test_execute__refused__lets_the_others_go_on(here: Here) -> None:
    refused = trial("true", environment=Environment(secrets=("ABSENT",)))
    good = trial("echo good")

    summary = here.execute(refused, good)

    assert summary.exit_code is ExitCode.USAGE
    assert [of.key for of, _ in summary.refused] == [refused.key]
    assert here.kept.record(good)


@pytest.mark.parametrize(("jobs", "parallel"), [(2, None), (5, 2)])
def test_execute__many__never_more_at_a_time_than_allowed(here: Here, jobs: int, parallel: int | None) -> None:
    sweep = Sweep(list=(), parallel=parallel) if parallel else None
    first = trial("true", sweep=sweep)
    trials = [first] + [_sibling(first, seed) for seed in range(1, 5)]
    live: set[str] = set()
    most = 0

    def count(event: Event) -> None:
        nonlocal most
        (live.add if event.kind in (EventKind.SUBMITTED, EventKind.CHANGED) else live.discard)(event.trial.key)
        most = max(most, len(live))

    summary = here.execute(*trials, jobs=jobs, on_event=count)

    assert len(summary.records) == 5
    assert most == 2


def test_execute__job_of_another_process__is_attached_to(here: Here, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    of = trial(f"echo x >> {tmp_path}/starts; cat {tmp_path}/gate")
    here.submit(of)

    summary = here.execute(of, on_event=lambda e: _open(tmp_path) if e.kind is EventKind.ATTACHED else None)

    assert summary.exit_code is ExitCode.OK
    assert here.kinds(of) == [EventKind.ATTACHED, EventKind.SUCCEEDED]
    assert (tmp_path / "starts").read_text() == "x\n"


def test_execute__two_collect_the_same_job__each_reads_it_whole(here: Here) -> None:
    of = trial(WRITES, metrics=METRICS)
    here.submit(of)
    other = Here(here.state)
    second: list[Summary] = []
    beside = threading.Thread(target=lambda: second.append(other.execute(of)))

    class Meeting(LocalBackend):
        def collect(self, key: str, into: Path) -> None:
            super().collect(key, into)
            beside.start()
            beside.join(timeout=0.3)  # long enough to collect too, were it let in

    here.backend = Meeting(
        Context(state=here.state, settings={"grace_s": 0.3}, environ=ENVIRON, now=lambda: datetime.now(UTC))
    )

    first = here.execute(of)
    beside.join(timeout=30)

    assert [record.problems for summary in (first, *second) for record in summary.records] == [(), ()]
    assert [(scalar.name, scalar.value) for scalar in here.kept.record(of).scalars] == [("accuracy", 0.5)]


def test_execute__detached__is_collected_by_the_next(here: Here, tmp_path: Path) -> None:
    of = trial(f"echo x >> {tmp_path}/starts")

    left = here.execute(of, detach=True)
    until(lambda: here.backend.poll([of.key])[of.key].state is JobState.SUCCEEDED)
    summary = here.execute(of)

    assert left.exit_code is ExitCode.OK
    assert summary.records == (here.kept.record(of),)
    assert (tmp_path / "starts").read_text() == "x\n"


def test_collect__one_over_one_failed_one_at_work_and_one_unknown__starts_nothing(here: Here, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    over, failed = trial(f"echo x >> {tmp_path}/over"), trial(f"echo x >> {tmp_path}/failed; exit 3")
    live, unknown = trial(f"cat {tmp_path}/gate"), trial(f"echo x >> {tmp_path}/unknown")
    for of in (over, failed, live):
        here.submit(of)
    until(lambda: all(here.backend.poll([of.key])[of.key].state.final for of in (over, failed)))

    first, second = (collect([over, failed, live, unknown], here.ports()) for _ in range(2))
    _open(tmp_path)

    assert [record.key for record in first.records] == [over.key]
    assert [attempt.outcome for attempt in first.failed] == [Outcome.FAILED]
    assert first.going_on == (live,)
    assert first.not_started == (unknown,)
    assert len(here.kept.attempts([failed.key])[failed.key]) == 1, "the second look is at the same attempt"
    assert second.failed == first.failed
    assert {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()} == {
        "over": "x\n",
        "failed": "x\n",
    }


class Forgetful:
    """A backend that has lost one job's outputs."""

    def __init__(self, backend: LocalBackend, lost: Trial) -> None:
        self._backend = backend
        self._lost = lost

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def collect(self, key: str, into: Path) -> None:
        if key == self._lost.key:
            raise UserError("its outputs are gone")
        self._backend.collect(key, into)


@pytest.mark.parametrize("detached", [True, False])
def test_outputs__that_cannot_be_had__do_not_keep_the_others(here: Here, detached: bool) -> None:
    one, other = trial("true"), trial("true # other")
    if detached:
        for of in (one, other):
            here.submit(of)
        until(lambda: all(here.backend.poll([of.key])[of.key].state.final for of in (one, other)))
    here.backend = Forgetful(here.backend, one)  # type: ignore[assignment]

    summary = collect([one, other], here.ports()) if detached else here.execute(one, other)

    assert [(of.key, str(error)) for of, error in summary.refused] == [(one.key, "its outputs are gone")]
    assert [record.key for record in summary.records] == [other.key]
    assert summary.going_on == ()


def test_execute__failure_that_nobody_saw__is_kept_before_the_next_attempt(here: Here, tmp_path: Path) -> None:
    of = trial(f"test -e {tmp_path}/mended")
    here.submit(of)
    until(lambda: here.backend.poll([of.key])[of.key].state is JobState.FAILED)
    (tmp_path / "mended").touch()

    here.execute(of)

    assert [attempt.outcome for attempt in here.kept.attempts([of.key])[of.key]] == [Outcome.FAILED]
    assert here.kept.record(of).attempt.number == 2


def test_execute__interrupted__ends_its_trainings_and_says_what_is_left(here: Here, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    foreign = trial(f"cat {tmp_path}/gate")
    own, pending = trial("echo own; sleep 600"), trial("echo pending")
    here.submit(foreign)

    def interrupt(_: float) -> None:
        if any(event.status and event.status.state is JobState.RUNNING and event.trial is own for event in here.events):
            raise KeyboardInterrupt
        time.sleep(0.005)

    summary = here.execute(foreign, own, pending, wait=interrupt)

    assert summary.exit_code is ExitCode.INTERRUPTED
    assert [attempt.outcome for attempt in summary.failed] == [Outcome.CANCELLED]
    assert [of.key for of in summary.going_on] == [foreign.key]
    assert [of.key for of in summary.not_started] == [pending.key]
    assert here.backend.poll([own.key])[own.key].state is JobState.CANCELLED
    _open(tmp_path)
    until(lambda: here.backend.poll([foreign.key])[foreign.key].state is JobState.SUCCEEDED)


@pytest.mark.parametrize("after", [EventKind.SUBMITTED, EventKind.CHANGED, EventKind.SUCCEEDED])
def test_execute__killed_at_any_point__the_next_one_keeps_one_record(
    here: Here, tmp_path: Path, after: EventKind
) -> None:
    of = _waits_for_go(tmp_path)
    if after is EventKind.SUCCEEDED:
        (tmp_path / "go").touch()
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_execution import die_after;"
        "die_after(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
    )
    command = [sys.executable, "-c", code, str(here.state), str(tmp_path), after]
    died = subprocess.run(command, timeout=60, cwd=Path(__file__).parent.parent.parent)
    (tmp_path / "go").touch()

    summary = here.execute(of)

    assert died.returncode == -signal.SIGKILL
    assert summary.exit_code is ExitCode.OK
    assert len(here.kept.records()) == 1
    assert (tmp_path / "starts").read_text() == "x\n"


def _waits_for_go(folder: Path) -> Trial:
    """Return a trial that cannot be over before anybody has seen it train."""
    wait = f"until [ -e {folder}/go ]; do sleep 0.02; done"
    return trial(f"echo x >> {folder}/starts; {wait}; {WRITES}", metrics=METRICS)


def die_after(state: Path, folder: str, kind: str) -> None:
    """What the killed process does."""
    of = _waits_for_go(Path(folder))

    def die(event: Event) -> None:
        if event.kind == kind:
            os.kill(os.getpid(), signal.SIGKILL)

    Here(state).execute(of, on_event=die)


def test_execute__follow__passes_on_the_log(here: Here) -> None:
    of = trial("echo one; echo two")

    here.execute(of, follow=True)

    assert [event.text for event in here.events if event.kind is EventKind.LINE] == ["one", "two"]
    assert here.events[-1].kind is EventKind.SUCCEEDED


def test_execute__follow_a_log_that_breaks_off__says_so_and_goes_on(here: Here) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(local, name)

        def logs(self, key: str, *, follow: bool) -> Iterator[str]:
            yield "one"
            raise ServiceError("AWS does not answer")

    local, here.backend = here.backend, Broken()  # type: ignore[assignment]

    summary = here.execute(trial("true"), follow=True)

    lines = [event.text for event in here.events if event.kind is EventKind.LINE]
    assert lines == ["one", "gitops-ml: the log is not followed any more: AWS does not answer"]
    assert len(summary.records) == 1


def _sibling(of: Trial, seed: int) -> Trial:
    other = trial("true", seed=seed)
    return type(of)(**{name: getattr(of, name) for name in of.__slots__} | {"key": other.key, "seed": seed})


def _open(folder: Path) -> None:
    (folder / "gate").write_text("go\n")


class Waiting:
    """A backend elsewhere, whose jobs wait until they are submitted for the third time, and then fail."""

    far = True

    def __init__(self) -> None:
        self.asked = 0
        self.silent = 0
        self.ended: list[str] = []

    def submit(self, trial: Trial, bundle: Bundle) -> JobStatus:
        self.asked += 1
        return self.status(trial.key)

    def status(self, key: str) -> JobStatus:
        if self.asked < 3:
            return JobStatus(key=key, state=JobState.WAITING, retry_at=datetime.now(UTC))
        return JobStatus(key=key, state=JobState.FAILED, reason="exit 1", usage=USAGE)

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        if self.silent:
            self.silent -= 1
            raise ServiceError("AWS does not answer")
        return {key: self.status(key) for key in keys} if self.asked else {}

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        return iter(())

    def cancel(self, key: str) -> None:
        self.ended.append(key)
        raise ServiceError("AWS does not answer")


class Crowded:
    """A backend elsewhere with fewer machines than are wanted: asking takes 3 s of its clock."""

    far = True

    def __init__(self, *, rounds: int, taken_away: bool = False) -> None:
        self.time = datetime(2026, 11, 27, tzinfo=UTC)
        self.asked: list[str | None] = []
        """Keys in the order of asking; None: all were looked at."""
        self._rounds = rounds
        self._taken_away = taken_away
        self._retry_at: dict[str, datetime] = {}

    def submit(self, trial: Trial, bundle: Bundle) -> JobStatus:
        self.wait(3)
        self.asked.append(trial.key)
        self._retry_at[trial.key] = self.time + timedelta(seconds=60)
        return self.status(trial.key)

    def status(self, key: str) -> JobStatus:
        count = self.asked.count(key)
        if count > self._rounds:
            return JobStatus(key=key, state=JobState.CANCELLED, reason="enough")
        if self._taken_away:
            return JobStatus(key=key, state=JobState.PREEMPTED, reason="taken away", ended_at=self.time)
        return JobStatus(key=key, state=JobState.WAITING, retry_at=self._retry_at[key])

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        self.asked.append(None)
        return {key: self.status(key) for key in keys if key in self._retry_at}

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        return iter(())

    def wait(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def stretches(self) -> list[int]:
        """Return how many were asked for between two looks at all."""
        counts = [0]
        for key in self.asked:
            if key is None:
                counts.append(0)
            else:
                counts[-1] += 1
        return counts


@pytest.mark.parametrize("taken_away", [False, True])
def test_execute__many_to_ask_for__looks_at_all_in_between_and_each_has_its_turn(here: Here, taken_away: bool) -> None:
    crowd = Crowded(rounds=3, taken_away=taken_away)
    spec = trial("true", budget=Budget(retries_preempted=3))
    trials = [_sibling(spec, seed) for seed in range(50)]
    ports = dataclasses.replace(
        here.ports(wait=crowd.wait), backend=lambda _: ("crowded", crowd), now=lambda: crowd.time
    )

    summary = execute(trials, ports, jobs=1)

    assert len(summary.failed) == 50
    assert max(crowd.stretches()) <= 3
    keys = [key for key in crowd.asked if key is not None]
    assert all(keys.count(of.key) == 4 for of in trials)
    if not taken_away:
        places = [[i for i, key in enumerate(keys) if key == of.key] for of in trials]
        gaps = [after - before for each in places for before, after in itertools.pairwise(each)]
        assert max(gaps) <= 50, "nobody is asked for again twice while another one's turn has come"


def test_execute__many_detached__are_all_asked_for_without_looking_in_between(here: Here) -> None:
    crowd = Crowded(rounds=3)
    trials = [trial("true", seed=seed) for seed in range(20)]
    ports = dataclasses.replace(
        here.ports(wait=crowd.wait), backend=lambda _: ("crowded", crowd), now=lambda: crowd.time
    )

    summary = execute(trials, ports, jobs=1, detach=True)

    assert len(summary.going_on) == 20
    assert max(crowd.stretches()) == 20


USAGE = Usage(
    provider="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_id="i-1",
    instance_type="g6.xlarge",
    market="spot",
    image="ami-1",
    usd_per_hour=0.3,
    price_source="spot price history",
    price_date="2026-11-26",
    billed_s=60,
    final_state="terminated",
)


def test_execute__job_that_waits_for_a_machine__is_asked_for_again(here: Here) -> None:
    here.backend = Waiting()  # type: ignore[assignment]
    of = trial("true")

    summary = here.execute(of)

    assert [attempt.reason for attempt in summary.failed] == ["exit 1"]
    assert summary.failed[0].usage == USAGE
    assert here.backend.asked == 3  # type: ignore[attr-defined]


def test_execute__jobs_elsewhere__are_not_limited_by_this_machine(here: Here) -> None:
    here.backend = Waiting()  # type: ignore[assignment]

    summary = here.execute(*(trial("true", seed=seed) for seed in range(9)), jobs=1, detach=True)

    assert len(summary.failed) + len(summary.going_on) == 9
    assert summary.not_started == ()


def test_execute__service_that_is_silent_for_a_while__is_borne(here: Here) -> None:
    here.backend = Waiting()  # type: ignore[assignment]
    of = trial("true")

    def falls_silent(event: Event) -> None:
        here.backend.silent = 2  # type: ignore[attr-defined]

    assert len(here.execute(of, on_event=falls_silent).failed) == 1


def test_interrupted__job_that_cannot_be_ended__is_said_to_go_on(here: Here) -> None:
    here.backend = Waiting()  # type: ignore[assignment]
    of = trial("true")

    def interrupts(_: float) -> None:
        raise KeyboardInterrupt

    summary = here.execute(of, wait=interrupts)

    assert summary.interrupted
    assert [one.key for one in summary.going_on] == here.backend.ended == [of.key]  # type: ignore[attr-defined]


def test_interrupted__detached__ends_nothing_and_says_what_was_not_started(here: Here) -> None:
    here.backend = Waiting()  # type: ignore[assignment]
    one, other = trial("true", seed=1), trial("true", seed=2)

    def interrupts(_: Event) -> None:
        raise KeyboardInterrupt

    summary = here.execute(one, other, detach=True, on_event=interrupts)

    assert summary.interrupted
    assert here.backend.ended == []  # type: ignore[attr-defined]
    assert ([t.key for t in summary.going_on], [t.key for t in summary.not_started]) == ([one.key], [other.key])


class Cut:
    """A backend whose answers about jobs are lost after the first, while there are errors left."""

    def __init__(self, backend: LocalBackend, errors: list[ServiceError]) -> None:
        self._backend = backend
        self._errors = errors
        self._asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        self._asked += 1
        if self._asked > 1 and self._errors:
            raise self._errors.pop()
        return self._backend.poll(keys)


def test_execute__service_that_will_not_answer_again__is_left_at_once(here: Here) -> None:
    of = trial(WRITES, metrics=METRICS)
    here.backend = Cut(here.backend, [ServiceError("the credentials have expired", lasting=True)])

    with pytest.raises(ServiceError) as caught:
        here.execute(of)

    assert str(caught.value) == (
        "the credentials have expired\nwhat is at work goes on without us; `gitops-ml run` goes on from here"
    )
    assert len(here.execute(of).records) == 1

"""What a run shows, on a terminal and in a log."""

import dataclasses
import io

import pytest

from gitops_ml.backends.base import JobState, JobStatus
from gitops_ml.execution import Event, EventKind
from gitops_ml.planning import Trial
from gitops_ml.progress import Progress, duration, harmless
from gitops_ml.records import NOT_WRITTEN, Attempt, Outcome, Problem
from tests.fakes import runs
from tests.fakes.trials import trial

TRIAL = trial("true")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def event(kind: EventKind, state: JobState = JobState.RUNNING, progress: str = "", of: Trial = TRIAL) -> Event:
    return Event(kind=kind, trial=of, status=JobStatus(key=of.key, state=state, progress=progress))


def line(text: str) -> Event:
    return Event(kind=EventKind.LINE, trial=TRIAL, text=text)


def failure(log_tail: str, outcome: Outcome = Outcome.FAILED) -> Event:
    attempt = Attempt(
        key=TRIAL.key,
        number=1,
        experiment="digits",
        outcome=outcome,
        reason="the training exited with code 1",
        exit_code=1,
        backend="local",
        commit="c" * 40,
        dirty=False,
        params={},
        seed=0,
        started_at="2026-01-01T00:00:00Z",
        duration_s=1.0,
        cost_usd=0.0,
        log_tail=log_tail,
    )
    return Event(kind=EventKind.FAILED, trial=TRIAL, attempt=attempt)


def test_plain__changes__are_said_once_a_minute() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, [TRIAL], {}, clock=clock)

    progress(event(EventKind.SUBMITTED, JobState.STARTING))
    progress(event(EventKind.CHANGED, progress="epoch 1"))
    clock.now = 59
    progress(event(EventKind.CHANGED, progress="epoch 2"))
    clock.now = 61
    progress(event(EventKind.CHANGED, progress="epoch 3"))
    progress(event(EventKind.CHANGED, progress="epoch 4"))

    assert stream.getvalue() == "digits seed 0  started\ndigits seed 0  running  epoch 3\n"


def test_plain__waiting__is_said_at_once() -> None:
    stream = io.StringIO()
    progress = Progress(stream, [TRIAL], {})

    progress(event(EventKind.SUBMITTED, JobState.STARTING))
    progress(event(EventKind.CHANGED, JobState.WAITING))
    progress(event(EventKind.CHANGED, JobState.WAITING))

    assert stream.getvalue() == "digits seed 0  started\ndigits seed 0  waiting\n"


def test_followed__failure__is_not_shown_twice() -> None:
    stream = io.StringIO()

    Progress(stream, [TRIAL], {}, logs=True)(failure("boom"))

    assert stream.getvalue() == "digits seed 0  failed: the training exited with code 1\n"


def test_plain__both_sides_of_a_change__are_told_apart() -> None:
    stream = io.StringIO()
    base = dataclasses.replace(TRIAL, key="b" * 64, version=dataclasses.replace(TRIAL.version, commit="b" * 40))
    other = trial("true", seed=1)
    progress = Progress(stream, [TRIAL, base, other], {})

    for of in (TRIAL, base, other):
        progress(event(EventKind.SUBMITTED, of=of))

    assert stream.getvalue().splitlines() == [
        f"digits seed 0 of {TRIAL.version.commit[:8]}  started",
        "digits seed 0 of bbbbbbbb  started",
        "digits seed 1              started",
    ]


def test_plain__tracked_metric_not_written__is_named() -> None:
    stream = io.StringIO()
    of = runs.trial(runs.experiment())
    problems = [
        Problem(file="m.json", where="loss", message=f"{NOT_WRITTEN}; the files hold: acc"),
        Problem(file="m.json", where="acc", message="is nan"),
    ]
    record = runs.record(of, {"acc": float("nan")}, problems=tuple(problems))

    Progress(stream, [of], {})(Event(kind=EventKind.SUCCEEDED, trial=of, record=record))

    assert stream.getvalue() == ("digits seed 0  succeeded in 10 s, 0.50 USD, without loss, 1 problem in its metrics\n")


def test_plain__no_machine_to_be_had__is_not_called_started() -> None:
    stream = io.StringIO()
    progress = Progress(stream, [TRIAL], {})

    for kind in (EventKind.SUBMITTED, EventKind.CHANGED):
        progress(event(kind, JobState.WAITING, "waits for a machine: g6.xlarge: InsufficientInstanceCapacity"))

    assert stream.getvalue() == (
        "digits seed 0  waiting  waits for a machine: g6.xlarge: InsufficientInstanceCapacity\n"
    )


def test_plain__rented_machine__says_what_it_cost() -> None:
    stream = io.StringIO()
    failed = failure("")
    assert failed.attempt is not None
    attempt = dataclasses.replace(failed.attempt, cost_usd=0.0170333)

    Progress(stream, [TRIAL], {})(dataclasses.replace(failed, attempt=attempt))

    assert stream.getvalue() == "digits seed 0  failed: the training exited with code 1, 0.017 USD\n"


def test_plain__cancelled__leaves_the_log_out() -> None:
    stream = io.StringIO()

    Progress(stream, [TRIAL], {})(failure("step 1", Outcome.CANCELLED))

    assert "step 1" not in stream.getvalue()


@pytest.mark.parametrize(
    ("outcome", "reason", "line"),
    [
        (Outcome.CANCELLED, "cancelled (SIGTERM)", "cancelled (SIGTERM)"),
        (Outcome.TIMED_OUT, "ran longer than max_duration (3s)", "timed out: ran longer than max_duration (3s)"),
    ],
)
def test_plain__ended_otherwise__is_said_once_and_in_words(outcome: Outcome, reason: str, line: str) -> None:
    stream = io.StringIO()
    event = failure("", outcome)
    assert event.attempt is not None

    Progress(stream, [TRIAL], {})(dataclasses.replace(event, attempt=dataclasses.replace(event.attempt, reason=reason)))

    assert stream.getvalue() == f"digits seed 0  {line}\n"


def test_github__failure__folds_the_log_and_gives_no_command() -> None:
    stream = io.StringIO()

    Progress(stream, [TRIAL], {"GITHUB_ACTIONS": "true"})(failure("::error::boom\n##[set-env]x"))

    assert stream.getvalue() == (
        "digits seed 0  failed: the training exited with code 1\n"
        f"::group::the end of the log of digits seed 0 ({TRIAL.key[:12]})\n"
        "  | ::error::boom\n"
        "  | # #[set-env]x\n"
        "::endgroup::\n"
    )


def test_terminal__live_lines__are_redrawn_and_removed() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, [TRIAL], {"TERM": "xterm"}, clock=clock)

    progress(event(EventKind.SUBMITTED, JobState.STARTING))
    clock.now = 2
    progress(event(EventKind.CHANGED, progress="epoch 1"))
    progress(line("hello"))
    progress.close()

    assert stream.getvalue() == (
        "digits seed 0     0 s  started\n"
        "\x1b[1F\x1b[Jdigits seed 0     2 s  running  epoch 1\n"
        "\x1b[1F\x1b[J  | hello\n"
        "digits seed 0     2 s  running  epoch 1\n"
        "\x1b[1F\x1b[J"
    )


def test_harmless__escapes__are_gone() -> None:
    assert harmless("\x1b[31mred\x1b[0m \x1b]0;title\x07 tab\tbed \u202eevil") == "red ]0;title tab\tbed evil"


def test_duration__any__reads_well() -> None:
    assert [duration(s) for s in (0.44, 12.2, 185, 7440)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 04 min"]

"""How a run is shown: on a terminal one live line per trial, elsewhere plain lines that suit a CI log."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from gitops_ml.backends.base import JobState, JobStatus
from gitops_ml.execution import Event, EventKind
from gitops_ml.planning import Trial
from gitops_ml.records import NOT_WRITTEN, Attempt, Outcome
from gitops_ml.spec import Value
from gitops_ml.wording import money

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_REDRAW_S = 0.1
_REPEAT_S = 60.0
"""How often a plain log hears of a trial that goes on."""


def shown(trial: Trial) -> str:
    """Return the trial's name for people: experiment, swept values and seed."""
    point = " ".join(f"{name}={_value(value)}" for name, value in trial.point.items())
    repeat = f" repeat {trial.repeat}" if trial.repeat else ""
    return " ".join(filter(None, (trial.experiment.name, point, f"seed {trial.seed}{repeat}")))


def _names(trials: Sequence[Trial]) -> dict[str, str]:
    """Return the trials' names by key; those of two sides that differ in nothing else say which commit they are of."""
    often = Counter(map(shown, trials))
    return {
        trial.key: shown(trial) + (f" of {trial.version.commit[:8]}" if often[shown(trial)] > 1 else "")
        for trial in trials
    }


def harmless(line: str) -> str:
    """Return a training's line fit for a terminal and a CI log: it moves no cursor and gives no command.

    GitHub takes ``::command::`` at the start of a line and ``##[command]`` anywhere as orders of the workflow.
    """
    return _CONTROL.sub("", line).replace("##[", "# #[")


class Progress:
    """Takes the events of an execution and shows them on a stream."""

    def __init__(
        self,
        stream: TextIO,
        trials: Sequence[Trial],
        environ: Mapping[str, str],
        *,
        logs: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._names = _names(trials)
        self._width = max(map(len, self._names.values()), default=0)
        self._followed = logs
        self._prefix = logs and len(trials) > 1
        self._live = stream.isatty() and environ.get("TERM") != "dumb"
        self._folds = environ.get("GITHUB_ACTIONS") == "true"
        self._clock = clock
        self._lines: dict[str, tuple[str, float]] = {}
        self._drawn = 0
        self._drawn_at = 0.0
        self._said: dict[str, tuple[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        key = event.trial.key
        if event.kind is EventKind.LINE:
            # Never at the start of a line, where a CI looks for commands.
            self._print(f"{self._names[key] if self._prefix else ' '} | {harmless(event.text)}")
            return
        if event.kind in (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.REFUSED):
            self._lines.pop(key, None)
            self._print(self._line(key, _ended(event)))
            # What was shown line by line is not shown twice, and who cancelled a training knows why it ended.
            attempt = event.attempt
            if attempt is not None and attempt.log_tail and not self._followed and attempt.outcome != Outcome.CANCELLED:
                self._tail(event)
            return
        words = _going_on(event)
        started = self._lines.get(key, ("", self._clock()))[1]
        self._lines[key] = (words, started)
        if self._live:
            if self._clock() - self._drawn_at >= _REDRAW_S or event.kind is not EventKind.CHANGED:
                self._redraw()
        elif self._is_news(event):
            self._print(self._line(key, words))

    def close(self) -> None:
        """Remove the live lines."""
        self._erase()
        self._lines.clear()

    def _is_news(self, event: Event) -> bool:
        """Say whether a plain log should hear of it: waiting for something, and now and then how far it is."""
        key, now = event.trial.key, self._clock()
        state = str(event.status.state) if event.status else ""
        said, at = self._said.get(key, ("", now))
        waits = event.status is not None and event.status.state is JobState.WAITING and said != state
        news = event.kind is not EventKind.CHANGED or waits or now - at >= _REPEAT_S
        self._said[key] = (state, now if news else at)
        return news

    def _line(self, key: str, words: str) -> str:
        return f"{self._names[key]:<{self._width}}  {harmless(words)}"

    def _tail(self, event: Event) -> None:
        assert event.attempt is not None
        name = f"the end of the log of {self._names[event.trial.key]} ({event.trial.key[:12]})"
        self._print(f"::group::{name}" if self._folds else f"  {name}:")
        for line in event.attempt.log_tail.rstrip("\n").split("\n")[-20:]:
            self._print(f"  | {harmless(line)}")
        if self._folds:
            self._print("::endgroup::")

    def _print(self, text: str) -> None:
        self._erase()
        self._stream.write(f"{text}\n")
        if self._live:
            self._redraw()
        self._stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0

    def _redraw(self) -> None:
        self._erase()
        size = shutil.get_terminal_size()
        room = max(1, size.lines - 2)
        rows = list(self._lines.items())
        for key, (words, started) in rows[:room]:
            took = f"{self._clock() - started:.0f} s"
            self._stream.write(f"{self._line(key, f'{took:>6}  {words}')[: size.columns - 1]}\n")
        if len(rows) > room:
            self._stream.write(f"and {len(rows) - room} more\n")
        self._drawn = min(len(rows), room + 1) if len(rows) > room else len(rows)
        self._drawn_at = self._clock()
        self._stream.flush()


def _going_on(event: Event) -> str:
    if event.kind is EventKind.ATTACHED:
        over = event.status is not None and event.status.state.final
        return "has ended already; collected" if over else "attached to the job that is at work on it"
    if event.kind is EventKind.RETRIED:
        assert event.attempt is not None
        return f"{_why(event.attempt)}; tried again"
    status = event.status
    if status is None:
        return str(event.kind)
    started = event.kind is EventKind.SUBMITTED and status.state is not JobState.WAITING
    words = "started" if started else f"{status.state}  {status.progress}".rstrip()
    return words + _attempt(status)


def _attempt(status: JobStatus) -> str:
    return f" (attempt {status.attempt})" if status.attempt > 1 else ""


def _ended(event: Event) -> str:
    if event.record is not None:
        lacks = [harmless(p.where) for p in event.record.problems if p.message.startswith(NOT_WRITTEN)]
        said = f", without {', '.join(lacks[:3])}{', ...' if len(lacks) > 3 else ''}" if lacks else ""
        problems = len(event.record.problems) - len(lacks)
        said += f", {problems} problem{'s' if problems > 1 else ''} in its metrics" if problems else ""
        progress = f"  {event.status.progress}" if event.status and event.status.progress else ""
        took = duration(event.record.attempt.duration_s)
        return f"succeeded in {took}{_cost(event.record.attempt)}{said}{progress}"
    if event.attempt is not None:
        return _why(event.attempt) + _cost(event.attempt)
    return f"{event.kind}: {event.text}"


def _why(attempt: Attempt) -> str:
    outcome = str(attempt.outcome).replace("_", " ")
    return attempt.reason if attempt.reason.startswith(outcome) else f"{outcome}: {attempt.reason}"


def _cost(attempt: Attempt) -> str:
    return f", {money(attempt.cost_usd)}" if attempt.cost_usd else ""


def duration(seconds: float) -> str:
    """Return a duration for people: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 04 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _value(value: Value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

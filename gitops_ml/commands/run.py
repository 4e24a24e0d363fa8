"""``gitops-ml run``: carry out the plan: reuse, train, collect.

Ctrl-C and SIGTERM end what it started. Killed, or without its terminal, it leaves the trainings at work: the next
``run`` collects them, ``cancel`` ends them.
"""

import argparse
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gitops_ml import ci
from gitops_ml.backends.base import Asked, Backend
from gitops_ml.commands.plan import add_plan_arguments, note_elsewhere, note_untracked, over_budget, plan_for
from gitops_ml.errors import DeniedError, worst
from gitops_ml.execution import FAR_JOBS, Ports, Summary, collect, execute
from gitops_ml.planning import Plan, Trial
from gitops_ml.progress import Progress, shown
from gitops_ml.records import Origin, Record
from gitops_ml.storage.base import StorageError
from gitops_ml.tools import Tools

_ROUNDS = 3
"""A sweep's winner is known only when its points are trained: confirming it takes a further round."""
_NAMED = 10
"""So many trials that were not started are named; a sweep may have thousands."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_plan_arguments(parser)
    add_training_arguments(parser)
    parser.add_argument("--detach", action="store_true", help="return after submitting; `run` again collects")
    parser.add_argument("--force", action="store_true", help="train again what has a record, as its next repeat")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that trains."""
    parser.add_argument("--jobs", type=_count, metavar="N", help="train at most N at a time (default: what fits)")
    parser.add_argument(
        "--logs", action="store_true", help="show the log lines of all trials, not only of a single one"
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Train what the plan says."""
    done: set[str] = set()
    codes: list[int] = []
    for _ in range(_ROUNDS):
        plan = plan_for(args, tools, live=True)
        trials = [planned.trial for planned in plan.to_run() if planned.trial.key not in done]
        if not done:
            note_elsewhere(plan, tools)
        if not trials:
            if not done:
                tools.say(_nothing(plan))
            break
        if args.head is None and not done:
            note_untracked(plan, tools)
        if over := over_budget(plan):
            raise DeniedError("\n".join(over))
        done |= {trial.key for trial in trials}
        summary = carry_out(trials, args, tools)
        codes.append(summary.exit_code)
        # A point that fails does not keep the sweep's winner from being confirmed; every key is tried once.
        if args.detach or summary.interrupted or not any(t.experiment.sweep for t in trials):
            break
        args.force = False
    return worst(*codes)


def carry_out(
    trials: Sequence[Trial],
    args: argparse.Namespace,
    tools: Tools,
    on_outputs: Callable[[Record, Path], None] = lambda _record, _folder: None,
    origin: Origin | None = None,
    *,
    asked: Asked | None = None,
    is_result: bool = True,
) -> Summary:
    """Train the trials and say how it went; ``args`` holds ``jobs``, ``detach`` and ``logs``.

    ``asked``: for what, if CI asks. ``is_result``: how many succeeded is what the command was asked for, not only
    progress.
    """
    here = [trial for trial in trials if not _backend(trial, tools)[1].far]
    jobs = args.jobs or default_jobs(here, os.cpu_count() or 1)
    far_jobs = args.jobs or FAR_JOBS
    follow = not args.detach and (args.logs or len(trials) == 1)
    at_a_time = min(jobs, len(here)) + min(far_jobs, len(trials) - len(here))
    why = "to confirm the winner of a sweep" if all(trial.confirms for trial in trials) else "to train"
    tools.note(f"{_trials(len(trials))} {why}, {at_a_time} at a time")
    progress = Progress(tools.err, trials, tools.environ, logs=follow)
    ports = _ports(tools, progress, on_outputs, origin, asked)
    with _ended_by_sigterm():
        try:
            summary = execute(trials, ports, jobs=jobs, far_jobs=far_jobs, detach=args.detach, follow=follow)
        finally:
            progress.close()
    (tools.say if is_result else tools.note)(_counts(summary))
    _advise(summary, tools, detach=args.detach)
    return summary


def collect_ended(
    trials: Sequence[Trial],
    tools: Tools,
    on_outputs: Callable[[Record, Path], None],
    origin: Origin,
) -> Summary:
    """Keep the outcome of those jobs of the trials that are over, and say how it went; nothing is started."""
    progress = Progress(tools.err, trials, tools.environ, logs=False)
    try:
        summary = collect(trials, _ports(tools, progress, on_outputs, origin))
    finally:
        progress.close()
    tools.note(_counts(summary))
    return summary


def _ports(
    tools: Tools,
    progress: Progress,
    on_outputs: Callable[[Record, Path], None],
    origin: Origin | None,
    asked: Asked | None = None,
) -> Ports:
    from gitops_ml.elsewhere import Elsewhere

    return Ports(
        backend=lambda trial: _backend(trial, tools),
        blobs=tools.repository.blobs,
        elsewhere=Elsewhere(tools.repository, tools.environ, remote=tools.project.ledger.remote, say=tools.note),
        results=tools.results,
        storage=_Telling(tools),
        scratch=tools.repository.state / "collected",
        origin=origin or _origin(tools),
        asked=asked,
        secret=tools.environ.get,
        now=tools.now,
        wait=time.sleep,
        on_event=progress,
        on_outputs=on_outputs,
    )


def default_jobs(trials: Sequence[Trial], cpus: int) -> int:
    """Return how many trainings this machine takes at a time: by the CPUs that they ask for, else four at most."""
    asked = [trial.experiment.resources.cpu for trial in trials if trial.experiment.resources.cpu]
    return max(1, cpus // max(asked)) if asked else min(4, cpus)


class _Telling:
    """The storage, with a word about the first file that it refuses: the record is kept without such files."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._said = False

    def put_file(self, name: str, file: Path) -> None:
        try:
            self._tools.storage.put_file(name, file)
        except StorageError as error:
            if not self._said:
                self._tools.note(f"warning: outputs are not kept: {error}")
            self._said = True
            raise


def _backend(trial: Trial, tools: Tools) -> tuple[str, Backend]:
    name = trial.experiment.backend or tools.project.backend
    return name, tools.backend(name)


def _origin(tools: Tools) -> Origin:
    context = ci.context(tools.environ)
    if context is None:
        return Origin(kind="local", user=tools.environ.get("USER"))
    return Origin(kind="ci", run_url=context.run_url, change=context.change)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: every training is ended and what is left is said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _counts(summary: Summary) -> str:
    parts = [
        (len(summary.records), "succeeded"),
        (len(summary.failed), "did not succeed"),
        (len(summary.refused), "refused"),
        (len(summary.going_on), "at work"),
        (len(summary.not_started), "not started"),
    ]
    return ", ".join(f"{_trials(count)} {words}" for count, words in parts if count)


def _advise(summary: Summary, tools: Tools, *, detach: bool) -> None:
    if summary.interrupted:
        tools.note(
            "interrupted; the trainings that this run started are ended" if not summary.going_on else "interrupted"
        )
    for trial in summary.going_on:
        tools.note(f"still at work: {shown(trial)} ({trial.key[:12]}); `gitops-ml cancel {trial.key[:12]}` ends it")
    for trial in summary.not_started[:_NAMED]:
        tools.note(f"not started: {shown(trial)} ({trial.key[:12]})")
    if (more := len(summary.not_started) - _NAMED) > 0:
        tools.note(f"not started: {more} more")
    if detach and (summary.going_on or summary.not_started):
        tools.note("`gitops-ml run` goes on from here and collects what has ended")


def _nothing(plan: Plan) -> str:
    keys = {planned.trial.key for entry in plan.experiments for planned in entry.trials()}
    return f"nothing to do: {_trials(len(keys))} planned, none to train"


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of trainings; give 1 or more")
    return int(text)

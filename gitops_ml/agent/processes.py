"""Run a command under limits, and leave nothing of it running, whatever it started."""

import ctypes
import dataclasses
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from gitops_ml.agent.log import Log

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_BEAT_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a command is ended; None: never. After SIGTERM it has ``grace_s`` to save its work."""

    max_duration_s: float | None = None
    no_output_s: float | None = None
    grace_s: float = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command or a whole attempt ended: an outcome of the records, why in a sentence, and the exit code.

    ``cause`` is the reason in one word, where it is known: cancelled, spot, shutdown, deadline, max_duration, max_wait,
    no_output, no_metrics, out_of_memory, gpu_out_of_memory, gpu_lost, disk_full, data, environment, bundle, orders,
    secrets, storage, agent.
    """

    outcome: str
    reason: str
    exit_code: int | None = None
    cause: str = ""


class StoppedError(Exception):
    """Asked from outside to end, while no command was running."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class Stop:
    """Listens for the signals that ask the agent to end, and wakes whoever waits."""

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._cancel)
        signal.signal(signal.SIGUSR1, self._preempt)
        # The handler does nothing: the byte in the pipe is what wakes us when a child ends.
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def fileno(self) -> int:
        """Return what becomes readable when a signal arrives."""
        return self._read

    def drain(self) -> None:
        """Take note of the signals that arrived."""
        try:
            while os.read(self._read, 512):
                pass
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> None:
        """Sleep until then or until a signal arrives.

        Raises:
            StoppedError: one asked us to end.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            if self.ending is None:
                selector.select(seconds)
        self.drain()
        if self.ending is not None:
            raise StoppedError(self.ending)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask for the end."""
        self.ending = self.ending or Ending(outcome="cancelled", reason=reason, cause="cancelled")

    def _cancel(self, number: int, _frame: FrameType | None) -> None:
        self.cancel(f"cancelled ({signal.Signals(number).name})")

    def _preempt(self, _number: int, _frame: FrameType | None) -> None:
        self.ending = self.ending or Ending(outcome="preempted", reason="the machine was taken away", cause="spot")


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Log,
    stop: Stop,
    limits: Limits,
    beat: Callable[[], None] = lambda: None,
) -> Ending:
    """Run the command to its end, under the limits, in a process group of its own.

    Everything that it started is gone when this returns. ``beat`` is called about twice a second.
    """
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # If the agent is killed, its child goes with it (one that it started itself: see `kill_marked`).
            preexec_fn=_death_with_parent(),  # noqa: PLW1509 the agent has one thread
        )
    except OSError as error:
        reason = f"could not start `{arguments[0]}`: {error.strerror or error}"
        return Ending(outcome="failed", reason=reason, exit_code=127)
    except ValueError as error:
        return Ending(outcome="failed", reason=f"could not start the command: {error}", exit_code=127)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    started = heard = time.monotonic()
    ending: Ending | None = None
    kill_at: float | None = None
    beat()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)
        while process.poll() is None:
            for key, _ in selector.select(_BEAT_S):
                if key.fd != pipe:
                    stop.drain()
                elif data := _read(pipe):
                    heard = time.monotonic()
                    log.write(data)
                else:
                    selector.unregister(pipe)
            beat()
            now = time.monotonic()
            if ending is None and (ending := _limit(stop, limits, started, heard, now)) is not None:
                log.say(f"{ending.reason}; ending the training")
                signal_tree(process.pid, signal.SIGTERM)
                kill_at = now + limits.grace_s
            if kill_at is not None and now >= kill_at:
                signal_tree(process.pid, signal.SIGKILL)
                kill_at = now + 1.0
    _end_leftovers(process.pid)
    while data := _read(pipe):
        log.write(data)
    process.stdout.close()
    code = process.returncode
    if ending is not None:
        return dataclasses.replace(ending, exit_code=code)
    return _ended_by_itself(code)


def become_subreaper() -> None:
    """Make orphans of the training our children, so that none escapes (Linux)."""
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_tree(leader: int, number: int) -> None:
    """Send a signal to the leader's process group and to all our other descendants."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        pass  # macOS answers EPERM for a group of zombies
    for pid in descendants(os.getpid()):
        try:
            if os.getpgid(pid) != leader:
                os.kill(pid, number)
        except ProcessLookupError:
            pass


def descendants(ancestor: int) -> list[int]:
    """Return the ids of all processes that descend from one."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [ancestor]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_marked(marker: str) -> int:
    """Kill every process of ours that has ``marker`` (NAME=value) in its environment, and return how many.

    What a killed agent leaves behind is found so. Only on Linux: elsewhere another process's environment
    cannot be read.
    """
    killed = 0
    while found := marked(marker):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
        time.sleep(0.01)
    return killed


def marked(marker: str) -> "list[int]":
    """Return the processes of ours that have ``marker`` in their environment; elsewhere than on Linux none is found."""
    wanted = marker.encode()
    parents = _parents() if _LINUX else ()
    return [pid for pid, _ in parents if pid != os.getpid() and wanted in _environment(pid)]


def _limit(stop: Stop, limits: Limits, started: float, heard: float, now: float) -> Ending | None:
    if stop.ending is not None:
        return stop.ending
    if limits.max_duration_s is not None and now - started >= limits.max_duration_s:
        reason = f"ran longer than max_duration ({seconds(limits.max_duration_s)})"
        return Ending(outcome="timed_out", reason=reason, cause="max_duration")
    if limits.no_output_s is not None and now - heard >= limits.no_output_s:
        reason = f"printed nothing for {seconds(limits.no_output_s)} (no_output)"
        return Ending(outcome="timed_out", reason=reason, cause="no_output")
    return None


def seconds(value: float) -> str:
    """Return a duration as the spec writes it: ``90s``, ``15m``, ``2h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= size and value % size == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}s"


def _ended_by_itself(code: int) -> Ending:
    if code == 0:
        return Ending(outcome="succeeded", reason="", exit_code=0)
    # A shell reports a child that a signal killed as 128 + the signal.
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        reason = "the training was killed (SIGKILL); often the machine was out of memory"
    elif code < 0 or (code > 128 and number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)):
        reason = f"the training was ended by {signal.Signals(number).name}"
    else:
        reason = f"the training exited with code {code}"
    return Ending(outcome="failed", reason=reason, exit_code=code)


def _end_leftovers(leader: int) -> None:
    """Kill and reap what outlived the command: daemons, workers, whatever left the process group."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        signal_tree(leader, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 65536)
    except BlockingIOError:
        return b""


def _death_with_parent() -> Callable[[], None] | None:
    if not _LINUX:
        return None
    libc = ctypes.CDLL(None)

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return arm


def _parents() -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of all processes."""
    found = []
    if _LINUX:
        for name in os.listdir("/proc"):  # noqa: PTH208 names are all we need
            if name.isdecimal():
                try:
                    # The command's name, in parentheses, may hold anything.
                    text = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                except OSError:
                    continue
                if text[0] != b"Z":
                    found.append((int(name), int(text[1])))
    else:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        found = [(int(line.split()[0]), int(line.split()[1])) for line in listing.splitlines()]
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []

"""The program on a far training machine: between the storage, where the caller put a job, and the agent, which trains.

    python3 agent.zip STORAGE REGION AGENT KEY ATTEMPT [BEGAN]

It reads the attempt's lease, brings bundle, checkpoints, packages and secrets to the machine, starts the same agent
that trains on a laptop, and keeps what that one does mirrored in the storage: heartbeat, log, checkpoints, outputs and,
last, the result. It ends the training when somebody wants it cancelled, when the machine is about to be taken away,
when a GPU is lost, and in time before the machine ends itself. It needs no right in the cloud but to use the storage.

`gitops_ml.agent.objects` says what is where. Times in the result are corrected by what the storage said the time was.
"""

import argparse
import dataclasses
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gitops_ml import aws
from gitops_ml.agent import machine, objects, parameters, wheels
from gitops_ml.agent.causes import Causes
from gitops_ml.agent.checkpoints import Checkpoints
from gitops_ml.agent.environment import EnvironmentFailure, find_python, for_installer, passed_on, version_of
from gitops_ml.agent.files import disk_is_full, read_json
from gitops_ml.agent.gpus import GpuWatch
from gitops_ml.agent.imds import Imds
from gitops_ml.agent.objects import Heartbeat, Lease, ObjectError
from gitops_ml.agent.parameters import ParameterError
from gitops_ml.agent.pieces import LogPieces
from gitops_ml.agent.processes import Ending
from gitops_ml.agent.redaction import redacted
from gitops_ml.storage import opened
from gitops_ml.storage.base import FileError, Storage, StorageError

_T = TypeVar("_T")
_TRIES = 5
_PYTHONS = ("/opt/pytorch/bin/python3",)
"""Where images have the Python that trainings are meant to use, with its packages; else it is the one that runs us."""
_FAST_DISKS = ("/opt/dlami/nvme",)
"""Where images put the disks that come with a machine; faster than the one that it boots from."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often what is done, in seconds: often at first, when people watch, then less."""

    share: float = 0.05
    """Of the time since the start: what happened then is old news by so much at most."""
    beat: tuple[float, float] = (1.0, 15.0)
    log: tuple[float, float] = (0.5, 20.0)
    watch: tuple[float, float] = (1.0, 5.0)
    gpu: tuple[float, float] = (1.0, 10.0)
    checkpoint: tuple[float, float] = (2.0, 60.0)
    retry: tuple[float, float] = (0.5, 30.0)
    patience: float = 1200.0
    """How long the storage may refuse before and after the training: a machine that waits costs money."""

    def pause(self, limits: tuple[float, float], elapsed: float) -> float:
        """Return how long to wait now."""
        return min(limits[1], max(limits[0], elapsed * self.share))


@dataclasses.dataclass(kw_only=True)
class Surroundings:
    """What the courier finds on its machine; a test brings its own."""

    environ: Mapping[str, str] = dataclasses.field(repr=False)
    work: Path
    """A new folder of ours."""
    python: str = sys.executable
    """What a training gets that names no Python of its own."""
    region: str | None = None
    imds: Imds | None = None
    pace: Pace = Pace()
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When the machine's own timer was set, by the monotonic clock."""


class EndedError(Exception):
    """The attempt is over before the agent could start, or without it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


def main(argv: Sequence[str]) -> None:
    """Carry out one attempt and end the process, whatever its threads do; the machine's script then ends that."""
    code = 1
    try:
        code = _run(argv)
    except BaseException:  # noqa: BLE001 the machine must end
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="agent.zip", description=__doc__)
    parser.add_argument("storage")
    parser.add_argument("region")
    parser.add_argument("agent")
    parser.add_argument("key")
    parser.add_argument("attempt", type=int)
    parser.add_argument("began", nargs="?", type=float, default=time.monotonic())
    args = parser.parse_args(argv)
    # A machine's first script has little in its environment.
    os.environ.setdefault("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    os.environ.setdefault("LANG", "C.UTF-8")
    if args.region:
        os.environ.setdefault("AWS_REGION", args.region)
    environ = os.environ
    surroundings = Surroundings(
        environ=environ,
        work=_work_folder(environ),
        python=next((p for p in _PYTHONS if (version_of(Path(p)) or "").startswith("3.1")), sys.executable),
        region=args.region or None,
        imds=None if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" else Imds(environ),
        began=args.began,
    )
    storage = opened(args.storage, Path.cwd(), environ)
    courier = Courier(storage, args.key, args.attempt, surroundings)
    told = ("preempted", "the machine was shut down", "shutdown")
    # So a machine is told that it is going down, whoever wants it. In a thread of its own, since the handler may come
    # in the middle of what `end` does.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=courier.end, args=told, daemon=True).start())
    return courier.run()


def _work_folder(environ: Mapping[str, str]) -> Path:
    places = [environ["TMPDIR"]] if "TMPDIR" in environ else [*_FAST_DISKS, "/var/lib", tempfile.gettempdir()]
    place = next((p for p in places if os.access(p, os.W_OK)), tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="gitops-ml-", dir=place))


def _cloud(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what leads the agent, though not the training, to data in S3: where it is asked for, and as whom."""
    return {name: value for name, value in environ.items() if name.startswith("AWS_")}


class Courier:
    """One attempt on this machine."""

    def __init__(self, storage: Storage, key: str, number: int, around: Surroundings) -> None:
        self._storage = storage
        self._key = key
        self._number = number
        self._around = around
        self._started = time.monotonic()
        self._folder = around.work / "attempt"
        self._folder.mkdir(parents=True)
        self._saved = self._folder / "checkpoints"
        self._saved.mkdir()
        self._checkpoints = Checkpoints(storage, key, number, self._saved)
        self._pieces = LogPieces(storage, key, number, self._folder / "log.txt")
        self._gpus = GpuWatch(around.environ)
        self._causes = Causes(self._folder)
        self._phase = "fetch"
        self._beats = 0
        self._beating = threading.Lock()
        self._told = "starting"
        """The state that the last heartbeat had."""
        self._machine: dict[str, str] = {}
        self._until = around.began + 24 * 3600
        """When the storage is given up on; later known from the lease."""
        self._ending: Ending | None = None
        self._changed = threading.Event()
        """Something happened that the main thread should look at."""
        self._over = threading.Event()
        """What is done beside the training has to stop."""
        self._gone = threading.Event()
        """The result is written: nobody needs to know any more that we live."""
        self._notes: list[str] = []
        self._timings: dict[str, float] = {}
        self._resumed: str | None = None
        self._secrets: dict[str, str] = {}
        self._pip: Mapping[str, str] = {}
        self._keeping: threading.Thread | None = None
        """Brings packages into the storage, for the machines to come."""
        self._grace_s = 60.0

    def run(self) -> int:
        """Carry out the attempt and return 0 if it left a result."""
        try:
            lease = objects.lease_from(self._patiently(lambda: self._object("lease.json")))
        except (EndedError, ObjectError) as error:
            print(error, file=sys.stderr)
            return 1
        if self._patiently(lambda: self._storage.get(self._name("result.json"))) is not None:
            return 0  # this attempt is over; somebody started it twice
        self._take(lease)
        try:
            self._patiently(self._beat)
        except EndedError as ended:
            print(ended, file=sys.stderr)  # who may not write would train for nothing
            return 1
        threads = self._threads()
        result: dict[str, Any] | None = None
        try:
            self._fetch(lease)
            self._pip = self._packages(lease)
            result = self._train(lease)
            ending = self._judged(result)
        except EndedError as ended:
            ending = ended.ending
        except Exception as error:  # noqa: BLE001 the result must say that we broke
            self._say(traceback.format_exc())
            ending = Ending(outcome="lost", reason=f"the courier broke ({type(error).__name__}: {error}); see the log")
        self._leave(ending, result, threads)
        return 0

    # What happens in the main thread, in order.

    def _take(self, lease: Lease) -> None:
        """Learn from the lease how long we have."""
        lifetime_s = lease.lifetime_min * 60.0
        self._grace_s = lease.grace_s
        # Before the machine's own timer there must be time to end the training and to save what it has.
        margin_s = min(lease.grace_s + 120.0, lifetime_s / 4)
        self._until = self._around.began + lifetime_s
        deadline = threading.Timer(
            max(0.0, self._until - margin_s - time.monotonic()),
            self.end,
            ["timed_out", f"the machine's time is over ({lease.lifetime_min} min)", "deadline"],
        )
        deadline.daemon = True
        deadline.start()
        self._stopwatch("lease")

    def _fetch(self, lease: Lease) -> None:
        """Bring bundle, checkpoints and secrets here, all at the same time."""
        with ThreadPoolExecutor(4) as pool:
            bundle = pool.submit(self._patiently, lambda: self._fetch_bundle(lease))
            restored = pool.submit(self._patiently, self._restore)
            secrets = pool.submit(parameters.values, lease.secrets, self._around.environ, self._around.region)
            known: Future[dict[str, str]] | None = None
            if self._around.imds is not None:
                known = pool.submit(self._around.imds.machine)
            try:
                self._secrets = secrets.result()
            except ParameterError as error:
                raise EndedError(Ending(outcome="failed", reason=str(error), cause="secrets")) from error
            bundle.result()
            self._resumed = restored.result()
            self._machine = known.result() if known is not None else {}
        if self._resumed is not None:
            self._say(f"continues from checkpoint {self._resumed}")
        self._stopwatch("fetch")

    def _fetch_bundle(self, lease: Lease) -> None:
        if not self._storage.get_file(objects.bundle(lease.bundle), self._folder / "bundle.tar"):
            raise EndedError(
                Ending(outcome="lost", reason=f"the bundle {lease.bundle[:12]} is not in the storage", cause="bundle")
            )

    def _restore(self) -> str | None:
        """Bring the newest checkpoint here, but none of a failed attempt: it may be what made that one fail."""
        failed = 0
        for number in range(self._number - 1, 0, -1):
            data = self._storage.get(objects.attempt(self._key, number, "result.json"))
            if data is not None and json.loads(data).get("outcome") == "failed":
                failed = number
                break
        return self._checkpoints.restore(after=failed)

    def _packages(self, lease: Lease) -> Mapping[str, str]:
        """Bring the packages of a lock file here, and return what makes the agent's pip take them.

        From the storage, or from the index the first time; then the storage gets them while the training runs. Where
        that cannot be, because a package must be built perhaps, the agent does as on a laptop.
        """
        self._phase = "environment"
        secrets = {name: value for name, value in self._secrets.items() if name.startswith("PIP_")}
        index = {"PIP_INDEX_URL": lease.index_url} if lease.index_url else {}
        asked = {**for_installer(self._around.environ), **index, **secrets}
        found = wheels.requirements_of(self._folder / "bundle.tar", self._around.work / "requirements.txt")
        if found is None:
            return asked
        orders, requirements = found
        try:
            python = find_python(orders.python, self._around.environ)
        except EnvironmentFailure:
            return asked  # it will say so
        kept = wheels.Wheels(self._storage, self._around.work / "wheels", requirements, python)
        if self._patiently(kept.fetch):
            self._say(f"packages of environment {kept.digest[:12]} from the storage")
        elif kept.download({**passed_on(self._around.environ), **asked}, self._command):
            keep = lambda: self._attempt_to("keep the packages", kept.keep)  # noqa: E731
            self._keeping = threading.Thread(target=keep, daemon=True)
            self._keeping.start()
        else:
            return asked
        self._stopwatch("packages")
        return {**asked, **kept.variables}

    def _command(self, command: Sequence[str], environ: Mapping[str, str]) -> bool:
        """Run a command that may take long; say whether it succeeded. Its words are for the machine's own log."""
        with (self._around.work / "command.log").open("wb") as said:
            process = subprocess.Popen(
                command, env=dict(environ), cwd=self._around.work, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        try:
            self._await_process(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return process.returncode == 0

    def _await_process(self, process: "subprocess.Popen[bytes]") -> None:
        self._wake_at_end(process)
        while process.poll() is None:
            self._changed.wait()
            self._changed.clear()
            self._stop_here()

    def _train(self, lease: Lease) -> dict[str, Any] | None:
        """Start the agent, wait for its end, and return its result; None: it left none."""
        self._stop_here()
        environ = self._around.environ
        python = self._around.python
        safe_path = ["-P"] if python == sys.executable and sys.version_info >= (3, 11) else []
        command = [
            python, *safe_path, "-m", "gitops_ml.agent", str(self._folder),
            "--digest", lease.bundle,
            "--cache", str(self._around.work / "cache"), "--alone",
            "--checkpoints", str(self._saved),
            "--grace-s", str(lease.grace_s),
            "--secrets-from-stdin",
        ]  # fmt: skip
        if gpus := machine.visible_gpus(environ):
            command += ["--gpus", json.dumps(gpus)]
        with (self._folder / "agent.log").open("wb") as errors:
            agent = subprocess.Popen(
                command,
                cwd=self._folder,
                env={
                    **passed_on(environ),
                    **self._pip,
                    **_cloud(environ),
                    "PYTHONPATH": os.pathsep.join(filter(None, (sys.path[0], environ.get("PYTHONPATH")))),
                    "PYTHONUTF8": "1",
                },
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        assert agent.stdin is not None
        with agent.stdin as pipe:
            pipe.write(json.dumps(self._secrets).encode())
        self._stopwatch("start")
        try:
            self._await(agent)
        finally:
            agent.kill()  # if we broke: nothing trains unwatched
            agent.wait()
        return read_json(self._folder / "result.json")

    def _await(self, agent: "subprocess.Popen[bytes]") -> None:
        """Wait for the agent's end; ask for it when there is a reason, and end it by force if it does not come."""
        self._wake_at_end(agent)
        force_at: float | None = None
        while agent.poll() is None:
            self._changed.wait(None if force_at is None else max(0.0, force_at - time.monotonic()))
            self._changed.clear()
            if self._ending is not None and force_at is None:
                asked = signal.SIGUSR1 if self._ending.outcome == "preempted" else signal.SIGTERM
                agent.send_signal(asked)
                force_at = time.monotonic() + self._grace_s + 30
            if force_at is not None and time.monotonic() >= force_at:
                agent.kill()
                force_at += 1
        self._phase = "ending"

    def _wake_at_end(self, process: "subprocess.Popen[bytes]") -> None:
        def wait() -> None:
            process.wait()
            self._changed.set()

        threading.Thread(target=wait, daemon=True).start()

    def _judged(self, result: Mapping[str, Any] | None) -> Ending:
        """Return how it ended, by what the agent says and what we know better."""
        if result is None:
            said = (self._folder / "agent.log").read_bytes().strip().splitlines()
            words = (
                redacted(said[-1][:300], self._secrets.values()).decode(errors="replace") if said else "it was killed"
            )
            found = Ending(outcome="failed", reason=f"the agent ended without a result ({words})")
            found = self._causes.explained(found, "")
            return self._ending or (found if found.cause else dataclasses.replace(found, outcome="lost", cause="agent"))
        found = Ending(**{name: result[name] for name in ("outcome", "reason", "exit_code", "cause")})
        if found.outcome == "failed" and self._ending is None and result["hardware"]["gpus"]:
            self._gpus.look_closely()
            if self._gpus.lost is not None:
                reason = f"a GPU was lost: {self._gpus.lost} ({found.reason})"
                return dataclasses.replace(found, outcome="lost", reason=reason, cause="gpu_lost")
        if self._ending is not None and found.outcome in ("cancelled", "preempted", "failed"):
            return dataclasses.replace(self._ending, exit_code=found.exit_code)
        return found

    def _leave(self, ending: Ending, result: dict[str, Any] | None, threads: Sequence[threading.Thread]) -> None:
        """Bring into storage what is to outlive the machine; the result comes last."""
        self._phase = "ending"
        self._over.set()
        self._changed.set()
        for thread in threads:
            thread.join(max(0.0, self._until - time.monotonic()))
        if ending.outcome != "succeeded":
            self._attempt_to("save the last checkpoint", self._save_last)
        self._attempt_to("send the log", self._pieces.push)
        files: Sequence[Mapping[str, Any]] = ()
        if ending.outcome == "preempted":  # there is little time, and the next attempt makes them anew
            ending = self._cancelled_rather(ending)
        else:
            files = self._send_outputs((result or {}).get("files", ()))
        if self._keeping is not None and ending.outcome != "preempted":
            self._keeping.join(max(0.0, self._until - 60 - time.monotonic()))
        self._stopwatch("end")
        document = self._document(ending, result or {}, files)
        data = json.dumps(document, sort_keys=True).encode()
        self._patiently(lambda: self._storage.put(self._name("result.json"), data))
        self._gone.set()
        if ending.outcome == "succeeded":
            try:
                self._checkpoints.clear()
            except StorageError as error:
                print(error, file=sys.stderr)

    def _cancelled_rather(self, ending: Ending) -> Ending:
        """Return how an attempt ended whose machine was shut down: somebody may have wanted that."""
        try:
            reason = self._cancelled()
        except StorageError:
            return ending
        if reason is None:
            return ending
        return dataclasses.replace(ending, outcome="cancelled", reason=reason or "cancelled", cause="cancelled")

    def _document(
        self, ending: Ending, result: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        offset = aws.clock_offset_s()

        def right(moment: float | None) -> float | None:
            return None if moment is None else moment + offset

        now = time.time()
        return {
            "format": objects.FORMAT,
            "outcome": ending.outcome,
            "reason": redacted(ending.reason.encode(errors="replace"), self._secrets.values()).decode(errors="replace"),
            "cause": ending.cause,
            "exit_code": ending.exit_code,
            "started_at": right(now - (time.monotonic() - self._around.began)),
            "training_started_at": right(result.get("training_started_at")),
            "ended_at": right(result.get("ended_at") or now),
            "progress": result.get("progress", ""),
            "hardware": result.get("hardware") or machine.hardware(),
            "files": list(files),
            "machine": self._machine,
            "gpus": list(self._gpus.newest),
            "idle_share": self._gpus.idle_share,
            "resumed_from": self._resumed,
            "log_bytes": self._pieces.sent_bytes,
            "timings_s": self._timings,
            "notes": self._notes,
        }

    def _send_outputs(self, files: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Put the outputs into storage and return those that are there."""
        folder = self._folder / "outputs"

        def send(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
            try:
                name = self._name(f"outputs/{entry['path']}")
                self._patiently(lambda: self._storage.put_file(name, folder / entry["path"]))
            except (EndedError, StorageError) as error:
                self._note(f"the output {entry['path']!r} is not kept: {error}")
                return None
            return entry

        with ThreadPoolExecutor(8) as pool:
            return [entry for entry in pool.map(send, files) if entry is not None]

    # What happens beside it, each in a thread of its own.

    def _threads(self) -> list[threading.Thread]:
        pace = self._around.pace
        # Also while large outputs are sent somebody must see that we live.
        self._repeat(self._beat, pace.beat, self._gone)
        return [
            self._repeat(lambda: self._pieces.push(self._tell), pace.log),
            self._repeat(self._watch, pace.watch),
            self._repeat(self._look_at_gpus, pace.gpu),
            self._repeat(self._save, pace.checkpoint),
        ]

    def _repeat(
        self, act: Callable[[], None], limits: tuple[float, float], until: threading.Event | None = None
    ) -> threading.Thread:
        over = until or self._over

        def loop() -> None:
            while not over.is_set():
                try:
                    act()
                except StorageError as error:
                    self._note(str(error))  # the next round tries again
                except Exception as error:  # noqa: BLE001 the training goes on without it, and the result says so
                    self._note(f"{type(error).__name__}: {error}")
                over.wait(self._around.pace.pause(limits, time.monotonic() - self._started))

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    def _tell(self) -> None:
        """See that nobody reads a line of a training that is not said to run yet."""
        if (read_json(self._folder / "status.json") or {}).get("state", "starting") != self._told:
            self._beat()

    def _beat(self) -> None:
        with self._beating:
            self._send_beat()

    def _send_beat(self) -> None:
        status = read_json(self._folder / "status.json") or {}
        state = status.get("state", "starting")
        if self._phase != "ending":
            self._phase = {"running": "training", "collecting": "collecting"}.get(state, self._phase)
        self._beats += 1
        offset = aws.clock_offset_s()
        trained_from = status.get("training_started_at")
        beat = Heartbeat(
            at=time.time() + offset,
            beat=self._beats,
            phase=self._phase,
            state=state,
            machine=self._machine.get("id", ""),
            progress=status.get("progress", ""),
            training_started_at=None if trained_from is None else trained_from + offset,
            log_bytes=self._pieces.sent_bytes,
            gpus=self._gpus.newest,
            idle_share=self._gpus.idle_share,
        )
        self._storage.put(self._name("heartbeat.json"), objects.to_json(beat))
        self._told = state

    def _watch(self) -> None:
        """Look whether somebody wants us to end, or the machine is taken away."""
        imds = self._around.imds
        if imds is not None and (notice := imds.notice()) is not None:
            self.end("preempted", f"the machine is taken away ({notice.get('action')})", "spot")
        if (reason := self._cancelled()) is not None:
            self.end("cancelled", reason or "cancelled", "cancelled")

    def _look_at_gpus(self) -> None:
        self._gpus.look(training=self._phase == "training")
        if self._gpus.lost is not None:
            self.end("lost", f"a GPU was lost: {self._gpus.lost}", "gpu_lost")

    def _save(self) -> None:
        """Save what the training saved, once it has stopped writing to it."""
        if not self._checkpoints.changed():
            return
        before = self._checkpoints.stamp()
        self._over.wait(self._around.pace.checkpoint[0])
        if self._checkpoints.stamp() == before:
            self._checkpoints.save()

    # Tools.

    def end(self, outcome: str, reason: str, cause: str) -> None:
        """Ask for the training's end; the first to ask says why."""
        if self._ending is None:
            self._ending = Ending(outcome=outcome, reason=reason, cause=cause)
            self._changed.set()

    def _stop_here(self) -> None:
        if self._ending is not None:
            raise EndedError(self._ending)

    def _cancelled(self) -> str | None:
        """Return why somebody wants this attempt to end; None: nobody does."""
        data = self._storage.get(self._name("cancel.json"))
        if data is None:
            return None
        try:
            return str(json.loads(data).get("reason", ""))
        except (ValueError, AttributeError):
            return ""

    def _save_last(self) -> None:
        for _ in range(_TRIES):
            if not self._checkpoints.changed() or self._checkpoints.save():
                return
        self._note("the last checkpoint is not saved: somebody kept writing to it")

    def _attempt_to(self, words: str, act: Callable[[], None]) -> None:
        try:
            self._patiently(act)
        except Exception as error:  # noqa: BLE001 what comes after it matters more
            self._note(f"could not {words}: {error}")

    def _patiently(self, act: Callable[[], _T]) -> _T:
        """Do it, again and again while the storage refuses, until the machine's time is over.

        Raises:
            EndedError: the storage did not answer in time.
        """
        pause = self._around.pace.retry[0]
        until = min(self._until - 5, time.monotonic() + self._around.pace.patience)
        while True:
            try:
                return act()
            except FileError as error:
                full = isinstance(error.__cause__, OSError) and disk_is_full(error.__cause__)
                cause = "disk_full" if full else "agent"
                raise EndedError(
                    Ending(outcome="failed" if full else "lost", reason=str(error), cause=cause)
                ) from error
            except StorageError as error:
                if self._phase != "ending":
                    self._stop_here()
                if error.lasting and self._phase == "fetch":
                    raise EndedError(Ending(outcome="lost", reason=str(error), cause="storage")) from error
                if time.monotonic() + pause > until:
                    raise EndedError(Ending(outcome="lost", reason=str(error), cause="storage")) from error
                self._note(str(error))
                time.sleep(pause)
                pause = min(self._around.pace.retry[1], pause * 2)

    def _object(self, part: str) -> bytes:
        data = self._storage.get(self._name(part))
        if data is None:
            raise EndedError(Ending(outcome="lost", reason=f"{self._name(part)} is not in the storage"))
        return data

    def _name(self, part: str) -> str:
        return objects.attempt(self._key, self._number, part)

    def _say(self, text: str) -> None:
        """Write a line of our own into the log. Not while the agent, which redacts, is at work on it."""
        with (self._folder / "log.txt").open("ab") as log:
            lines = b"".join(f"gitops-ml: {line}\n".encode(errors="replace") for line in text.splitlines())
            log.write(redacted(lines, self._secrets.values()))

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < 50:
            self._notes.append(text)
            print(text, file=sys.stderr, flush=True)

    def _stopwatch(self, name: str) -> None:
        """Note how long after the machine's start a step was done."""
        self._timings[name] = round(time.monotonic() - self._around.began, 3)

"""Jobs on this machine. Needs nothing; GPUs are found with nvidia-smi.

A job lives in ``.gitops-ml/jobs/KEY``: one folder per attempt, and the checkpoints, which outlive attempts. The agent
runs detached in a session of its own and holds a lock for as long as it lives, so any process, also after a crash
of gitops-ml, can tell whether the job goes on. Each trial gets as many GPUs as ``resources.gpu.count`` says, through
CUDA_VISIBLE_DEVICES, shared fairly among all of this user's trials; one that asks for none sees none.

    backends:
      local: {grace_s: 10}       # seconds between SIGTERM and SIGKILL when a training is ended
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gitops_ml
from gitops_ml.agent.environment import for_installer, passed_on
from gitops_ml.agent.files import Lock, is_locked, read_json, write_json
from gitops_ml.agent.machine import visible_gpus
from gitops_ml.agent.processes import kill_marked, marked
from gitops_ml.backends.base import Asked, Bundle, Context, Job, JobState, JobStatus, Leftover
from gitops_ml.datasets import CREDENTIALS
from gitops_ml.diagnostics import Check
from gitops_ml.errors import TrialError, UserError
from gitops_ml.planning import Estimate, Trial
from gitops_ml.records import Hardware

_SECRETS_BYTES = 48 * 2**10
"""What fits in a pipe that nobody reads yet."""


class LocalBackend:
    """Runs each trial as a process of this machine."""

    far = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._root = context.state / "jobs"
        self._grace_s = _grace_s(context.settings)
        self._gpus: dict[str, str] | None = None

    def check(self) -> Iterator[Check]:
        """Look for bash and GPUs."""
        bash = shutil.which("bash", path=self._context.environ.get("PATH"))
        yield Check(subject="bash", ok=bash is not None, found=bash or "not found", fix="install bash")
        gpus = ", ".join(self._visible().values())
        yield Check(subject="GPUs", ok=True if gpus else None, found=gpus or "none (nvidia-smi shows none)")

    def estimate(self, trial: Trial, *, live: bool = False) -> Estimate:  # noqa: ARG002 costs nothing, whatever it is
        """Cost nothing."""
        return Estimate(duration_s=None, source="this machine")

    def submit(self, trial: Trial, bundle: Bundle) -> JobStatus:
        """Start an agent, unless one is at work on the key or has succeeded."""
        self._refuse(trial)
        secrets = self._secrets(trial, bundle)
        folder = self._root / trial.key
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder / "lock"):
            last = self._last_attempt(trial.key)
            if last is not None:
                status = self._status(trial.key, last)
                if not status.state.final or status.state is JobState.SUCCEEDED:
                    return status
                self._sweep(last)
                if status.state is JobState.FAILED:
                    # What it saved may be what made it fail; a preempted or lost one goes on from it.
                    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            attempt = folder / str(int(last.name) + 1 if last else 1)
            self._start(trial, bundle, attempt, secrets)
            return self._status(trial.key, attempt)

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        """Return how the known ones of the jobs stand."""
        attempts = ((key, self._last_attempt(key)) for key in keys)
        return {key: self._status(key, attempt) for key, attempt in attempts if attempt is not None}

    def jobs(self, key: str = "") -> Sequence[Job]:
        """Return all jobs that were ever started here, oldest first."""
        found = []
        for file in self._root.glob("*/job.json"):
            data = read_json(file) if file.parent.name.startswith(key) else None
            if data is not None and self._last_attempt(file.parent.name) is not None:
                fields = {**data, "submitted_at": _time(data["submitted_at"])}
                fields.pop("asked", None)  # `poll` says it
                found.append(Job(key=file.parent.name, **fields))
        return sorted(found, key=lambda job: (job.submitted_at, job.key))

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        """Yield the log's lines; a line is yielded when it is complete, or the job is over."""
        attempt = self._last_attempt(key)
        if attempt is None:
            return
        rest = b""
        position = 0
        while True:
            # Asked before reading: what the agent wrote before it ended is then in the file.
            alive = follow and is_locked(attempt / "agent.lock")
            with contextlib.suppress(FileNotFoundError), (attempt / "log.txt").open("rb") as file:
                file.seek(position)
                while data := file.read(1 << 20):
                    position += len(data)
                    *lines, rest = (rest + data).split(b"\n")
                    yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
            if not alive:
                break
            threading.Event().wait(0.1)
        if rest:
            yield rest.decode(errors="replace")

    def collect(self, key: str, into: Path) -> None:
        """Copy the outputs that the agent gathered."""
        attempt = self._last_attempt(key)
        result = read_json(attempt / "result.json") if attempt else None
        if attempt is None or result is None:
            raise TrialError(f"the job {key[:12]} left nothing to collect here")
        into.mkdir(parents=True, exist_ok=True)
        for file in result["files"]:
            target = into / file["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(attempt / "outputs" / file["path"], target)
            except FileNotFoundError:
                raise TrialError(
                    f"the job {key[:12]} no longer has its output {file['path']}; "
                    f"remove {attempt.parent} to train it again"
                ) from None

    def cancel(self, key: str) -> None:
        """Ask the agent to end its training, and wait until both are gone."""
        attempt = self._last_attempt(key)
        if attempt is None:
            return
        lock = attempt / "agent.lock"
        asked = False
        give_up = time.monotonic() + self._grace_s + 15
        while is_locked(lock):
            status = read_json(attempt / "status.json")
            overdue = time.monotonic() >= give_up
            # Without a status the agent is only just starting: it cannot be asked yet.
            if status is not None and (not asked or overdue):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(status["pid"], signal.SIGKILL if overdue else signal.SIGTERM)
                asked = True
            threading.Event().wait(0.02)
        if not (attempt / "result.json").exists():
            self._sweep(attempt)

    def leftovers(self, now: datetime) -> Iterator[Leftover]:  # noqa: ARG002 an agent keeps its deadline itself
        """Find jobs whose agent died; what it had started is ended."""
        for job in self.jobs():
            attempt = self._last_attempt(job.key)
            if attempt is None or self._status(job.key, attempt).state is not JobState.LOST:
                continue
            if marked(_marker(attempt)):
                yield Leftover(
                    kind="processes of a lost job",
                    identity=str(attempt),
                    key=job.key,
                    since=job.submitted_at,
                    end=lambda attempt=attempt: self._sweep(attempt),  # type: ignore[misc]
                )

    def _refuse(self, trial: Trial) -> None:
        """Refuse what this machine cannot do, before anything is started."""
        experiment, resources = trial.experiment, trial.experiment.resources
        if experiment.environment.image is not None:
            raise UserError(f"{experiment.path}: environment.image: the backend `local` runs no images yet")
        if resources.nodes > 1:
            raise UserError(f"{experiment.path}: resources.nodes: the backend `local` has one node")
        if resources.spot == "only":
            raise UserError(
                f"{experiment.path}: resources.spot: this machine is no spot machine; name a backend that rents them, "
                "or write `spot: prefer`, which trains here too"
            )
        if resources.gpu is None:
            return
        fitting = self._fitting(trial)
        if len(fitting) < resources.gpu.count:
            kind = f" of type {' or '.join(resources.gpu.type)}" if resources.gpu.type else ""
            shown = ", ".join(self._visible().values()) or "none"
            raise UserError(
                f"{experiment.path}: resources.gpu: {resources.gpu.count} GPU(s){kind} are asked for, "
                f"this machine has: {shown}; name another backend, or ask for what is here"
            )

    def _fitting(self, trial: Trial) -> dict[str, str]:
        gpu = trial.experiment.resources.gpu
        visible = self._visible()
        if gpu is None or not gpu.type:
            return visible
        words = [kind.casefold() for kind in gpu.type]
        return {u: name for u, name in visible.items() if any(word in name.casefold().split() for word in words)}

    def _visible(self) -> dict[str, str]:
        if self._gpus is None:
            self._gpus = visible_gpus(self._context.environ)
        return self._gpus

    def _secrets(self, trial: Trial, bundle: Bundle) -> bytes | None:
        """Return what the agent alone may read: what the training gets, and what data is fetched with."""
        names = trial.experiment.environment.secrets
        environ = self._context.environ
        for_data = [name for name in bundle.variables if name in CREDENTIALS and environ.get(name)]
        if not names and not for_data:
            return None
        if missing := [name for name in names if not environ.get(name)]:
            raise UserError(
                f"{trial.experiment.path}: environment.secrets: not set here: {', '.join(missing)}; "
                "set the environment variable and run again"
            )
        text = json.dumps({name: environ[name] for name in (*names, *for_data)}).encode()
        if len(text) > _SECRETS_BYTES:
            raise UserError(f"{trial.experiment.path}: environment.secrets: over {_SECRETS_BYTES} bytes together")
        return text

    def _start(self, trial: Trial, bundle: Bundle, attempt: Path, secrets: bytes | None) -> None:
        job = {
            "experiment": trial.experiment.name,
            "seed": trial.seed,
            "params": {k: list(v) if isinstance(v, tuple) else v for k, v in trial.params.items()},
            "submitted_at": self._context.now().timestamp(),
            "asked": bundle.asked and dataclasses.asdict(bundle.asked),
        }
        write_json(attempt.parent / "job.json", job)
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir(mode=0o700)
        with bundle.open() as source, (attempt / "bundle.tar").open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        # Taken here and inherited by the agent: there is no moment at which a started job looks dead.
        lock = Lock(attempt / "agent.lock")
        lock.acquire()
        try:
            self._spawn(trial, bundle, attempt, lock, secrets)
        finally:
            lock.release()

    def _spawn(self, trial: Trial, bundle: Bundle, attempt: Path, lock: Lock, secrets: bytes | None) -> None:
        assert lock.descriptor is not None
        command = [
            sys.executable, "-P", "-m", "gitops_ml.agent", str(attempt),
            "--digest", bundle.digest,
            "--cache", str(self._context.state / "cache"),
            "--clone", str(self._context.state.parent),
            "--checkpoints", str(attempt.parent / "checkpoints"),
            "--grace-s", str(self._grace_s),
        ]  # fmt: skip
        if gpus := self._fitting(trial):
            command += ["--gpus", json.dumps(gpus), "--gpu-locks", str(_shared_folder(self._context.environ))]
        # A pipe, filled before anybody reads it: no file, no argument, no variable ever holds a secret, and
        # being killed halfway through a submission leaves nobody waiting for the rest.
        source, sink = os.pipe()
        try:
            if secrets is not None:
                command.append("--secrets-from-stdin")
                os.set_blocking(sink, False)
                if os.write(sink, secrets) != len(secrets):
                    raise UserError(f"{trial.experiment.path}: environment.secrets: too long for this system's pipes")
            os.close(sink)
            sink = -1
            environ = self._context.environ
            with (attempt / "agent.log").open("wb") as errors:
                agent = subprocess.Popen(
                    command,
                    cwd=attempt,
                    env={
                        **passed_on(environ),
                        **for_installer(environ),
                        **{name: environ[name] for name in bundle.variables if name in environ.keys() - CREDENTIALS},
                        "PYTHONPATH": str(Path(gitops_ml.__file__).parent.parent),
                        "PYTHONUTF8": "1",
                    },
                    stdin=source,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=(lock.descriptor,),
                    start_new_session=True,
                )
            # As long as we live somebody must ask how it ended, or it stays as a zombie.
            threading.Thread(target=agent.wait, daemon=True).start()
        finally:
            os.close(source)
            if sink >= 0:
                os.close(sink)

    def _last_attempt(self, key: str) -> Path | None:
        """Return the newest attempt that has an agent or had one; a submission that was cut off is none."""
        folder = self._root / key
        numbers = sorted((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal()), reverse=True)
        for attempt in (folder / str(number) for number in numbers):
            if is_locked(attempt / "agent.lock") or (attempt / "status.json").exists() or _said(attempt):
                return attempt
        return None

    def _status(self, key: str, attempt: Path) -> JobStatus:
        # In this order: an agent writes its result before it lets go of the lock.
        alive = is_locked(attempt / "agent.lock")
        result = read_json(attempt / "result.json")
        status = read_json(attempt / "status.json") or {}
        asked = (read_json(attempt.parent / "job.json") or {}).get("asked")
        common = JobStatus(
            key=key,
            state=JobState(status.get("state", "starting")),
            attempt=int(attempt.name),
            started_at=_time(status.get("training_started_at") or status.get("started_at")),
            progress=status.get("progress", ""),
            asked=Asked(**asked) if asked else None,
        )
        if alive:
            return common
        if result is None:
            said = _said(attempt)
            reason = "its agent ended without a result: it was killed, or the machine went down"
            ended = _time(status.get("beat_at"))
            if said:
                reason += f" ({said.splitlines()[-1][:200]})"
            return dataclasses.replace(common, state=JobState.LOST, reason=reason, ended_at=ended)
        return dataclasses.replace(
            common,
            state=JobState(result["outcome"]),
            reason=result["reason"],
            exit_code=result["exit_code"],
            ended_at=_time(result["ended_at"]),
            progress=result["progress"],
            hardware=_hardware(result["hardware"]),
        )

    def _sweep(self, attempt: Path) -> None:
        """End what an agent that was killed may have left."""
        if not (attempt / "result.json").exists():
            kill_marked(_marker(attempt))


def _marker(attempt: Path) -> str:
    """Return what every process of an attempt's training has in its environment."""
    return f"GITOPS_ML_PARAMS={(attempt / 'params.json').absolute()}"


def _said(attempt: Path) -> str:
    """Return what the agent itself printed: nothing, unless it broke."""
    try:
        return (attempt / "agent.log").read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _grace_s(settings: Mapping[str, Any]) -> float:
    grace_s = settings.get("grace_s", 10)
    if (
        settings.keys() - {"grace_s"}
        or isinstance(grace_s, bool)
        or not isinstance(grace_s, int | float)
        or grace_s < 0
    ):
        raise UserError(
            f"gitops-ml.yaml: backends.local is {json.dumps(dict(settings), default=str)}; "
            "all that it takes is `grace_s`, a number of seconds"
        )
    return float(grace_s)


def _shared_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of GPU locks: one for all repositories of this user on this machine."""
    folder = Path(environ.get("TMPDIR") or tempfile.gettempdir()) / f"gitops-ml-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else; GPUs cannot be shared through it. Set TMPDIR")
    return folder


def _time(seconds: Any) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(float(seconds), UTC)


def _hardware(data: Mapping[str, Any]) -> Hardware:
    return Hardware(
        machine=data["machine"], cpus=data["cpus"], memory_bytes=data["memory_bytes"], gpus=tuple(data["gpus"])
    )

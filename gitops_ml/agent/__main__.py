"""``python -m gitops_ml.agent DIR``: carry out the trial whose ``bundle.tar`` stands in DIR.

What it leaves in DIR: ``status.json`` while it works, ``log.txt`` (the training's output), ``outputs/`` and, last and
whole, ``result.json``. It exits with 0 if the trial succeeded and with 4 if not.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gitops_ml.agent import data, environment, machine, outputs
from gitops_ml.agent.causes import Causes
from gitops_ml.agent.containers import Container
from gitops_ml.agent.environment import EnvironmentFailure
from gitops_ml.agent.files import disk_is_full, write_json
from gitops_ml.agent.log import Log
from gitops_ml.agent.orders import Hole, Orders, OrdersError, from_json
from gitops_ml.agent.processes import Ending, Limits, Stop, StoppedError, become_subreaper, run, seconds
from gitops_ml.agent.unpack import BundleError, unpack
from gitops_ml.datasets.base import DatasetError


def main(argv: Sequence[str]) -> int:
    """Carry out one trial and return the exit code."""
    args = _parser().parse_args(argv)
    stop = Stop()
    become_subreaper()
    secrets = json.load(sys.stdin) if args.secrets_from_stdin else {}
    folder = args.folder.absolute()
    log = Log(folder / "log.txt", secrets.values())
    attempt = _Attempt(args, folder, secrets, log, stop)
    attempt.beat("starting")
    try:
        ending = attempt.carry_out()
    except StoppedError as stopped:
        ending = stopped.ending
    except (BundleError, OrdersError, EnvironmentFailure, DatasetError) as error:
        cause = next(word for kind, word in _CAUSES.items() if isinstance(error, kind))
        ending = Ending(outcome="failed", reason=str(error), cause=cause)
        log.say(str(error))
    except Exception as error:  # noqa: BLE001 the result must say that we broke; the traceback is in the log
        if isinstance(error, OSError) and disk_is_full(error):
            ending = Ending(outcome="failed", reason=f"the disk is full ({error})", cause="disk_full")
        else:
            reason = f"the agent broke ({type(error).__name__}: {error}); see the log"
            ending = Ending(outcome="failed", reason=reason, cause="agent")
        log.say(traceback.format_exc())
    attempt.make_room()
    log.close()
    attempt.finish(ending)
    return 0 if ending.outcome == "succeeded" else 4


_CAUSES = {BundleError: "bundle", OrdersError: "orders", EnvironmentFailure: "environment", DatasetError: "data"}
_TRAP = "trap 'exit 143' TERM\n"
"""A shell that is asked to end would do so at once, and its training with it; so it waits for the command at hand."""
_BALLAST_BYTES = 2**20
"""Kept free on the disk, so that a training that fills it cannot keep us from saying so."""


class _Attempt:
    """One try of the trial in a folder of its own."""

    def __init__(self, args: argparse.Namespace, folder: Path, secrets: dict[str, str], log: Log, stop: Stop) -> None:
        self._args = args
        self._folder = folder
        self._secrets = secrets
        self._log = log
        self._stop = stop
        self._started = time.time()
        self._trained_from: float | None = None
        self._beat_at = 0.0
        self._beating = threading.Lock()
        self._shown: tuple[str, str] = ("", "")
        self._gpus = machine.Gpus(args.gpu_locks or folder, json.loads(args.gpus))
        self._files: list[dict[str, Any]] = []
        self._causes = Causes(folder)
        self._kept: Path = (args.checkpoints or folder / "checkpoints").absolute()
        self._ballast = folder / "ballast"
        self._ballast.write_bytes(bytes(_BALLAST_BYTES))

    def carry_out(self) -> Ending:
        """Do all that the orders say, up to the result."""
        unpacked = self._folder / "bundle"
        shutil.rmtree(unpacked, ignore_errors=True)
        paths = unpack(self._folder / "bundle.tar", unpacked, digest=self._args.digest)
        orders = from_json((unpacked / "trial.json").read_bytes())
        self._missing_secrets(orders)
        code = unpacked / "code"
        workdir = code / orders.workdir
        workdir.mkdir(parents=True, exist_ok=True)
        for stale in outputs.remove_stale(workdir, orders):
            self._log.say(f"removed {stale}: it is an output, and was in the repository")
        self._wait_for_gpus(orders)
        path: Sequence[Path] = ()
        container = None
        if orders.image is not None:
            container = Container(orders.image, f"gitops-ml-{orders.key[:12]}-{os.getpid()}", os.environ)
            container.pull(self._folder, self._log, self._stop)
        else:
            path = environment.prepare(
                orders, workdir, scratch=self._folder, cache=self._args.cache, log=self._log, stop=self._stop
            )
        self._stop.wait(0)
        found = data.bring(
            orders,
            workdir,
            into=self._folder / "data",
            cache=self._args.cache,
            clone=self._args.clone,
            alone=self._args.alone,
            environ={**os.environ, **self._secrets},
            wait=self._wait,
            say=self._log.say,
        )
        variables, command = self._command(orders, workdir, found)
        if container is None:
            env = self._beside(orders, path) | variables
        else:
            env, command = container.command(
                command,
                workdir=workdir,
                variables=variables,
                writable=[code, self._kept],
                readable=[p for p in (self._folder / "params.json", self._folder / "data") if p.exists()],
                gpus=list(self._gpus.held),
            )
        self._trained_from = time.time()
        ending = run(
            command,
            cwd=workdir,
            env=env,
            log=self._log,
            stop=self._stop,
            limits=Limits(
                max_duration_s=orders.max_duration_s, no_output_s=orders.no_output_s, grace_s=self._args.grace_s
            ),
            beat=lambda: self.beat("running"),
        )
        if container is not None:
            container.end()
        ending = self._causes.explained(ending, self._log.newest)
        self.make_room()
        self.beat("collecting")
        if ending.outcome == "succeeded" and not outputs.has_metrics(workdir, orders):
            reason = f"wrote no metrics: no file matches {', '.join(orders.metrics)}"
            ending = Ending(outcome="failed", reason=reason, exit_code=0, cause="no_metrics")
            self._log.say(reason)
        top = f"code/{orders.workdir}/" if orders.workdir != "." else "code/"
        before = {name.removeprefix(top) for name in paths if name.startswith(top)}
        self._files = outputs.gather(workdir, orders, before=before, into=self._folder / "outputs")
        if ending.outcome == "succeeded":  # of a failure it may help to look at them
            shutil.rmtree(unpacked, ignore_errors=True)
            (self._folder / "bundle.tar").unlink()
        return ending

    def beat(self, state: str) -> None:
        """Say that we live, and how far we are: when that changes, and now and then."""
        shown = (state, self._log.progress)
        now = time.monotonic()
        if shown[0] == self._shown[0] and now - self._beat_at < (0.5 if shown != self._shown else 10):
            return
        self._shown, self._beat_at = shown, now
        status = {
            "state": state,
            "pid": os.getpid(),
            "started_at": self._started,
            "training_started_at": self._trained_from,
            "beat_at": time.time(),
            "progress": shown[1],
        }
        try:
            write_json(self._folder / "status.json", status)
        except OSError as error:
            if not disk_is_full(error):
                raise

    def make_room(self) -> None:
        """Give back what was kept free for the end."""
        self._ballast.unlink(missing_ok=True)

    def finish(self, ending: Ending) -> None:
        """Write the result, last and whole."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)  # the cache has it
        ended = time.time()
        write_json(
            self._folder / "result.json",
            {
                "outcome": ending.outcome,
                "reason": ending.reason,
                "cause": ending.cause,
                "exit_code": ending.exit_code,
                "started_at": self._started,
                "training_started_at": self._trained_from,
                "ended_at": ended,
                "progress": self._log.progress,
                "hardware": machine.hardware(tuple(self._gpus.held.values())),
                "files": self._files,
            },
            durable=True,
        )

    def _missing_secrets(self, orders: Orders) -> None:
        if missing := [name for name in orders.secrets if name not in self._secrets]:
            raise OrdersError(f"the secrets {', '.join(missing)} were not handed over")

    def _wait_for_gpus(self, orders: Orders) -> None:
        if not orders.gpus:
            return
        if self._gpus.known < orders.gpus:
            reason = f"{orders.gpus} GPU(s) are asked for, and this machine shows {self._gpus.known} (nvidia-smi)"
            raise StoppedError(Ending(outcome="lost", reason=reason, cause="gpu_lost"))
        until = time.monotonic() + orders.max_wait_s if orders.max_wait_s is not None else None

        def wait(seconds_: float) -> None:
            self.beat("waiting")
            if until is not None and time.monotonic() >= until:
                gpus = f"{orders.gpus} GPU{'s' if orders.gpus > 1 else ''}"
                reason = f"waited longer than max_wait ({seconds(orders.max_wait_s or 0)}) for {gpus}"
                raise StoppedError(Ending(outcome="timed_out", reason=reason, cause="max_wait"))
            self._stop.wait(seconds_)

        self._gpus.acquire(orders.gpus, wait)
        self.beat("starting")

    def _wait(self, seconds_: float) -> None:
        with self._beating:  # data is fetched by several threads
            self.beat("starting")
        self._stop.wait(seconds_)

    def _beside(self, orders: Orders, path: Sequence[Path]) -> dict[str, str]:
        """Return what a training that runs on the machine itself sees of it."""
        inherited = environment.passed_on(os.environ)
        if self._gpus.known:
            inherited["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus.held)
            if not orders.gpus:
                self._log.say(f"the spec asks for no GPU (resources.gpu): {self._gpus.known} of this machine hidden")
        return {**inherited, "PATH": os.pathsep.join([*map(str, path), inherited.get("PATH", os.defpath)])}

    def _command(self, orders: Orders, workdir: Path, found: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
        """Return the variables that the training gets from us, and its command with the holes filled."""
        output = workdir / outputs.OUTPUT
        output.mkdir(exist_ok=True)
        places = {("output", ""): str(output), ("checkpoints", ""): str(self._checkpoints(orders, workdir))}
        for name, place in found.items():
            places["data", name] = str(place)
        variables = {f"GITOPS_ML_DATA_{name.upper().replace('-', '_')}": str(place) for name, place in found.items()}
        params = self._folder / "params.json"
        write_json(params, orders.params)
        given = {
            "PYTHONUNBUFFERED": "1",
            **orders.env,
            **{name: self._secrets[name] for name in orders.secrets},
            **variables,
            "GITOPS_ML_KEY": orders.key,
            "GITOPS_ML_SEED": str(orders.seed),
            "GITOPS_ML_PARAMS": str(params),
            "GITOPS_ML_OUTPUT": places["output", ""],
            "GITOPS_ML_CHECKPOINTS": places["checkpoints", ""],
        }
        arguments = [
            "".join(part if isinstance(part, str) else _filled(part, places, shell=orders.shell) for part in argument)
            for argument in orders.arguments
        ]
        if not orders.shell:
            return given, arguments
        return given, ["bash", "-euo", "pipefail", "-c", _TRAP + arguments[0], *arguments[1:]]

    def _checkpoints(self, orders: Orders, workdir: Path) -> Path:
        """Return the folder for checkpoints, which outlives the attempt; a declared path leads to it."""
        kept = self._kept
        kept.mkdir(parents=True, exist_ok=True)
        if orders.checkpoints is None:
            return kept
        if ".." in PurePosixPath(orders.checkpoints).parts:
            raise OrdersError(f"checkpoints: {orders.checkpoints} leads out of the workdir")
        place = workdir / orders.checkpoints
        if place.is_symlink() or place.is_file():
            place.unlink()
        elif place.is_dir():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(kept, target_is_directory=True)
        return place


def _filled(hole: Hole, places: dict[tuple[str, str], str], *, shell: bool) -> str:
    place = places.get((hole.kind, hole.name))
    if place is None:
        raise OrdersError(f"the command has a place for {hole.kind} {hole.name}, which this agent does not know")
    return shlex.quote(place) if shell else place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gitops_ml.agent", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--digest", help="SHA-256 that bundle.tar must have")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "gitops-ml", help="for environments and data"
    )
    parser.add_argument("--clone", type=Path, help="the repository on this machine, whose LFS and DVC caches may help")
    parser.add_argument("--alone", action="store_true", help="no other trial will use this machine and its caches")
    parser.add_argument("--checkpoints", type=Path, help="where checkpoints outlive the attempt")
    parser.add_argument("--gpus", default="{}", help="JSON: identity -> name of the GPUs to take from")
    parser.add_argument("--gpu-locks", type=Path, help="folder of locks that all agents of the machine share")
    parser.add_argument("--grace-s", type=float, default=10.0, help="between SIGTERM and SIGKILL")
    parser.add_argument("--secrets-from-stdin", action="store_true", help="a JSON object, name -> value")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

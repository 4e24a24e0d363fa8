"""A training in a container of its image: the same folders under the same names, and nothing else of the machine.

Needs docker, and for GPUs NVIDIA's container toolkit, as NVIDIA's and AWS's deep learning images have them. The image's
entry point is not used: what runs is what the spec says. Variables go by name alone, so that no secret's value stands
among a process's arguments.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from gitops_ml.agent.environment import EnvironmentFailure, passed_on
from gitops_ml.agent.log import Log
from gitops_ml.agent.processes import Limits, Stop, StoppedError, run

_PULL_S = 3600.0
_END_S = 60.0


class Container:
    """One container, which is gone when `end` returns."""

    def __init__(self, image: str, name: str, environ: Mapping[str, str]) -> None:
        docker = shutil.which("docker", path=environ.get("PATH", os.defpath))
        if docker is None:
            raise EnvironmentFailure(
                "environment.image: this machine has no docker; take a machine image that has it, "
                "or name `python` and `requirements` instead"
            )
        self._docker = docker
        self._image = image
        self._name = name
        self._environ = passed_on(environ)

    def pull(self, cwd: Path, log: Log, stop: Stop) -> None:
        """Bring the image to this machine, unless it is here.

        Raises:
            EnvironmentFailure: it cannot be had.
            StoppedError: asked from outside to end.
        """
        seen = subprocess.run(
            [self._docker, "image", "inspect", "--format", "{{.Id}}", self._image],
            check=False,
            capture_output=True,
            env=self._environ,
            stdin=subprocess.DEVNULL,
        )
        if seen.returncode == 0:
            return
        log.say(f"pulling {self._image}")
        ending = run(
            [self._docker, "pull", "--quiet", self._image],
            cwd=cwd,
            env=self._environ,
            log=log,
            stop=stop,
            limits=Limits(max_duration_s=_PULL_S),
        )
        if stop.ending is not None:
            raise StoppedError(stop.ending)
        if ending.outcome != "succeeded":
            said = f" ({log.progress})" if log.progress else ""
            raise EnvironmentFailure(f"environment.image: {self._image} cannot be pulled{said}; the log says more")

    def command(
        self,
        arguments: Sequence[str],
        *,
        workdir: Path,
        variables: Mapping[str, str],
        writable: Sequence[Path],
        readable: Sequence[Path],
        gpus: Sequence[str],
    ) -> tuple[dict[str, str], list[str]]:
        """Return the environment and the command that run the arguments in the container.

        Args:
            arguments: what to run.
            workdir: where.
            variables: all that the training gets from us.
            writable: folders that it may write to.
            readable: files and folders that it may read.
            gpus: ids of its GPUs; without any it sees none.
        """
        values = {"HOME": "/tmp", **variables, "TINI_KILL_PROCESS_GROUP": "1"}  # noqa: S108 inside the container
        mounts = [f"type=bind,src={path},dst={path}" for path in writable]
        mounts += [f"type=bind,src={path},dst={path},readonly" for path in readable]
        command = [
            self._docker, "run", "--rm", "--init", "--pull", "never", "--name", self._name,
            "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", str(workdir), "--ipc", "host",
            *(["--gpus", f'"device={",".join(gpus)}"'] if gpus else []),
            *(word for mount in mounts for word in ("--mount", mount)),
            *(word for name in sorted(values) for word in ("--env", name)),
            "--entrypoint", arguments[0], self._image, *arguments[1:],
        ]  # fmt: skip
        return {**self._environ, **values}, command

    def end(self) -> None:
        """See that the container is gone, also when its client was killed."""
        try:
            subprocess.run(
                [self._docker, "rm", "--force", self._name],
                check=False,
                capture_output=True,
                timeout=_END_S,
                env=self._environ,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            pass  # the machine's end is its end too

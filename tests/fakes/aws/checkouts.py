"""A repository whose trainings run on the fake AWS, and gitops-ml called in it as a user or a CI job does."""

import dataclasses
import io
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.aws.cloud import Cloud, base_python
from tests.fakes.repositories import ENVIRON, clone, commit, git, make_remote, make_repository, write

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIMIT_S = 120

PROJECT = """
backend: aws-ec2
storage: s3://{bucket}/acme/digits
backends:
  aws-ec2: {{instance_profile: gitops-ml-worker, instance_types: [{types}]{more}}}
"""

# Trains in epochs, each saved; where told to, waits until a file is there, so that a test can act in between.
TRAIN = """
import json, os, pathlib, sys, threading

gate, fatal = pathlib.Path(sys.argv[1]), sys.argv[2:]
saved = pathlib.Path(os.environ["GITOPS_ML_CHECKPOINTS"], "state.json")
params = json.loads(pathlib.Path(os.environ["GITOPS_ML_PARAMS"]).read_text())
state = json.loads(saved.read_text()) if saved.exists() else {"epoch": 0, "weight": float(os.environ["GITOPS_ML_SEED"])}
print(f"from epoch {state['epoch']}", flush=True)
while state["epoch"] < 5:
    while state["epoch"] == 3 and not gate.exists():
        threading.Event().wait(0.05)
    state = {"epoch": state["epoch"] + 1, "weight": state["weight"] * 0.7 + params["lr"] / 3}
    part = saved.with_suffix(".part")
    part.write_text(json.dumps(state))
    part.replace(saved)
    print(f"epoch {state['epoch']}/5", flush=True)
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/metrics.json").write_text(json.dumps({"accuracy": state["weight"]}))
"""

SPEC = """
version: 1
name: {name}
run: python3 train.py {gate}
code: {{include: [train.py]}}
environment: {{python: "{python}"{environment}}}
params: {{lr: {lr}}}
seeds: [{seeds}]
resources: {{{resources}}}
budget: {{{budget}}}
metrics:
  read: [out/metrics.json]
  track: [{{name: accuracy, goal: maximize}}]
"""

_SLOW_TO_LOAD = ("boto3", "botocore.session", "botocore.signers", "gitops_ml.commands.run", "numpy")


# What ssh is to git: runs the other side's program where its repositories are.
_SSH = """#!/bin/sh
cd "$(dirname "$0")" && shift && exec sh -c "$*"
"""


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command ended with and said, results and progress together."""

    code: int
    text: str


class Checkout:
    """A clone with its remote; ``call`` runs a command in this process, ``start`` in one that may be killed."""

    def __init__(self, folder: Path, cloud: Cloud, *, types: str = "g5.xlarge", settings: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cloud = cloud
        (folder / "forge" / "acme").mkdir(parents=True)
        self.remote = make_remote(folder / "forge" / "acme" / "digits.git")
        self.gate = folder / "gate"
        project = PROJECT.format(bucket=cloud.bucket, types=types, more=settings)
        files = {"gitops-ml.yaml": project.lstrip(), "train.py": TRAIN.lstrip(), ".gitignore": ".gitops-ml/\nout/\n"}
        self.top = make_repository(folder / "clone", files, remote=self.remote)
        self._name(self.top)
        shell = folder / "forge" / "ssh"
        shell.write_text(_SSH)
        shell.chmod(0o755)
        self.environ = {
            **ENVIRON,
            **cloud.environ,
            "HOME": str(folder),
            "USER": "dana",
            "GIT_SSH_COMMAND": str(shell),
            "GIT_SSH_VARIANT": "simple",
        }
        for name in list(self.environ):
            if name.startswith(("GITHUB_", "GITLAB_", "CI_")) or name == "CI":
                del self.environ[name]
        self._number = 0

    def experiment(
        self,
        name: str = "digits",
        *,
        lr: float = 0.1,
        seeds: str = "0",
        resources: str = "gpu: {type: [A10G]}",
        budget: str = "max_duration: 10m, max_wait: 1m, max_cost: 100 USD",
        environment: str = "",
    ) -> None:
        """Write the spec; it has to be committed."""
        text = SPEC.format(
            name=name,
            gate=self.gate,
            python=PYTHON,
            lr=lr,
            seeds=seeds,
            resources=resources,
            budget=budget,
            environment=environment,
        )
        self.write({f"experiments/{name}.yaml": text.lstrip()})

    def commit(self, files: Mapping[str, str | bytes] | None = None) -> str:
        """Commit and push what is there, and these files."""
        head = commit(self.top, files or {})
        git(self.top, "push", "-q", "origin", "HEAD")
        return head

    def clone(self, name: str) -> Path:
        """Return a further clone, as another CI job has it."""
        place = clone(self.remote, self.folder / name)
        self._name(place)
        return place

    def _name(self, place: Path) -> None:
        """Let the remote be acme/digits on a forge; we ourselves push without its help."""
        git(place, "remote", "set-url", "--push", "origin", self.remote.as_uri())
        git(place, "remote", "set-url", "origin", "git@forge.invalid:acme/digits.git")

    def write(self, files: Mapping[str, str | bytes]) -> None:
        write(self.top, files)

    def open_gate(self) -> None:
        """Let trainings go on beyond their third epoch."""
        self.gate.touch()

    def call(self, *words: str, hours_later: float = 0, **more: str) -> Said:
        """Run a command here, perhaps with a clock that is ahead."""
        said = io.StringIO()
        ahead = timedelta(hours=hours_later)
        tools = Tools(
            cwd=self.top,
            environ={**self.environ, **more},
            out=said,
            err=said,
            now=lambda: datetime.now(UTC) + ahead,
        )
        code = int(main(words, tools))
        assert code != 3, said.getvalue()
        return Said(code, said.getvalue())

    def start(self, *words: str, place: Path | None = None, **more: str) -> "Command":
        """Start a command in a process of its own, perhaps in another clone."""
        self._number += 1
        log = self.folder / f"said-{self._number}"
        return Command(place or self.top, {**self.environ, **more}, words, log)

    def run(self, *words: str, **more: str) -> Said:
        """Run a command in a process of its own, to its end."""
        return self.start(*words, **more).ended()

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Return the records that are kept here, by key."""
        found = sorted((self.top / ".gitops-ml").rglob("record.json"))
        return [json.loads(file.read_bytes()) for file in found]


class Command:
    """A command at work in a process of its own, made from one that has everything loaded."""

    def __init__(self, place: Path, environ: Mapping[str, str], words: Sequence[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *_SLOW_TO_LOAD])
        self._log = log
        self._process = context.Process(target=_be, args=(str(place), dict(environ), tuple(words), str(log)))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.join(LIMIT_S)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self) -> Said:
        """Wait for its end."""
        self._process.join(LIMIT_S)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"not over within {LIMIT_S} s:\n{self.said()}")
        assert self._process.exitcode != 3, self.said()
        return Said(self._process.exitcode, self.said())


def _be(place: str, environ: dict[str, str], words: tuple[str, ...], log: str) -> None:
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environ)
    with Path(log).open("w", encoding="utf-8", buffering=1) as out:
        code = main(words, Tools(cwd=Path(place), environ=environ, out=out, err=out))
    os._exit(int(code))


def image_with_numpy(folder: Path) -> Path:
    """Make the Python of an image that has numpy, and nothing else of ours; returns its interpreter."""
    import numpy

    subprocess.run([base_python(), "-m", "venv", "--without-pip", folder], check=True, timeout=LIMIT_S)
    shown = folder / "packages"
    shown.mkdir()
    home = Path(numpy.__file__).parent
    for place in (home, home.with_name("numpy.libs")):
        if place.exists():
            (shown / place.name).symlink_to(place)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "image.pth").write_text(f"{shown}\n")
    return folder / "bin" / "python"

"""Containers: the command line that docker gets, with a docker that takes it seriously."""

import os
from pathlib import Path

import pytest

from gitops_ml.agent import objects
from gitops_ml.planning import Trial
from gitops_ml.spec import Environment, Gpu, Resources
from gitops_ml.storage.base import Storage
from gitops_ml.storage.folder import FolderStorage
from tests.fakes import docker
from tests.fakes.far import Attempt, Running, around, submit
from tests.fakes.trials import WRITES, Objects, trial, until

IMAGE = f"ghcr.io/acme/train@sha256:{'a' * 64}"
PYTHONPATH = str(Path(__file__).parents[3])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    folder = docker.install(tmp_path / "docker")
    return {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": PYTHONPATH, "HOME": "/root"}


def in_image(run: str, image: str = IMAGE, **fields: object) -> Trial:
    return trial(run, environment=Environment(image=image, env={"DEPTH": "3"}), **fields)


def test_container__training_that_succeeds__sees_only_what_it_is_given(
    storage: Storage, environ: dict[str, str], tmp_path: Path
) -> None:
    of = in_image(f"env | cut -d= -f1 | sort | tr '\\n' ' '; echo; echo $HOME $DEPTH; {WRITES}")

    result = Running(storage, submit(storage, of), around(tmp_path / "work", environ)).end()

    attempt = Attempt(storage, of.key)
    assert (result["outcome"], result["reason"]) == ("succeeded", "")
    pulled, names, values = attempt.log.splitlines()
    assert pulled == f"gitops-ml: pulling {IMAGE}"
    ours = "GITOPS_ML_CHECKPOINTS GITOPS_ML_KEY GITOPS_ML_OUTPUT GITOPS_ML_PARAMS GITOPS_ML_SEED"
    assert names == f"DEPTH {ours} HOME PATH PWD PYTHONUNBUFFERED SHLVL TINI_KILL_PROCESS_GROUP _ "
    assert values == "/tmp 3"
    assert attempt.get("outputs/out/metrics.json") == b'{"accuracy": 0.5}\n'


def test_container__command__is_whole(storage: Storage, environ: dict[str, str], tmp_path: Path) -> None:
    smi = tmp_path / "docker/nvidia-smi"
    smi.write_text("#!/bin/sh\ncase $1 in *uuid*) printf '0, GPU-0, NVIDIA L4\\n1, GPU-1, NVIDIA L4\\n';; "
                   "*) printf '0, 1, 2\\n0, 1, 2\\n';; esac\n")  # fmt: skip
    smi.chmod(0o755)
    of = in_image("true", resources=Resources(gpu=Gpu(count=2)))
    folder = tmp_path / "work/attempt"

    Running(storage, submit(storage, of), around(tmp_path / "work", environ)).end()

    inspect, pull, run, remove = docker.calls(tmp_path / "docker")
    name = run[run.index("--name") + 1]
    mounts = (
        f"type=bind,src={folder}/bundle/code,dst={folder}/bundle/code",
        f"type=bind,src={folder}/checkpoints,dst={folder}/checkpoints",
        f"type=bind,src={folder}/params.json,dst={folder}/params.json,readonly",
    )
    names = (
        "DEPTH", "GITOPS_ML_CHECKPOINTS", "GITOPS_ML_KEY", "GITOPS_ML_OUTPUT", "GITOPS_ML_PARAMS", "GITOPS_ML_SEED",
        "HOME", "PYTHONUNBUFFERED", "TINI_KILL_PROCESS_GROUP",
    )  # fmt: skip
    assert inspect == ["image", "inspect", "--format", "{{.Id}}", IMAGE]
    assert pull == ["pull", "--quiet", IMAGE]
    assert run == [
        "run", "--rm", "--init", "--pull", "never", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}",
        "--workdir", f"{folder}/bundle/code", "--ipc", "host", "--gpus", '"device=GPU-0,GPU-1"',
        *(word for mount in mounts for word in ("--mount", mount)),
        *(word for variable in names for word in ("--env", variable)),
        "--entrypoint", "bash", IMAGE, "-euo", "pipefail", "-c", "trap 'exit 143' TERM\ntrue",
    ]  # fmt: skip
    assert name.startswith(f"gitops-ml-{of.key[:12]}-")
    assert remove == ["rm", "--force", name]


def test_container__secret__is_in_no_argument(storage: Storage, environ: dict[str, str], tmp_path: Path) -> None:
    from gitops_ml.agent.containers import Container

    container = Container(IMAGE, "name", environ)

    env, command = container.command(
        ["train"], workdir=tmp_path, variables={"HF_TOKEN": "canary-3f9a"}, writable=[], readable=[], gpus=[]
    )

    assert "canary" not in " ".join(command)
    assert env["HF_TOKEN"] == "canary-3f9a"
    assert command[command.index("--env") + 1] == "HF_TOKEN"


def test_container__cancelled__training_may_save(storage: Storage, environ: dict[str, str], tmp_path: Path) -> None:
    held = Objects()
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')))\nprint('ready')\n"
    files = [held.file("train.py", code + "while True:\n    signal.pause()\n")]
    of = trial("python3 train.py; echo never", files, environment=Environment(image=IMAGE))
    running = Running(storage, submit(storage, of, held), around(tmp_path / "work", environ))
    until(lambda: "ready\n" in running.attempt.log)

    storage.put(objects.attempt(of.key, 1, "cancel.json"), b"{}")
    result = running.end()

    assert result["outcome"] == "cancelled"
    assert "saved\n" in running.attempt.log
    assert "never" not in running.attempt.log
    assert docker.calls(tmp_path / "docker")[-1][:2] == ["rm", "--force"]


def test_container__image_that_cannot_be_had__says_so(
    storage: Storage, environ: dict[str, str], tmp_path: Path
) -> None:
    image = f"ghcr.io/acme/missing@sha256:{'a' * 64}"

    result = Running(storage, submit(storage, in_image("true", image)), around(tmp_path / "work", environ)).end()

    assert (result["outcome"], result["cause"]) == ("failed", "environment")
    assert result["reason"] == (
        f"environment.image: {image} cannot be pulled (Error response from daemon: manifest unknown); the log says more"
    )


def test_container__machine_without_docker__says_so(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for tool in ("bash", "env"):
        (tmp_path / "empty" / tool).symlink_to(f"/usr/bin/{tool}")
    environ = {"PATH": str(tmp_path / "empty"), "PYTHONPATH": PYTHONPATH}

    result = Running(storage, submit(storage, in_image("true")), around(tmp_path / "work", environ)).end()

    assert result["reason"] == (
        "environment.image: this machine has no docker; take a machine image that has it, "
        "or name `python` and `requirements` instead"
    )

"""What the local backend does beyond the contract: GPUs, shared among all that run here."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gitops_ml.backends.base import Context, JobState
from gitops_ml.backends.local import LocalBackend
from gitops_ml.bundles import bundle
from gitops_ml.errors import UserError
from gitops_ml.planning import Trial
from gitops_ml.spec import Budget, Gpu, Resources
from tests.fakes.trials import Objects, trial, until

SHOWS = "echo GPU=$CUDA_VISIBLE_DEVICES"


class Machine:
    """This machine with two pretended GPUs of one kind, or with none."""

    def __init__(self, folder: Path, gpus: int) -> None:
        rows = "".join(f"{n}, GPU-{n}, NVIDIA L4\\n" for n in range(gpus))
        (folder / "bin").mkdir()
        tool = folder / "bin/nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{rows}'\n")
        tool.chmod(0o755)
        self.environ = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "TMPDIR": str(folder)}
        self.backend = LocalBackend(
            Context(
                state=folder / "state",
                settings={"grace_s": 0.3},
                environ=self.environ,
                now=lambda: datetime.now(UTC),
            )
        )
        self.keys: list[str] = []

    def submit(self, of: Trial) -> None:
        self.keys.append(of.key)
        with bundle(of, Objects().blobs) as made:
            self.backend.submit(of, made)

    def state(self, of: Trial) -> JobState:
        return self.backend.poll([of.key])[of.key].state

    def run(self, of: Trial) -> list[str]:
        self.submit(of)
        until(lambda: self.state(of).final)
        return list(self.backend.logs(of.key, follow=False))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, gpus=2)
    yield machine
    for key in machine.keys:
        machine.backend.cancel(key)


def asking(run: str, count: int, seed: int = 0, *, kind: tuple[str, ...] = (), **fields: object) -> Trial:
    return trial(run, seed=seed, resources=Resources(gpu=Gpu(count=count, type=kind)), **fields)


def test_gpus__asked_for__are_given_and_recorded(machine: Machine) -> None:
    of = asking(SHOWS, 2, kind=("l4",))

    assert machine.run(of) == ["GPU=GPU-0,GPU-1"]
    hardware = machine.backend.poll([of.key])[of.key].hardware
    assert hardware is not None
    assert hardware.gpus == ("NVIDIA L4", "NVIDIA L4")


def test_gpus__not_asked_for__are_hidden(machine: Machine) -> None:
    log = machine.run(trial(SHOWS))

    assert log == ["gitops-ml: the spec asks for no GPU (resources.gpu): 2 of this machine hidden", "GPU="]


def test_gpus__all_taken__wait_for_one_to_be_free(machine: Machine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    holder = asking(f"{SHOWS}; cat {tmp_path}/gate", 2)
    waiter = asking(SHOWS, 1, seed=1)
    machine.submit(holder)
    until(lambda: machine.state(holder) is JobState.RUNNING)
    machine.submit(waiter)
    until(lambda: machine.state(waiter) is JobState.WAITING)

    (tmp_path / "gate").write_text("go\n")

    until(lambda: machine.state(waiter) is JobState.SUCCEEDED)


def test_gpus__waited_for_too_long__times_out(machine: Machine) -> None:
    holder = asking("sleep 600", 2)
    waiter = asking(SHOWS, 1, seed=1, budget=Budget(max_wait_s=0.2))
    machine.submit(holder)
    until(lambda: machine.state(holder) is JobState.RUNNING)

    machine.run(waiter)

    status = machine.backend.poll([waiter.key])[waiter.key]
    assert (status.state, status.reason) == (JobState.TIMED_OUT, "waited longer than max_wait (0.2s) for 1 GPU")


@pytest.mark.parametrize(
    ("gpus", "count", "kind", "message"),
    [
        (0, 1, (), "1 GPU(s) are asked for, this machine has: none"),
        (2, 3, (), "3 GPU(s) are asked for, this machine has: NVIDIA L4, NVIDIA L4"),
        (2, 1, ("H100", "A10G"), "1 GPU(s) of type H100 or A10G are asked for, this machine has: NVIDIA L4, NVIDIA L4"),
    ],
)
def test_gpus__not_here__are_refused(
    tmp_path: Path, gpus: int, count: int, kind: tuple[str, ...], message: str
) -> None:
    machine = Machine(tmp_path, gpus)

    with pytest.raises(UserError) as refused:
        machine.submit(asking("true", count, kind=kind))

    assert str(refused.value) == (
        f"experiments/digits.yaml: resources.gpu: {message}; name another backend, or ask for what is here"
    )


@pytest.mark.parametrize("settings", [{"grace_s": "10s"}, {"grace_s": -1}, {"grace": 3}])
def test_settings__unknown_or_wrong__are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"backends\.local is .*; all that it takes is `grace_s`"):
        LocalBackend(Context(state=tmp_path, settings=settings, environ={}, now=lambda: datetime.now(UTC)))


def test_check__names_bash_and_gpus(machine: Machine) -> None:
    bash, gpus = machine.backend.check()

    assert bash.ok
    assert gpus.found == "NVIDIA L4, NVIDIA L4"

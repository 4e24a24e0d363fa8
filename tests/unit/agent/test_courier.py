"""One attempt on a far machine, with a folder as storage."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops_ml.agent import objects
from gitops_ml.agent.objects import Heartbeat
from gitops_ml.planning import Trial
from gitops_ml.spec import Budget, Data, Environment, Gpu, Resources
from gitops_ml.storage.base import FileError, Storage, StorageError
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.aws.machines import descendants
from tests.fakes.far import QUICK, Attempt, MetadataService, Running, around, metadata_service, submit
from tests.fakes.trials import WRITES, Objects, trial, until

ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])}

TRAIN = """
import json, os, pathlib, signal, sys

saved = pathlib.Path(os.environ["GITOPS_ML_CHECKPOINTS"], "state.json")
resumed = saved.exists()
state = json.loads(saved.read_text()) if resumed else {"step": 0, "x": 0.1}
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
while state["step"] < 50 and not asked:
    state = {"step": state["step"] + 1, "x": 3.7 * state["x"] * (1 - state["x"])}
    new = saved.with_suffix(".new")
    new.write_text(json.dumps(state))
    new.replace(saved)
    print("step", state["step"], flush=True)
    if state["step"] == 25 and not resumed and "--pause" in sys.argv:
        signal.pause()
if asked:
    sys.exit(75)
os.makedirs("out", exist_ok=True)
pathlib.Path("out/metrics.json").write_text(json.dumps(state))
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service() as service:
        yield service


def training(*arguments: str) -> tuple[Trial, Objects]:
    held = Objects()
    return trial(("python", "train.py", *arguments), [held.file("train.py", TRAIN)]), held


def waits(command: str = "echo ready; exec python -c 'import signal; signal.pause()'", **fields: object) -> Trial:
    return trial(command, **fields)


def test_run__training_that_succeeds__leaves_log_outputs_and_result(storage: Storage, tmp_path: Path) -> None:
    held = Objects()
    of = trial(f"cat hello; {WRITES}", [held.file("hello", "world\n")])
    lease = submit(storage, of, held)

    result = Running(storage, lease, around(tmp_path / "work", ENVIRON)).end()

    attempt = Attempt(storage, of.key)
    assert (result["outcome"], result["reason"], result["cause"], result["exit_code"]) == ("succeeded", "", "", 0)
    assert attempt.log == "world\n"
    assert result["log_bytes"] == 6
    assert attempt.get("outputs/out/metrics.json") == b'{"accuracy": 0.5}\n'
    assert [entry["path"] for entry in result["files"]] == ["out/metrics.json"]
    assert result["notes"] == []
    assert result["resumed_from"] is None
    assert _beat(attempt).beat >= 1


def test_run__image_with_a_python_for_trainings__is_used(storage: Storage, tmp_path: Path) -> None:
    venv.create(tmp_path / "image", with_pip=False)
    python = str(tmp_path / "image/bin/python3")
    of = trial(f"python -c 'import sys; print(sys.prefix)'; {WRITES}")

    Running(storage, submit(storage, of), around(tmp_path / "work", ENVIRON, python=python)).end()

    assert Attempt(storage, of.key).log == f"{tmp_path}/image\n"


def test_run__without_a_lease__leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    lease = submit(storage, trial())
    storage.delete(objects.attempt(lease.key, 1, "lease.json"))

    running = Running(storage, lease, around(tmp_path / "work", ENVIRON))

    assert running.end() is None
    assert running.code == 1


def test_run__attempt_that_is_over__is_left_alone(storage: Storage, tmp_path: Path) -> None:
    lease = submit(storage, trial("exit 1"))
    storage.put(objects.attempt(lease.key, 1, "result.json"), b'{"outcome": "succeeded"}')

    assert Running(storage, lease, around(tmp_path / "work", ENVIRON)).end() == {"outcome": "succeeded"}


def test_run__spot_notice_in_the_middle__resumes_to_the_same_bits(
    storage: Storage, tmp_path: Path, metadata: MetadataService
) -> None:
    of, held = training("--pause")
    first = Running(storage, submit(storage, of, held), around(tmp_path / "1", ENVIRON, imds=metadata.imds))
    until(lambda: "step 25\n" in first.attempt.log)
    metadata.take_away()

    taken = first.end()
    del metadata.values["spot/instance-action"]
    second = Running(storage, submit(storage, of, held, 2), around(tmp_path / "2", ENVIRON, imds=metadata.imds)).end()
    whole, held = training()
    Running(storage, submit(storage, whole, held), around(tmp_path / "3", ENVIRON)).end()

    assert (taken["outcome"], taken["reason"], taken["cause"]) == (
        "preempted",
        "the machine is taken away (terminate)",
        "spot",
    )
    assert second["outcome"] == "succeeded"
    assert second["resumed_from"].startswith("000001-")
    resumed = Attempt(storage, of.key, 2)
    assert resumed.log.startswith(f"gitops-ml: continues from checkpoint {second['resumed_from']}\nstep 26\n")
    assert resumed.get("outputs/out/metrics.json") == Attempt(storage, whole.key).get("outputs/out/metrics.json")
    assert list(storage.names(f"jobs/{of.key}/checkpoints/")) == [], "a trial that succeeded needs none"


def test_run__shell_with_more_to_do__lets_the_training_save_and_does_no_more(
    storage: Storage, tmp_path: Path, metadata: MetadataService
) -> None:
    held = Objects()
    of = trial("python train.py --pause; echo never", [held.file("train.py", TRAIN)])
    running = Running(storage, submit(storage, of, held), around(tmp_path / "1", ENVIRON, imds=metadata.imds))
    until(lambda: "step 25\n" in running.attempt.log)

    metadata.take_away()
    result = running.end()

    assert (result["outcome"], result["exit_code"]) == ("preempted", 143)
    assert running.attempt.log.endswith("ending the training\n")
    assert list(storage.names(f"jobs/{of.key}/checkpoints/manifests/"))


def test_run__plug_pulled__goes_on_from_what_was_mirrored(storage: Storage, tmp_path: Path) -> None:
    of, held = training("--pause")
    lease = submit(storage, of, held)
    machine = os.fork()
    if machine == 0:  # a machine of its own, so that all of it can be gone at once
        Running(storage, lease, around(tmp_path / "1", ENVIRON)).end()
        os._exit(0)
    prefix = f"jobs/{of.key}/checkpoints/manifests/"

    def mirrored() -> bool:
        names = list(storage.names(prefix))
        digests = [json.loads(storage.get(n) or b"{}")["files"].get("state.json", {}).get("sha256") for n in names[-1:]]
        return any(
            b'"step": 25' in (storage.get(f"jobs/{of.key}/checkpoints/files/000001/{d}") or b"") for d in digests if d
        )

    until(mirrored)
    for process in (machine, *descendants(machine)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(machine, 0)

    second = Running(storage, submit(storage, of, held, 2), around(tmp_path / "2", ENVIRON)).end()

    assert Attempt(storage, of.key).result is None
    assert second["outcome"] == "succeeded"
    assert "step 26\n" in Attempt(storage, of.key, 2).log
    assert "step 25\n" not in Attempt(storage, of.key, 2).log


def test_run__attempt_before_failed__starts_afresh(storage: Storage, tmp_path: Path) -> None:
    held = Objects()
    of = trial('echo 1 >>"$GITOPS_ML_CHECKPOINTS/n"; cat "$GITOPS_ML_CHECKPOINTS/n"; exit 3')
    first = Running(storage, submit(storage, of, held), around(tmp_path / "1", ENVIRON)).end()
    Running(storage, submit(storage, of, held, 2), around(tmp_path / "2", ENVIRON)).end()

    assert (first["outcome"], first["reason"]) == ("failed", "the training exited with code 3")
    assert list(storage.names(f"jobs/{of.key}/checkpoints/manifests/"))
    assert Attempt(storage, of.key, 2).log == "1\n"


def test_run__cancelled__ends_the_training(storage: Storage, tmp_path: Path) -> None:
    running = Running(storage, submit(storage, waits()), around(tmp_path / "work", ENVIRON))
    until(lambda: running.attempt.log == "ready\n")
    storage.put(
        objects.attempt(running.courier._key, 1, "cancel.json"), b'{"by": "ada", "reason": "cancelled by ada", "at": 1}'
    )

    result = running.end()

    assert (result["outcome"], result["reason"], result["cause"]) == ("cancelled", "cancelled by ada", "cancelled")


def test_run__shut_down_by_who_cancelled__is_cancelled(storage: Storage, tmp_path: Path) -> None:
    slow = dataclasses.replace(QUICK, watch=(60.0, 60.0))
    running = Running(storage, submit(storage, waits()), around(tmp_path / "work", ENVIRON, pace=slow))
    until(lambda: running.attempt.log == "ready\n")
    storage.put(objects.attempt(running.courier._key, 1, "cancel.json"), b'{"reason": "cancelled by ada"}')

    running.courier.end("preempted", "the machine was shut down", "shutdown")
    result = running.end()

    assert (result["outcome"], result["reason"]) == ("cancelled", "cancelled by ada")


def test_run__cancelled_before_it_began__starts_nothing(storage: Storage, tmp_path: Path) -> None:
    lease = submit(storage, trial("echo never"))
    storage.put(objects.attempt(lease.key, 1, "cancel.json"), b"{}")

    result = Running(storage, lease, around(tmp_path / "work", ENVIRON)).end()

    assert result["outcome"] == "cancelled"


def test_run__machines_time_over__ends_the_training_before(storage: Storage, tmp_path: Path) -> None:
    import time

    lease = submit(storage, waits(), lifetime_min=1, grace_s=1.0)
    # 60 s after its start the machine goes; a quarter of that is kept for the end, and 44 s are gone already.
    running = Running(storage, lease, around(tmp_path / "work", ENVIRON, began=time.monotonic() - 44))

    result = running.end()

    assert (result["outcome"], result["reason"], result["cause"]) == (
        "timed_out",
        "the machine's time is over (1 min)",
        "deadline",
    )


def test_run__agent_killed__says_that_it_left_no_result(storage: Storage, tmp_path: Path) -> None:
    running = Running(storage, submit(storage, waits()), around(tmp_path / "work", ENVIRON))
    until(lambda: running.attempt.log == "ready\n")
    status = json.loads((tmp_path / "work/attempt/status.json").read_bytes())
    os.kill(status["pid"], signal.SIGKILL)

    result = running.end()

    assert (result["outcome"], result["reason"]) == ("lost", "the agent ended without a result (it was killed)")
    assert running.attempt.log == "ready\n"


class Refusing:
    """A storage that can be told to refuse all that it is asked."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.refuses = threading.Event()

    def __getattr__(self, name: str) -> object:
        method = getattr(self._storage, name)

        def call(*args: object, **how: object) -> object:
            if self.refuses.is_set():
                raise StorageError("the storage is on holiday")
            return method(*args, **how)

        return call


def test_run__storage_refuses_for_a_while__nothing_is_lost(storage: Storage, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    of = trial(f"echo ready; read line <{go}; echo $line; {WRITES}")
    lease = submit(storage, of)
    refusing = Refusing(storage)
    running = Running(refusing, lease, around(tmp_path / "work", ENVIRON))  # type: ignore[arg-type]
    attempt = Attempt(storage, of.key)
    until(lambda: attempt.log == "ready\n")

    refusing.refuses.set()
    go.write_text("while it refused\n")
    until((tmp_path / "work/attempt/result.json").exists)
    until(lambda: "the storage is on holiday" in running.courier._notes)
    refusing.refuses.clear()
    running.end()

    assert attempt.result["outcome"] == "succeeded"
    assert attempt.result["notes"] == ["the storage is on holiday"]
    assert attempt.log == "ready\nwhile it refused\n"
    assert attempt.get("outputs/out/metrics.json") == b'{"accuracy": 0.5}\n'


def test_run__storage_refuses_from_the_start__is_given_up(storage: Storage, tmp_path: Path) -> None:
    lease = submit(storage, trial())
    refusing = Refusing(storage)
    refusing.refuses.set()
    pace = dataclasses.replace(QUICK, patience=0.1)

    running = Running(refusing, lease, around(tmp_path / "work", ENVIRON, pace=pace))  # type: ignore[arg-type]

    assert until(lambda: running.code) == 1


class Slow:
    """A storage that takes an output only when it has heard two more heartbeats."""

    def __init__(self, storage: Storage, attempt: Attempt) -> None:
        self._storage = storage
        self._attempt = attempt

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def put_file(self, name: str, file: Path) -> None:
        first = _beat(self._attempt).beat
        until(lambda: _beat(self._attempt).beat >= first + 2)
        self._storage.put_file(name, file)


def test_run__outputs_take_long__the_heart_goes_on(storage: Storage, tmp_path: Path) -> None:
    of = trial(WRITES)
    lease = submit(storage, of)
    attempt = Attempt(storage, of.key)

    result = Running(Slow(storage, attempt), lease, around(tmp_path / "work", ENVIRON)).end()  # type: ignore[arg-type]

    assert result["outcome"] == "succeeded"
    assert _beat(attempt).phase == "ending"
    assert attempt.get("outputs/out/metrics.json") == b'{"accuracy": 0.5}\n'


class Full:
    """A storage beside a disk on which nothing more fits."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def get_file(self, name: str, file: Path) -> bool:
        error = OSError(errno.ENOSPC, "No space left on device")
        raise FileError(f"{name}: {error.strerror}") from error


def test_run__bundle_does_not_fit_on_the_disk__says_so_at_once(storage: Storage, tmp_path: Path) -> None:
    lease = submit(storage, trial())

    result = Running(Full(storage), lease, around(tmp_path / "work", ENVIRON)).end()  # type: ignore[arg-type]

    assert (result["outcome"], result["cause"]) == ("failed", "disk_full")
    assert result["reason"] == f"bundles/{lease.bundle}.tar: No space left on device"


def _nvidia_smi(folder: Path, answer: str) -> dict[str, str]:
    """Return an environment in which nvidia-smi finds one GPU, and shows ``answer`` as its use."""
    (folder / "bin").mkdir(exist_ok=True)
    tool = folder / "bin/nvidia-smi"
    new = tool.with_suffix(".new")
    new.write_text(f"#!/bin/sh\ncase $1 in *uuid*) echo '0, GPU-0, NVIDIA L4';; *) {answer};; esac\n")
    new.chmod(0o755)
    new.replace(tool)
    return {**ENVIRON, "PATH": f"{folder}/bin:{ENVIRON['PATH']}"}


def test_run__gpu_lost_while_training__is_lost_with_its_cause(storage: Storage, tmp_path: Path) -> None:
    environ = _nvidia_smi(tmp_path, "echo '40, 1024, 23034'")
    of = waits(resources=Resources(gpu=Gpu(count=1)))
    running = Running(storage, submit(storage, of), around(tmp_path / "work", environ))
    until(lambda: any(g["utilization"] for g in _beat(running.attempt).gpus) and running.attempt.log == "ready\n")
    _nvidia_smi(tmp_path, "echo 'Unable to determine the device handle for GPU0: GPU is lost.'; exit 15")

    result = running.end()

    assert (result["outcome"], result["cause"]) == ("lost", "gpu_lost")
    assert result["reason"] == (
        "a GPU was lost: nvidia-smi: Unable to determine the device handle for GPU0: GPU is lost."
    )
    assert result["gpus"] == [{"utilization": 0.4, "memory_used_bytes": 2**30, "memory_bytes": 23034 * 2**20}]
    assert result["hardware"]["gpus"] == ["NVIDIA L4"]


def test_run__failed_and_the_driver_blames_the_hardware__is_lost(storage: Storage, tmp_path: Path) -> None:
    environ = _nvidia_smi(tmp_path, "echo '40, 1024, 23034'")
    dmesg = tmp_path / "bin/dmesg"
    dmesg.write_text("#!/bin/sh\necho '[ 812.3] NVRM: Xid (PCI:0000:00:1e): 79, GPU has fallen off the bus.'\n")
    dmesg.chmod(0o755)
    of = trial("exit 1", resources=Resources(gpu=Gpu(count=1)))

    result = Running(storage, submit(storage, of), around(tmp_path / "work", environ)).end()

    assert (result["outcome"], result["cause"]) == ("lost", "gpu_lost")
    assert result["reason"] == "a GPU was lost: the driver reported Xid 79 (the training exited with code 1)"


def test_run__fewer_gpus_than_asked__is_lost_at_once(storage: Storage, tmp_path: Path) -> None:
    environ = _nvidia_smi(tmp_path, "echo '40, 1024, 23034'")
    of = trial("true", resources=Resources(gpu=Gpu(count=2)))

    result = Running(storage, submit(storage, of), around(tmp_path / "work", environ)).end()

    assert (result["outcome"], result["cause"]) == ("lost", "gpu_lost")
    assert result["reason"] == "2 GPU(s) are asked for, and this machine shows 1 (nvidia-smi)"


def test_run__gpu_that_idles__is_told(storage: Storage, tmp_path: Path) -> None:
    environ = _nvidia_smi(tmp_path, "echo '0, 1024, 23034'")
    of = waits(resources=Resources(gpu=Gpu(count=1)))
    running = Running(storage, submit(storage, of), around(tmp_path / "work", environ))

    until(lambda: _beat(running.attempt).idle_share == 1.0)
    storage.put(objects.attempt(of.key, 1, "cancel.json"), b"{}")

    assert running.end()["idle_share"] == 1.0


def test_run__no_output__names_the_cause(storage: Storage, tmp_path: Path) -> None:
    of = waits(budget=Budget(no_output_s=0.2))

    result = Running(storage, submit(storage, of), around(tmp_path / "work", ENVIRON)).end()

    assert (result["outcome"], result["reason"]) == ("timed_out", "printed nothing for 0.2s (no_output)")
    assert result["cause"] == "no_output"


def test_run__training_on_a_full_disk__names_the_cause(storage: Storage, tmp_path: Path) -> None:
    result = Running(storage, submit(storage, trial("echo x >/dev/full")), around(tmp_path / "work", ENVIRON)).end()

    assert (result["outcome"], result["cause"]) == ("failed", "disk_full")
    assert result["reason"] == "the disk is full (the training exited with code 1)"


def test_run__data_that_is_not_what_was_pinned__names_the_cause(storage: Storage, tmp_path: Path) -> None:
    held = Objects()
    data = Data(name="train", uri="data.csv", version="sha256:" + "0" * 64)
    of = trial("true", [held.file("data.csv", "1,2\n")], data=(data,))

    result = Running(storage, submit(storage, of, held), around(tmp_path / "work", ENVIRON)).end()

    assert (result["outcome"], result["cause"]) == ("failed", "data")


def test_run__secret_that_is_not_in_ssm__fails_without_a_start(storage: Storage, tmp_path: Path) -> None:
    of = trial("echo never", environment=Environment(secrets=("HF_TOKEN",)))

    result = Running(storage, submit(storage, of), around(tmp_path / "work", ENVIRON)).end()

    assert (result["outcome"], result["reason"]) == ("failed", "the secrets HF_TOKEN were not handed over")
    assert Attempt(storage, of.key).log == "gitops-ml: the secrets HF_TOKEN were not handed over\n"


def _beat(attempt: Attempt) -> Heartbeat:
    return objects.heartbeat_from(
        attempt.get("heartbeat.json") or b'{"format": 1, "at": 0, "beat": 0, "phase": "", "state": ""}'
    )

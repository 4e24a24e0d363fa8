"""GPUs as nvidia-smi shows them: what they do, and when one is lost."""

import os
from pathlib import Path

import pytest

from gitops_ml.agent.gpus import GpuWatch


class Smi:
    """An nvidia-smi that says what it is told to say."""

    def __init__(self, folder: Path) -> None:
        self._tool = folder / "nvidia-smi"
        self.environ = {"PATH": f"{folder}:{os.environ['PATH']}"}
        self.says("exit 0")

    def says(self, script: str) -> None:
        self._tool.write_text(f"#!/bin/sh\n{script}\n")
        self._tool.chmod(0o755)


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    return Smi(tmp_path)


def test_look__while_training__tells_use_and_idle_share(smi: Smi) -> None:
    watch = GpuWatch(smi.environ)
    smi.says("printf '0, 10, 100\\n[N/A], 20, 100\\n'")
    watch.look(training=False)
    watch.look(training=True)
    smi.says("printf '0, 10, 100\\n75, 20, 100\\n'")
    for _ in range(3):
        watch.look(training=True)

    assert watch.newest[1] == {"utilization": 0.75, "memory_used_bytes": 20 * 2**20, "memory_bytes": 100 * 2**20}
    assert watch.idle_share == 0.25
    assert watch.lost is None


def test_look__no_tool__is_no_gpu(tmp_path: Path) -> None:
    watch = GpuWatch({"PATH": str(tmp_path)})
    for _ in range(3):
        watch.look(training=True)

    assert (watch.newest, watch.idle_share, watch.lost) == ((), None, None)


@pytest.mark.parametrize(
    ("script", "lost"),
    [
        ("echo 'GPU is lost.  Reboot the system to recover this GPU'; exit 15",
         "nvidia-smi: GPU is lost.  Reboot the system to recover this GPU"),
        ("exit 9", "nvidia-smi: exit code 9"),
        ("echo '0, 1, 2'", "1 of 2 GPUs are gone from nvidia-smi"),
        ("exec tail -f /dev/null", "nvidia-smi did not answer within 0.2 s"),
    ],
)  # fmt: skip
def test_look__twice_without_an_answer__is_lost(smi: Smi, script: str, lost: str) -> None:
    watch = GpuWatch(smi.environ, timeout_s=0.2)
    smi.says("printf '0, 1, 2\\n0, 1, 2\\n'")
    while not watch.newest:  # a busy machine may need longer than the timeout
        watch.look(training=False)
    smi.says(script)

    watch.look(training=True)
    once = watch.lost
    while watch.lost is None:
        watch.look(training=True)

    assert once is None
    assert watch.lost in (lost, "nvidia-smi did not answer within 0.2 s")


def test_look__one_bad_answer_in_between__is_forgiven(smi: Smi) -> None:
    watch = GpuWatch(smi.environ)
    for _ in range(3):
        smi.says("echo '0, 1, 2'")
        watch.look(training=True)
        smi.says("exit 9")
        watch.look(training=True)

    assert watch.lost is None

"""Causes: what the machine knows of a failure besides the exit code."""

from pathlib import Path

import pytest

from gitops_ml.agent.causes import Causes
from gitops_ml.agent.processes import Ending

EXITED = Ending(outcome="failed", reason="the training exited with code 1", exit_code=1)
KILLED = Ending(
    outcome="failed", reason="the training was killed (SIGKILL); often the machine was out of memory", exit_code=-9
)


def test_explained__kernel_ended_a_process__is_out_of_memory(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 1\noom_kill 3\nother 1\n")
    causes = Causes(tmp_path, vmstat=vmstat)
    vmstat.write_text("pgfault 2\noom_kill 4\nother 1\n")

    found = causes.explained(KILLED, "")

    assert (found.outcome, found.cause, found.exit_code) == ("failed", "out_of_memory", -9)
    assert found.reason == ("the machine ran out of memory, and the kernel ended a process (the training was killed)")


@pytest.mark.parametrize(
    ("tail", "cause", "reason"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "gpu_out_of_memory",
            "the GPU ran out of memory (the training exited with code 1)",
        ),
        (
            "OSError: [Errno 28] No space left on device: 'ckpt/a'",
            "disk_full",
            "the disk is full (the training exited with code 1)",
        ),
        ("ValueError: nothing of the sort", "", "the training exited with code 1"),
    ],
)
def test_explained__by_what_it_printed__is_named(tmp_path: Path, tail: str, cause: str, reason: str) -> None:
    found = Causes(tmp_path, vmstat=tmp_path / "none").explained(EXITED, tail)

    assert (found.cause, found.reason) == (cause, reason)


def test_explained__killed_and_nothing_known__stays(tmp_path: Path) -> None:
    assert Causes(tmp_path, vmstat=tmp_path / "none").explained(KILLED, "") == KILLED


def test_explained__that_did_not_fail__stays(tmp_path: Path) -> None:
    ending = Ending(outcome="timed_out", reason="ran longer than max_duration (1h)", cause="max_duration")

    assert Causes(tmp_path).explained(ending, "No space left on device") == ending

"""Why a training failed, where the machine knows more than the exit code says."""

import dataclasses
import re
import shutil
from pathlib import Path

from gitops_ml.agent.processes import Ending

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|\bENOSPC\b")
_GPU_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|HIP out of memory"
    r"|RESOURCE_EXHAUSTED: (?:XLA:GPU )?[Oo]ut of memory"
)
_FULL_BYTES = 2**20
_VMSTAT = Path("/proc/vmstat")


class Causes:
    """Remembers how the machine was before the training, to see afterwards what happened to it."""

    def __init__(self, folder: Path, *, vmstat: Path = _VMSTAT) -> None:
        self._folder = folder
        self._vmstat = vmstat
        self._killed_before = self._killed()

    def explained(self, ending: Ending, tail: str) -> Ending:
        """Return the ending of a training that failed by itself with its cause, if there is one to be seen.

        Args:
            ending: how it ended, without a cause.
            tail: the last that it printed.
        """
        if ending.outcome != "failed" or ending.cause:
            return ending
        if self._killed() > self._killed_before:
            return _because(ending, "out_of_memory", "the machine ran out of memory, and the kernel ended a process")
        if _GPU_MEMORY.search(tail):
            return _because(ending, "gpu_out_of_memory", "the GPU ran out of memory")
        if _NO_SPACE.search(tail) or self._full():
            return _because(ending, "disk_full", "the disk is full")
        return ending

    def _killed(self) -> int:
        """Return how many processes the kernel has ended for want of memory since the machine started."""
        try:
            found = re.search(r"^oom_kill (\d+)$", self._vmstat.read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0

    def _full(self) -> bool:
        try:
            return shutil.disk_usage(self._folder).free < _FULL_BYTES
        except OSError:
            return False


def _because(ending: Ending, cause: str, words: str) -> Ending:
    reason = ending.reason.partition(" (SIGKILL); often")[0]
    return dataclasses.replace(ending, reason=f"{words} ({reason})", cause=cause)

"""What this machine is, and GPUs of it for one trial at a time."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitops_ml.agent.files import Lock


def hardware(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Return the machine's class, CPUs that we may use, memory, and the names of the GPUs given to the trial."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = None
    with contextlib.suppress(ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"machine": _cpu(), "cpus": cpus, "memory_bytes": memory, "gpus": list(gpus)}


def _cpu() -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "model name" and value.strip():
                    return value.strip()
    elif sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10).stdout.strip()
            if found:
                return found
    return platform.processor() or platform.machine()


def visible_gpus(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the machine's GPUs as identity -> name, without those that CUDA_VISIBLE_DEVICES hides from us."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode != 0:
        return {}
    rows = [
        [field.strip() for field in line.split(",", 2)] for line in done.stdout.splitlines() if line.count(",") >= 2
    ]
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return {uuid: name for _, uuid, name in rows}
    wanted = [word.strip() for word in shown.split(",") if word.strip()]
    return {
        u: n for i, u, n in rows if any(word == i or (not word.isdecimal() and u.startswith(word)) for word in wanted)
    }


class Gpus:
    """GPUs held for one trial; the locks are freed when the agent ends, however it ends."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self._folder = folder
        self._names = dict(names)
        self._locks: dict[str, Lock] = {}

    @property
    def known(self) -> int:
        """How many GPUs there are to take from."""
        return len(self._names)

    @property
    def held(self) -> dict[str, str]:
        """Identity -> name of the GPUs that we hold."""
        return {identity: self._names[identity] for identity in self._locks}

    def acquire(self, count: int, wait: Callable[[float], None]) -> None:
        """Take that many GPUs, all or none at a time, calling ``wait(seconds)`` between tries."""
        while not self._try(count):
            wait(0.5)

    def _try(self, count: int) -> bool:
        for identity in self._names:
            if len(self._locks) == count:
                break
            lock = Lock(self._folder / f"{identity}.lock")
            if lock.try_acquire():
                self._locks[identity] = lock
        if len(self._locks) == count:
            return True
        # Two trials that each hold one of two GPUs and want two would wait for ever.
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()
        return False

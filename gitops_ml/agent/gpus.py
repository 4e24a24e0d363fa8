"""What the GPUs do while a training runs, by nvidia-smi: use, memory, how long none worked, and whether one is lost."""

import re
import subprocess
from collections.abc import Mapping
from typing import Any

_QUERY = "utilization.gpu,memory.used,memory.total"
_MIB = 2**20
_BROKEN = frozenset({48, 64, 74, 79, 95, 119, 120, 140})
"""Xid codes of hardware: memory that cannot be corrected, a link, a GPU off the bus, its own processor. Most others are
the training's doing. Source: NVIDIA, "XID Errors"."""


class GpuWatch:
    """Asked now and then by one thread."""

    def __init__(self, environ: Mapping[str, str], *, timeout_s: float = 30.0) -> None:
        self._environ = dict(environ)
        self._timeout_s = timeout_s
        self._most = 0
        self._failures = 0
        self._samples = 0
        self._idle = 0
        self.lost: str | None = None
        """Why a GPU that was there cannot be used any more; two looks in a row must say so."""
        self.newest: tuple[Mapping[str, Any], ...] = ()

    @property
    def idle_share(self) -> float | None:
        """Share of the looks while training in which no GPU worked; None: there is no GPU, or nobody looked."""
        return round(self._idle / self._samples, 3) if self._samples else None

    def look_closely(self) -> None:
        """Look as often as it takes to be sure, after a training that failed: a lost GPU may be why."""
        for _ in range(2):
            self.look(training=False)
        if self.lost is None and self._most:
            self.lost = self._fault()

    def look(self, *, training: bool) -> None:
        """Look once; only looks while training count for the idle share."""
        found = self._ask()
        if isinstance(found, str):
            self._failures += self._most > 0
            if self._failures >= 2:
                self.lost = found
            return
        if len(found) < self._most:
            self._failures += 1
            if self._failures >= 2:
                self.lost = f"{self._most - len(found)} of {self._most} GPUs are gone from nvidia-smi"
            return
        self._failures = 0
        self._most = len(found)
        self.newest = found
        if training and found:
            self._samples += 1
            self._idle += all(not gpu["utilization"] for gpu in found)

    def _fault(self) -> str | None:
        """Return what the driver told the kernel of broken hardware."""
        try:
            done = subprocess.run(
                ["dmesg"], check=False, capture_output=True, text=True, errors="replace", timeout=10, env=self._environ
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        codes = [int(code) for code in re.findall(r"NVRM: Xid \([^)]*\): (\d+)", done.stdout)]
        return next((f"the driver reported Xid {code}" for code in reversed(codes) if code in _BROKEN), None)

    def _ask(self) -> tuple[Mapping[str, Any], ...] | str:
        """Return what each GPU does, or what went wrong. A machine without the tool has no GPU."""
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=self._timeout_s, env=self._environ
            )
        except FileNotFoundError:
            return ()
        except OSError as error:
            return f"nvidia-smi cannot be run: {error}"
        except subprocess.TimeoutExpired:
            return f"nvidia-smi did not answer within {self._timeout_s:g} s"
        if done.returncode != 0:
            said = (done.stdout.strip() or done.stderr.strip()).splitlines()
            return f"nvidia-smi: {said[-1][:200] if said else f'exit code {done.returncode}'}"
        return tuple(_gpu(line) for line in done.stdout.splitlines() if line.count(",") == 2)


def _gpu(line: str) -> Mapping[str, Any]:
    use, used, total = (_number(field) for field in line.split(","))
    return {
        "utilization": None if use is None else use / 100,
        "memory_used_bytes": None if used is None else int(used * _MIB),
        "memory_bytes": None if total is None else int(total * _MIB),
    }


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:  # "[N/A]", "[GPU is lost]"
        return None

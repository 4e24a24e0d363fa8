"""What the benchmarks share: time commands side by side, find the peers, print a line per claim."""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TOP = Path(__file__).parents[1]
LIMIT_S = 120.0


def peer(name: str) -> str:
    """Return the path of a peer's program."""
    places = [TOP / ".venv-bench" / "bin", Path(sys.executable).parent]
    for place in places:
        if (place / name).exists():
            return str(place / name)
    if path := shutil.which(name):
        return path
    sys.exit(f"{name} is not installed; `make bench` installs the peers into .venv-bench")


def medians(commands: Mapping[str, Callable[[], object]], repeats: int) -> Mapping[str, float]:
    """Return each command's median in seconds; taken in turns, so that a busy moment hits all alike.

    The first round is thrown away: it reads the files from disk.
    """
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            command()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def process(*words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, fine: Sequence[int] = (0,)):
    """Return a function that runs the command line as a process of its own and fails if it does."""

    def call() -> bytes:
        done = subprocess.run(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
        )
        if done.returncode not in fine:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
        return done.stdout

    return call


def ratio(what: str, ours_s: float, theirs_s: float, *, least: float) -> bool:
    """Print one comparison of times, and return whether ours is at least that many times faster."""
    times = theirs_s / ours_s
    met = times >= least
    print(
        f"{what:<44} ours {ours_s * 1000:8.0f} ms   theirs {theirs_s * 1000:8.0f} ms   {times:5.1f} x"
        f"   target {least:g} x   {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def limit(what: str, found: float, most: float, unit: str) -> bool:
    """Print one measurement against its limit, and return whether it holds."""
    met = found <= most
    print(f"{what:<44} {found:10.1f} {unit}   limit {most:g} {unit}   {'met' if met else 'MISSED'}", flush=True)
    return met

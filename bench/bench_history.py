"""History over a ledger of 10,000 records and 2,000 reports, as a process of its own each time.

``log --where`` warm (asked before, the ledger unchanged) and from a fresh clone over a local git server, ``verify``,
and what the ledger weighs; its growth per report is taken at a tenth of the size too. The quickest of some rounds
counts: the others say what else the machine was doing. The processor's time, ours and git's, says it too.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import ledgers
from bench.timing import TOP, limit, process
from tests.fakes.githttp import GitServer
from tests.fakes.repositories import ENVIRON, git, make_remote

REPORTS = 2000
WHERE = 'params.lr < 0.1 and metrics["accuracy"] > 0.95'
WARM_S, FRESH_S, VERIFY_S, MOST_MB, GROWTH = 1.0, 3.0, 60.0, 60.0, 1.15
WARM_REPEATS, FRESH_REPEATS = 7, 3


def main() -> int:
    """Generate the ledgers, then measure."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        small, large = _remote(top / "small.git", REPORTS // 10), _remote(top / "large.git", REPORTS)
        with GitServer(top).running() as server:
            url = f"{server.url}/large.git"
            header = ["-c", f"http.{server.url}/.extraheader={server.header()}"]
            return 0 if _measured(top, url, header, server, small, large) else 1


def _measured(top: Path, url: str, header: list[str], server: GitServer, small: Path, large: Path) -> bool:
    environ = {**ENVIRON, "PYTHONPATH": str(TOP)}
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{server.url}/.extraheader"}
    environ |= {**settings, "GIT_CONFIG_VALUE_0": server.header()}
    fresh, checkout, warm = [], [], []
    found = b""
    clone = top / "clone"
    for _ in range(FRESH_REPEATS):
        # As a CI checkout, main alone: the command itself has to bring the ledger. Then as `git clone` does it.
        for options, times in ((["--single-branch"], checkout), ([], fresh)):
            shutil.rmtree(clone, ignore_errors=True)
            words = ["git", *header, "clone", "-q", "-b", "main", *options, url, str(clone)]
            subprocess.run(words, env=ENVIRON, check=True, timeout=120)
            found = _timed(times, lambda: _log(clone, environ))
    for _ in range(WARM_REPEATS):
        assert _timed(warm, lambda: _log(clone, environ)) == found
    verify: list[tuple[float, float]] = []
    checked = json.loads(_timed(verify, _ours(clone, environ, "verify", "--format", "json")))
    print(f"{len(json.loads(found))} rows of {REPORTS} fit; verify saw {checked['records']} records")
    assert checked["records"] == REPORTS * ledgers.SEEDS
    assert checked["reports"] == REPORTS
    assert not checked["findings"], checked["findings"][:3]
    print(f"a clone of main alone, which has to fetch the ledger first: {min(checkout)[0]:.1f} s")
    for name, times in (("warm", warm), ("fresh", fresh), ("main alone", checkout), ("verify", verify)):
        print(f"processor's time, {name}: {min(cpu for _, cpu in times):.2f} s")
    print(f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    bytes_large = ledgers.sizes(large)
    growth = bytes_large / REPORTS / (ledgers.sizes(small) / (REPORTS // 10))
    return all(
        (
            limit("log --where, warm", min(warm)[0], WARM_S, "s"),
            limit("log --where, from a fresh clone", min(fresh)[0], FRESH_S, "s"),
            limit("verify", min(verify)[0], VERIFY_S, "s"),
            limit("the ledger, packed", bytes_large / 1e6, MOST_MB, "MB"),
            limit("bytes per report, against a tenth of it", growth, GROWTH, "x"),
        )
    )


def _timed(times: list[tuple[float, float]], command: Callable[[], bytes]) -> bytes:
    """Run the command, and note how long it took and what of that the processor worked for it."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = command()
    taken, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    times.append((taken, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime))
    return said


def _remote(folder: Path, reports: int) -> Path:
    make_remote(folder)
    source = folder.parent / f"source-{folder.stem}"
    source.mkdir()
    git(source, "init", "-q", "-b", "main")
    (source / "train.py").write_text("print('trained')\n")
    git(source, "add", "-A")
    git(source, "commit", "-q", "-m", "begin")
    git(source, "push", "-q", folder.as_uri(), "main")
    ledgers.write(folder, reports)
    return folder


def _ours(clone: Path, environ: dict[str, str], *words: str):
    return process(sys.executable, "-m", "gitops_ml", *words, cwd=clone, env=environ)


def _log(clone: Path, environ: dict[str, str]) -> bytes:
    return _ours(clone, environ, "log", "--where", WHERE, "--format", "json")()


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())

"""200 experiments recorded by 20 processes at once, each with its own clone, against one git server on loopback.

Each pushes all its ten at once; whoever comes second builds its commit again on the new tip.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ledgers
from bench.timing import TOP, limit
from tests.fakes.githttp import GitServer
from tests.fakes.repositories import ENVIRON, git, make_remote, make_repository

PROCESSES, EACH = 20, 10
MOST_S = 60.0

WRITER = """
import json, os, sys
from pathlib import Path
from gitops_ml.git import Repository
from gitops_ml.ledger import Results
with Repository.find(Path.cwd(), os.environ) as repository:
    results = Results(repository, remote="origin", branch=sys.argv[1])
    results.keep({path: text.encode() for path, text in json.load(sys.stdin).items()})
    results.push("Add results [skip ci]", [repository.head().commit])
"""


def main() -> int:
    """Start all at once, and count what is recorded."""
    with tempfile.TemporaryDirectory() as folder, GitServer(Path(folder)).running() as server:
        remote = make_remote(Path(folder, "large.git"))
        work = make_repository(Path(folder, "work"), {"train.py": "pass"}, remote=remote)
        clones = [Path(folder, f"clone-{number}") for number in range(PROCESSES)]
        for clone in clones:
            git(work.parent, "clone", "-q", remote.as_uri(), str(clone))
            git(clone, "remote", "set-url", "origin", f"{server.url}/large.git")
            git(clone, "config", f"http.{server.url}/.extraheader", server.header())
        shares = [_share(number) for number in range(PROCESSES)]
        began = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, ledgers.BRANCH],
                cwd=clone,
                env={**ENVIRON, "PYTHONPATH": str(TOP)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            for clone in clones
        ]
        for process, share in zip(running, shares, strict=True):
            assert process.stdin is not None
            process.stdin.write(share)
            process.stdin.close()
        codes = [process.wait(timeout=300) for process in running]
        taken = time.perf_counter() - began
        paths = git(remote, "ls-tree", "-r", "--name-only", ledgers.BRANCH).splitlines()
        reports = [path for path in paths if path.endswith("/report.json")]
        records = [path for path in paths if path.endswith("/record.json")]
        print(f"{len(reports)} reports and {len(records)} records of {PROCESSES} processes are there, each once")
        assert codes == [0] * PROCESSES, codes
        assert len(reports) == PROCESSES * EACH
        assert len(records) == PROCESSES * EACH * ledgers.SEEDS
        return 0 if limit(f"{PROCESSES * EACH} experiments by {PROCESSES} processes", taken, MOST_S, "s") else 1


def _share(number: int) -> bytes:
    files: dict[str, bytes] = {}
    for each in range(EACH * number, EACH * number + EACH):
        files |= ledgers.report(each)
    return json.dumps({path: data.decode() for path, data in files.items()}).encode()


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())

"""`log` over 500 commits against `dvc exp show -A`, each on a repository of its own kind with the same numbers.

As in a fresh clone, which is what CI has; and asked again, when both have kept what they read of each commit.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import ledgers
from bench.timing import TOP, medians, peer, process, ratio
from gitops_ml.planning import digest
from gitops_ml.records import json_bytes, record_to_json
from tests.fakes import runs
from tests.fakes.repositories import ENVIRON, git

COMMITS = 500
REPEATS, REPEATS_AGAIN = 2, 5
LEAST, LEAST_AGAIN = 20.0, 3.0

STAGE = """\
stages:
  train:
    cmd: python train.py
    params: [lr]
    metrics: [metrics.json: {cache: false}]
"""


def main() -> int:
    """Make both histories, then ask."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = _dvc(Path(folder, "dvc")), _ledger(Path(folder, "ours"))
        environ = {**ENVIRON, "DVC_NO_ANALYTICS": "1"}
        show = process(peer("dvc"), "exp", "show", "-A", "--json", cwd=theirs, env=environ)
        log = process(
            *(sys.executable, "-m", "gitops_ml", "log", "--offline", "--format", "json"),
            cwd=ours,
            env={**ENVIRON, "PYTHONPATH": str(TOP)},
        )
        assert len(json.loads(log())) == COMMITS
        assert len(json.loads(show())) >= COMMITS
        fresh = medians(
            {"ours": _fresh(log, ours / ".gitops-ml"), "theirs": _fresh(show, theirs / ".dvc/tmp")}, REPEATS
        )
        again = medians({"ours": log, "theirs": show}, REPEATS_AGAIN)
        met = [
            ratio(f"history of {COMMITS} commits, fresh", fresh["ours"], fresh["theirs"], least=LEAST),
            ratio(f"history of {COMMITS} commits, again", again["ours"], again["theirs"], least=LEAST_AGAIN),
        ]
        return 0 if all(met) else 1


def _fresh(command: Callable[[], bytes], kept: Path) -> Callable[[], bytes]:
    """Return the command without what it kept earlier; removing it takes a moment for either."""

    def call() -> bytes:
        shutil.rmtree(kept, ignore_errors=True)
        return command()

    return call


def _values(number: int) -> tuple[float, float]:
    return round(0.001 * (1 + number), 4), round(0.9 + number % 90 / 1000, 4)


def _repository(folder: Path, stream: list[bytes]) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, input=b"".join(stream), check=True, timeout=120)
    git(folder, "reset", "-q", "--hard", "main")
    return folder


def _commit(branch: str, number: int, files: dict[str, bytes]) -> bytes:
    head = f"commit refs/heads/{branch}\ncommitter A <a@example.org> {1_700_000_000 + number} +0000\ndata 1\nx\n"
    lines = [f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n" for path, data in files.items()]
    return head.encode() + b"".join(lines)


def _dvc(folder: Path) -> Path:
    stream = []
    for number in range(COMMITS):
        lr, accuracy = _values(number)
        files = {"params.yaml": f"lr: {lr}\n".encode(), "metrics.json": json.dumps({"accuracy": accuracy}).encode()}
        if number == 0:
            files |= {"dvc.yaml": STAGE.encode(), "train.py": b"pass\n", ".dvc/config": b"", ".dvcignore": b""}
            files[".dvc/.gitignore"] = b"/tmp\n/cache\n/config.local\n"
        stream.append(_commit("main", number, files))
    return _repository(folder, stream)


def _ledger(folder: Path) -> Path:
    work = _repository(folder, [_commit("main", n, {"train.py": f"pass  # {n}\n".encode()}) for n in range(COMMITS)])
    files = {}
    for number, commit in enumerate(git(work, "rev-list", "--reverse", "main").splitlines()):
        lr, accuracy = _values(number)
        trial = runs.trial(runs.experiment(params={"lr": lr}))
        record = runs.record(trial, {"accuracy": accuracy})
        document = {**record.document, "code": digest(commit)}
        key = digest(document)
        attempt = dataclasses.replace(record.attempt, key=key, commit=commit)
        record = dataclasses.replace(record, key=key, document=document, attempt=attempt, commit=commit)
        files[f"records/{key[:2]}/{key}/record.json"] = json_bytes(record_to_json(record))
    ledger = f"remotes/origin/{ledgers.BRANCH}"
    stream = _commit(ledger, 0, files).replace(b"refs/heads/remotes", b"refs/remotes", 1)
    subprocess.run(["git", "fast-import", "--quiet"], cwd=work, input=stream, check=True, timeout=120)
    return work


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())

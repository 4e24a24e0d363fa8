"""`comment` from start to exit against a forge on loopback: time, memory, requests.

The closest peer needs 1.39 s and 153 MB for one comment (measured on two cores, with its own fake server). Ours is a
process of its own that reads what `report --out` left, finds its comment among 90 others, edits it and sets a status.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.bench_import import example
from bench.timing import LIMIT_S, limit, medians, process
from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.records import json_bytes
from tests.fakes import comparisons
from tests.fakes.forges import GithubPlace, GitlabPlace
from tests.fakes.github import FakeGitHub
from tests.fakes.gitlab import FakeGitLab

MOST_MS = 600.0
MOST_MB = 90.0
MOST_REQUESTS = {"github": 4, "gitlab": 7}
REPEATS = 9
PROGRAM = """
import os, pathlib, resource, sys
from gitops_ml.main import main
from gitops_ml.tools import Tools
code = main(sys.argv[1:], Tools(cwd=pathlib.Path.cwd(), environ=os.environ, out=sys.stderr))
if code:
    sys.exit(f"exit code {code}")
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    """Print time, memory and requests per forge; the limits are those for GitHub."""
    held = True
    with tempfile.TemporaryDirectory(prefix="gitops-ml-bench-") as name:
        repository = example(Path(name) / "repository")
        remote = Path(name) / "remote.git"
        for words in (["init", "--quiet", "--bare", str(remote)], ["remote", "add", "origin", str(remote)]):
            subprocess.run(["git", *words], cwd=repository, check=True, timeout=LIMIT_S)
        left = Path(name) / "left"
        left.mkdir()
        comparison = comparisons.comparison(comparisons.experiment())
        (left / "comparison.json").write_bytes(json_bytes(comparison_to_json(comparison, curves=True)))
        for fake, kind in ((FakeGitHub(), GithubPlace), (FakeGitLab(), GitlabPlace)):
            with fake.running():
                there = kind(fake)
                there.push(comparison.head.commit)
                for number in range(90):
                    there.add_foreign(f"comment {number}")
                held &= measure(there, repository, left, judged=there.name == "github")
    return 0 if held else 1


def measure(there, repository: Path, left: Path, *, judged: bool) -> bool:
    """Measure one forge; what is not judged is only shown."""
    runs = iter(range(1, 10_000))

    def call() -> tuple[int, float]:
        # Every run is a newer one, so each time the comment is edited.
        env = there.environ(run=next(runs)) | {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        program = PROGRAM
        words = (sys.executable, "-c", program, "comment", "--from", str(left))
        code, kib = process(*words, cwd=repository, env=env)().split()
        return int(code), int(kib) / 1024

    call()
    there.fake.calls.clear()
    _, memory_mb = call()
    requests = len(there.fake.calls)
    assert len(there.own()) == 1, "there is not exactly one comment"
    found = medians({there.name: call}, REPEATS)[there.name] * 1000
    if not judged:
        print(f"{there.name}: {found:.0f} ms, {memory_mb:.0f} MB, {requests} requests")
        return requests <= MOST_REQUESTS[there.name]
    return all(
        [
            limit(f"{there.name}: start to exit", found, MOST_MS, "ms"),
            limit(f"{there.name}: memory", memory_mb, MOST_MB, "MB"),
            limit(f"{there.name}: requests", requests, MOST_REQUESTS[there.name], ""),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

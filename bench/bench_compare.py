"""Comparing two commits beside `dvc metrics diff`, on the same metrics: at least 3 times faster.

Both read the same values from the same repository: DVC from the metrics file in git, gitops-ml from the records that
its own run of both commits left. DVC subtracts; gitops-ml also plans both sides, matches keys and judges every metric.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.timing import LIMIT_S, medians, peer, process, ratio

LEAST = 3.0
REPEATS = 7


def main() -> int:
    """Compare with 5 and with 1,000 metrics."""
    held = True
    for count, more in ((5, ()), (1000, ("--md",))):
        with tempfile.TemporaryDirectory(prefix="gitops-ml-bench-") as name:
            repository = Path(name)
            env = environment(repository)
            build(repository, count, env)
            compare = (sys.executable, "-m", "gitops_ml", "compare", "main~1", "main", "--offline", "--format")
            ours = process(*compare, "md" if more else "text", cwd=repository, env=env, fine=(0, 1))
            theirs = process(peer("dvc"), "metrics", "diff", "--all", *more, "main~1", "main", cwd=repository, env=env)
            # Markdown keeps within a comment's size, so that all was compared shows in the JSON.
            judged = process(*compare, "json", cwd=repository, env=env, fine=(0, 1))
            check(judged().decode(), theirs().decode(), count)
            found = medians({"ours": ours, "theirs": theirs}, REPEATS)
            what = f"{count} metrics" + (f" ({' '.join(more)})" if more else "")
            held &= ratio(what, found["ours"], found["theirs"], least=LEAST)
    return 0 if held else 1


def environment(repository: Path) -> dict[str, str]:
    """Return an environment without the user's git configuration and without DVC's calls home."""
    person = {
        f"GIT_{role}_{field}": "bench@example.invalid"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIT_", "CI", "GITHUB_", "GITLAB_"))
        },
        **person,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(repository / ".dvc-site"),
    }


def build(repository: Path, count: int, env: Mapping[str, str]) -> None:
    """Make two commits whose metrics differ, known to DVC and trained by gitops-ml."""

    def call(*words: str) -> None:
        subprocess.run(words, cwd=repository, env=env, check=True, capture_output=True, timeout=LIMIT_S)

    call("git", "init", "--quiet", "--initial-branch=main")
    call(peer("dvc"), "init", "--quiet")
    names = [f"group{index % 10}_metric{index}" for index in range(count)]
    track = "".join(f"    - {{name: {name}, goal: maximize}}\n" for name in names)
    (repository / "dvc.yaml").write_text("metrics:\n  - metrics.json\n", encoding="utf-8")
    (repository / ".gitignore").write_text(".dvc-site/\nout/\n", encoding="utf-8")
    (repository / "experiment.yaml").write_text(
        "version: 1\nname: copied\nrun: mkdir -p out && cp metrics.json out/metrics.json\n"
        f"metrics:\n  read: [out/metrics.json]\n  track:\n{track}",
        encoding="utf-8",
    )
    generator = random.Random(0)
    for commit in ("before", "after"):
        values = {name: round(generator.uniform(0, 1), 6) for name in names}
        (repository / "metrics.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        call("git", "add", "--all")
        call("git", "commit", "--quiet", "--message", commit)
        call(sys.executable, "-m", "gitops_ml", "run")


def check(ours: str, theirs: str, count: int) -> None:
    """Make sure that both did the work: every metric stands in both answers."""
    for who, text in (("gitops-ml", ours), ("dvc", theirs)):
        for index in range(count):
            if f"group{index % 10}_metric{index}" not in text:
                sys.exit(f"{who} does not show metric {index}; nothing was measured:\n{text[:2000]}")


if __name__ == "__main__":
    sys.exit(main())

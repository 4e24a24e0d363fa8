"""`validate` beside `check-jsonschema`: one spec no slower, 1,000 specs at least 3 times faster (aim: 5).

Both judge the same files by the same schema, as processes and in turns. check-jsonschema stops there; gitops-ml also
knows lines and columns, looks the files up, resolves templates and compares names.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import LIMIT_S, TOP, medians, peer, process, ratio

SCHEMA = TOP / "schemas" / "experiment.v1.schema.json"
SPEC = TOP / "examples" / "digits" / "experiment.yaml"
COUNTS = {1: (1.0, 9), 1000: (3.0, 3)}
"""For so many specs: the least ratio, and how often it is measured."""


def main() -> int:
    """Print both tools' medians for one spec and for 1,000."""
    held = True
    for count, (least, repeats) in COUNTS.items():
        with tempfile.TemporaryDirectory(prefix="gitops-ml-bench-") as name:
            repository = Path(name)
            paths = build(repository, count)
            env = {**os.environ, "PYTHONPATH": str(TOP)}
            ours = process(sys.executable, "-m", "gitops_ml", "validate", *paths, cwd=repository, env=env)
            theirs = process(peer("check-jsonschema"), "--schemafile", str(SCHEMA), *paths, cwd=repository, env=env)
            if not ours().startswith(f"{count} spec".encode()):
                sys.exit("gitops-ml did not judge all specs")
            found = medians({"ours": ours, "theirs": theirs}, repeats)
            held &= ratio(f"{count} spec{'s' if count > 1 else ''}", found["ours"], found["theirs"], least=least)
    return 0 if held else 1


def build(repository: Path, count: int) -> list[str]:
    """Copy the digits example, with so many specs that differ in name and learning rate; return their paths."""
    shutil.copytree(TOP / "examples" / "digits", repository, dirs_exist_ok=True)
    (repository / "experiment.yaml").unlink()
    (repository / "experiments").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True, timeout=LIMIT_S)
    text = SPEC.read_text(encoding="utf-8")
    paths = []
    for number in range(count):
        path = f"experiments/digits-{number}.yaml"
        spec = text.replace("name: digits-mlp", f"name: digits-mlp-{number}").replace("lr: 0.1", f"lr: 0.{number + 1}")
        (repository / path).write_text(spec, encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    sys.exit(main())

"""What `--help`, `validate` and `plan` import: none of the heavy libraries, and how long they take beyond Python.

Each command is really run, in a copy of the digits example, and the modules are counted when it is done.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import LIMIT_S, TOP, limit, medians, process

HEAVY = ("numpy", "matplotlib", "scipy", "boto3", "botocore", "github", "gitlab", "requests")
MOST_MS = {"--help": 60.0, "validate": 200.0, "plan": 500.0}
REPEATS = 9
PROGRAM = """
import os, pathlib, sys
from gitops_ml.main import main
from gitops_ml.tools import Tools
code = main(sys.argv[1:], Tools(cwd=pathlib.Path.cwd(), environ=os.environ, out=open(os.devnull, "w")))
print(code, *[name for name in {heavy} if name in sys.modules])
"""


def main() -> int:
    """Print, per command, the heavy modules found and the time beyond a bare interpreter's."""
    held = True
    with tempfile.TemporaryDirectory(prefix="gitops-ml-bench-") as name:
        repository = example(Path(name) / "repository")
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP)}
        commands = {"": process(sys.executable, "-c", "", cwd=repository, env=env)}
        for words in MOST_MS:
            program = PROGRAM.format(heavy=HEAVY)
            commands[words] = process(sys.executable, "-c", program, words, cwd=repository, env=env)
            code, *loaded = commands[words]().decode().splitlines()[-1].split()
            held &= not loaded and code == "0"
            print(f"{words:<10} exit code {code}, of {', '.join(HEAVY)} it loads: {', '.join(loaded) or 'none'}")
        found = medians(commands, REPEATS)
    bare = found.pop("")
    print(f"a bare interpreter takes {bare * 1000:.0f} ms; beyond that:")
    for words, seconds in found.items():
        held &= limit(words, (seconds - bare) * 1000, MOST_MS[words], "ms")
    return 0 if held else 1


def example(repository: Path) -> Path:
    """Return a repository with the digits example, committed."""
    shutil.copytree(TOP / "examples" / "digits", repository)
    person = ["-c", "user.name=bench", "-c", "user.email=bench@example.invalid", "-c", "commit.gpgsign=false"]
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        [*person, "commit", "--quiet", "-m", "one"],
    ):
        subprocess.run(["git", *words], cwd=repository, check=True, timeout=LIMIT_S)
    return repository


if __name__ == "__main__":
    sys.exit(main())

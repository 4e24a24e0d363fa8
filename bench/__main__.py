"""Run all benchmarks, or those whose names are given: ``python -m bench compare plots``."""

import importlib
import os
import platform
import sys
from pathlib import Path

found = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
wanted = sys.argv[1:] or found
if unknown := [name for name in wanted if name not in found]:
    sys.exit(f"no benchmark is called `{unknown[0]}`; known are: {', '.join(found)}")

# With it, neither we nor the peers could keep what they compile, as they do wherever they are used.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
missed = []
for name in wanted:
    module = importlib.import_module(f"bench.bench_{name}")
    print(f"\n== {name}: {(module.__doc__ or '').strip().splitlines()[0]}\n", flush=True)
    if module.main():
        missed.append(name)
print(f"\ntargets missed in: {', '.join(missed)}" if missed else "\nall targets met")
sys.exit(1 if missed else 0)

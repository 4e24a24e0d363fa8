"""Ledgers of any size, written with ``git fast-import``: records, series and reports as our own code writes them."""

import dataclasses
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitops_ml import comparison, reports
from gitops_ml.ledger import record_path, report_path, series_path
from gitops_ml.planning import digest
from gitops_ml.records import Record, Scalar, Series, json_bytes, record_to_json, series_to_csv
from gitops_ml.spec import Gate, Goal, Track
from tests.fakes import runs

BRANCH = "gitops-ml/reports"
SEEDS = 5
"""Records of each report, so that 2,000 reports go with 10,000 records."""
PACKAGES = [f"package-{number}=={number}.{number * 7 % 10}.1" for number in range(60)]
EXPERIMENTS = 40


def write(remote: Path, count: int, *, per_commit: int = 4) -> None:
    """Append ``count`` reports with their records to the ledger branch of a bare repository that has none."""
    importing = subprocess.Popen(["git", "fast-import", "--quiet"], cwd=remote, stdin=subprocess.PIPE)
    assert importing.stdin is not None
    for start in range(0, count, per_commit):
        files: dict[str, bytes] = {}
        for number in range(start, min(start + per_commit, count)):
            files |= report(number)
        lines = [f"commit refs/heads/{BRANCH}\ncommitter gitops-ml <bench@example.org> {1_700_000_000 + start} +0000\n"]
        lines.append("data 14\nAdd results [s\n" if start else "data 13\nBegin ledger.\n")
        importing.stdin.write("".join(lines).encode())
        for path, data in files.items():
            importing.stdin.write(f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
    importing.stdin.close()
    if importing.wait():
        raise SystemExit("git fast-import failed")
    # A server packs what it is given; fast-import's own pack has hardly any deltas.
    subprocess.run(["git", "repack", "-adq", "--window=20"], cwd=remote, check=True, timeout=300)


def report(number: int) -> Mapping[str, bytes]:
    """Return one experiment at one commit: its records on all seeds, and the report on them against another commit."""
    draw = random.Random(number)
    name = f"experiment-{number % EXPERIMENTS:02d}"
    track = Track(name="accuracy", goal=Goal.MAXIMIZE, gate=Gate.FAIL, primary=True)
    commits = [f"{draw.getrandbits(160):040x}" for _ in range(2)]
    lr = round(10 ** draw.uniform(-4, -0.5), 6)
    spec = runs.experiment(track, name=name, path=f"experiments/{name}.yaml", params={"lr": lr, "epochs": 20})
    world = runs.World(spec)
    for side, level in (("base", 0.9), ("head", 0.9 + draw.gauss(0, 0.03))):
        for seed in range(SEEDS):
            trial = world.add(side, {"accuracy": level + draw.gauss(0, 0.005)}, seed, code=commits[side == "base"])
            world.records[trial.key] = dataclasses.replace(world.records[trial.key], commit=commits[side == "base"])
    plan = world.plan()
    head = dataclasses.replace(plan.head, commit=commits[0])
    (compared,) = comparison.compare(dataclasses.replace(plan, head=head), world.records, {}).experiments
    compared = reports.lasting(compared)
    folder = report_path(name, commits[0], reports.plan_digest(compared))
    whole = reports.report_bytes(compared)
    files: dict[str, bytes] = {}
    for planned in world.head:
        made = record(world.records[planned.trial.key], draw, number)
        whole = whole.replace(planned.trial.key.encode(), made.key.encode())
        files[record_path(made.key)] = json_bytes(record_to_json(made))
        files[series_path(made.key)] = series_to_csv(made.series)[0]
    return {**files, f"{folder}/report.json": whole}


def record(of: Record, draw: random.Random, number: int) -> Record:
    """Return a record with a key document as large as a real one and two series of 50 points."""
    document = {
        **of.document,
        "environment": {"env": {}, "interpreter": {"packages": PACKAGES, "platform": "linux-x86_64", "python": "3.11"}},
        "code": f"{draw.getrandbits(256):064x}",
        "data": [["test", f"sha256:{number % 7:064x}"], ["train", f"sha256:{number % 5:064x}"]],
    }
    key = digest(document)
    began = f"2026-{1 + number // 200 % 12:02d}-{1 + number // 8 % 28:02d}T{number % 24:02d}:{of.seed:02d}:00Z"
    series = tuple(
        Series(
            name=name,
            steps=tuple(map(float, range(50))),
            values=tuple(round(1 / (1 + step / 10) + draw.gauss(0, 0.01), 5) for step in range(50)),
        )
        for name in ("loss", "val/loss")
    )
    return dataclasses.replace(
        of,
        key=key,
        document=document,
        attempt=dataclasses.replace(of.attempt, key=key, started_at=began, commit=of.commit),
        scalars=(*of.scalars, Scalar(name="f1", value=draw.random())),
        series=series,
    )


def sizes(repository: Path) -> int:
    """Return the bytes of a repository's objects, as a clone brings them."""
    return sum(file.stat().st_size for file in _files(repository))


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in (folder / "objects").rglob("*") if file.is_file())

"""Records and reports whose keys and digests are right, as files of the ledger, and a clone that holds them."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from gitops_ml import comparison, main, reports
from gitops_ml.ledger import record_path, report_path, series_path
from gitops_ml.planning import digest
from gitops_ml.records import Record, Series, StoredFile, json_bytes, record_to_json, series_to_csv
from gitops_ml.spec import Goal, Track
from gitops_ml.tools import Tools
from tests.fakes import runs
from tests.fakes.repositories import ENVIRON

ACCURACY = Track(name="accuracy", goal=Goal.MAXIMIZE, primary=True)
BRANCH = "gitops-ml/reports"


def record(accuracy: float = 0.9, seed: int = 0, *, date: str = "2026-01-01T00:00:00Z", **more: object) -> Record:
    """Return a record with one scalar, one series and one output; ``params`` and ``document`` change its key."""
    params = dict(more.pop("params", {"lr": 0.1}))
    spec = runs.experiment(ACCURACY, name=str(more.pop("experiment", "digits")), params=params)
    made = runs.record(runs.trial(spec, seed=seed), {"accuracy": accuracy})
    document = {**made.document, **dict(more.pop("document", {}))}
    key = digest(document)
    output = StoredFile(path="confusion.json", sha256=hashlib.sha256(b"[[1]]").hexdigest(), size_bytes=5, store="git")
    attempt = dataclasses.replace(made.attempt, key=key, started_at=date, cost_usd=float(more.pop("cost_usd", 0.5)))
    loss = Series(name="loss", steps=(0.0, 1.0, 2.0), values=(0.9, 0.1, 0.3))
    fields = {"key": key, "document": document, "attempt": attempt, "series": (loss,), "files": (output,)}
    return dataclasses.replace(made, **{**fields, **more})


def record_files(of: Record) -> dict[str, bytes]:
    folder = record_path(of.key).rpartition("/")[0]
    return {
        record_path(of.key): json_bytes(record_to_json(of)),
        series_path(of.key): series_to_csv(of.series)[0],
        f"{folder}/outputs/confusion.json": b"[[1]]",
    }


def report_files(base: float = 0.9, head: float = 0.95) -> dict[str, bytes]:
    """Return a report on three seeds per side, of the records that ``record`` makes for these seeds."""
    sides = [[level + seed / 1000 for seed in range(3)] for level in (base, head)]
    world = runs.World(runs.experiment(ACCURACY, params={"lr": 0.1})).fill("accuracy", *sides)
    (compared,) = comparison.compare(world.plan(), world.records, {}).experiments
    compared = reports.lasting(compared)
    folder = report_path(compared.name, compared.head.commit, reports.plan_digest(compared))
    data = reports.report_bytes(compared)
    for planned in (*world.head, *world.base):
        data = data.replace(planned.trial.key.encode(), digest(planned.trial.document).encode())
    return {f"{folder}/report.json": data, f"{folder}/report.md": b"# Report\n"}


@dataclasses.dataclass
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def command(folder: Path, *words: str, environ: Mapping[str, str] = ENVIRON) -> Said:
    """Run a command line in the folder."""
    out, err = io.StringIO(), io.StringIO()
    tools = Tools(cwd=folder, environ=environ, out=out, err=err, now=lambda: datetime(2026, 1, 10, tzinfo=UTC))
    code = main.main(words, tools)
    return Said(code, out.getvalue(), err.getvalue())

"""MLflow: the SQLite database, the ``mlruns`` file store, and the CSV of ``mlflow experiments csv``.

Needs no MLflow and no server: set ``MLFLOW_TRACKING_URI=sqlite:///out/mlflow.db`` in the training. One training is
one run; runs below it (tag ``mlflow.parentRunId``) and deleted ones are left out. Of several runs the one that
started last is read and the others are named.

    metrics: {read: [out/mlflow.db]}
"""

import contextlib
import csv
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gitops_ml.readers import mapping, text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import MAX_VALUES, Findings, not_finite, number
from gitops_ml.readers.table import MISSING
from gitops_ml.records import Reading

MAX_DATABASE_BYTES = 100 * 2**20
_SQLITE = b"SQLite format 3\x00"
_INFINITE = 1.7976931348623157e308
"""MLflow stores infinity as the largest double."""
_MAX_OPERATIONS = 200_000_000
_MAX_RUNS = 10_000


class MlflowReader(Reader):
    """One database, one file store, or one CSV export."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:
        """By the tables of the database, the ``meta.yaml`` of a run, or the header of the export."""
        if head.startswith(_SQLITE):
            return file.suffix in (".db", ".sqlite", ".sqlite3") and _is_mlflow(file)
        return head[:40].lstrip(b"\xef\xbb\xbf").startswith(b"run_id,experiment_id") or _store(file) is not None

    def unit(self, file: Path) -> Path:
        """Return the file, or the root of the file store."""
        return _store(file) or file

    def read(self, file: Path, name: str) -> Reading:
        """Return the metrics and parameters of the newest run."""
        findings = Findings(name, "mlflow")
        with findings.guarded():
            if file.is_dir():
                _read_store(findings, file, "" if name == "." else f"{name}/")
            elif _head(file).startswith(_SQLITE):
                _read_database(findings, file)
            else:
                _read_export(findings, file)
        return findings.reading()


def _head(file: Path) -> bytes:
    with text.open_bytes(file) as stream:
        return stream.read(16)


# The database


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a foreign database for reading only, with a bound on what a query may cost."""
    with text.open_bytes(file, MAX_DATABASE_BYTES):
        pass
    # Without a write-ahead log nobody writes to it, and SQLite needs to put no lock file beside it.
    mode = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?{mode}", uri=True)
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**24)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        left = [_MAX_OPERATIONS // 100_000]

        def spend() -> int:
            left[0] -= 1
            return left[0] < 0

        connection.set_progress_handler(spend, 100_000)
        yield connection
    finally:
        connection.close()


def _tables(connection: sqlite3.Connection) -> set[str]:
    # Only tables: a view of that name could compute for ever.
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 10000")}


def _is_mlflow(file: Path) -> bool:
    try:
        with _opened(file) as connection:
            return {"alembic_version", "runs", "metrics"} <= _tables(connection)
    except (sqlite3.Error, OSError, UnreadableError):
        return False


def _read_database(findings: Findings, file: Path) -> None:
    with _opened(file) as connection:
        missing = {"runs", "metrics", "params", "tags"} - _tables(connection)
        if missing:
            raise UnreadableError("", f"is no MLflow database: it has no table `{min(missing)}`")
        query = (
            "SELECT run_uuid, name, status, start_time FROM runs WHERE lifecycle_stage IS NOT 'deleted'"
            " AND run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId') LIMIT ?"
        )
        runs = connection.execute(query, (_MAX_RUNS,)).fetchall()
        run = _newest(
            findings, [(str(run), str(name), str(status), number(start)) for run, name, status, start in runs]
        )
        query = (
            "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = ?"
            " ORDER BY key, step, timestamp LIMIT ?"
        )
        rows = connection.execute(query, (run, MAX_VALUES + 1))
        for key, raw, when, step, is_nan in rows:
            value = math.nan if is_nan else number(raw)
            at, time = number(step), number(when)
            if not isinstance(key, str) or value is None or at is None:
                findings.problem(str(key)[:100], "a row of the table `metrics` has other types than MLflow writes")
                continue
            if abs(value) >= _INFINITE:
                value = math.copysign(math.inf, value)
            findings.point(key, at, value, None if time is None else time / 1000)
        for key, raw in connection.execute("SELECT key, value FROM params WHERE run_uuid = ? LIMIT 20000", (run,)):
            findings.param(str(key), _text_value(raw))


def _newest(findings: Findings, runs: list[tuple[str, str, str, float | None]]) -> str:
    if not runs:
        raise UnreadableError("", "has no run")
    runs = sorted(runs, key=lambda run: (run[3] or 0.0, run[0]))
    identity, name, status, _ = runs[-1]
    if len(runs) > 1:
        findings.problem("", f"has {len(runs):,} runs; the one that started last is read: {name} ({identity[:8]})")
    if status not in ("FINISHED", "3"):
        findings.problem("", f"the run {name} ({identity[:8]}) is not finished but {_STATUS.get(status, status)}")
    return identity


_STATUS = {"1": "RUNNING", "2": "SCHEDULED", "4": "FAILED", "5": "KILLED"}


def _text_value(raw: Any) -> Any:
    """Return a parameter, which MLflow stores as text, as the value it was."""
    if not isinstance(raw, str) or len(raw) > 30:
        return raw
    try:
        return int(raw) if raw.lstrip("-").isdigit() and raw.isascii() else float(raw)
    except ValueError:
        return raw


# The file store: ROOT/EXPERIMENT/RUN/{meta.yaml,metrics/KEY,params/KEY,tags/KEY}


def _store(file: Path) -> Path | None:
    """Return the root of the file store that the path belongs to, or that it is."""
    for folder in (file, *file.parents[:12]):
        if _is_run(folder):
            return folder.parent.parent
        if (folder / "meta.yaml").is_file() and _has_runs(folder):
            return folder.parent
        if folder == file and folder.is_dir() and any(_has_runs(inner) for inner in _folders(folder)):
            return folder
    if file.name == "meta.yaml" and any(_has_runs(inner) for inner in _folders(file.parent.parent)):
        return file.parent.parent  # of an experiment without runs, such as the default one
    return None


def _is_run(folder: Path) -> bool:
    return (folder / "meta.yaml").is_file() and (folder / "metrics").is_dir()


def _has_runs(folder: Path) -> bool:
    return any(_is_run(inner) for inner in _folders(folder))


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()][:_MAX_RUNS]
    except OSError:
        return []


def _read_store(findings: Findings, root: Path, prefix: str) -> None:
    runs: dict[str, tuple[Path, tuple[str, str, str, float | None]]] = {}
    for folder in (run for experiment in _folders(root) if experiment.name != ".trash" for run in _folders(experiment)):
        if not _is_run(folder) or (folder / "tags" / "mlflow.parentRunId").exists():
            continue
        with findings.guarded(f"{prefix}{folder.relative_to(root).as_posix()}/meta.yaml"):
            meta = mapping.read_yaml(folder / "meta.yaml")
            if not isinstance(meta, dict) or meta.get("lifecycle_stage") == "deleted":
                continue
            identity = str(meta.get("run_id") or folder.name)
            name = str(meta.get("run_name") or meta.get("name") or "")
            runs[identity] = folder, (identity, name, str(meta.get("status")), number(meta.get("start_time")))
    folder, _ = runs[_newest(findings, [described for _, described in runs.values()])]
    for key, file in _keys(folder / "metrics"):
        shown = f"{prefix}{file.relative_to(root).as_posix()}"
        with findings.guarded(shown):
            _add_metric(findings, key, file, shown)
    for key, file in _keys(folder / "params"):
        with findings.guarded(f"{prefix}{file.relative_to(root).as_posix()}"):
            findings.param(key, _text_value(text.decode(text.read_bytes(file, 2**16))))


def _keys(folder: Path) -> Iterator[tuple[str, Path]]:
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if not file.is_dir() and file.resolve().is_relative_to(folder.resolve()):
                yield file.relative_to(folder).as_posix(), file


def _add_metric(findings: Findings, key: str, file: Path, shown: str) -> None:
    """Add the lines ``timestamp value [step [dataset digest]]`` of one metric."""
    with text.open_text(file) as stream:
        place = 0
        while line := stream.readline(4096):
            place += 1
            found = [_float(word) for word in line.split()[:3]]
            if len(found) < 2 or None in found:
                torn = not line.endswith("\n")
                findings.problem(f"line {place}", "is cut off and is not used" if torn else "is no metric", file=shown)
                continue
            time, value, *step = (part for part in found if part is not None)
            findings.point(key, step[0] if step else 0.0, value, time / 1000)


def _float(word: str) -> float | None:
    try:
        return float(word) if "_" not in word else None
    except ValueError:
        return None


# The CSV export: one row per run


def _read_export(findings: Findings, file: Path) -> None:
    with text.open_text(file) as stream:
        try:
            rows = csv.DictReader(stream, restkey="", restval="")
            all_runs = []
            for row in rows:
                all_runs.append(row)
                findings.count(len(row))
        except csv.Error as error:
            raise UnreadableError("", f"is no table: {error}") from error
    runs = [row for row in all_runs if not row.get("tags.mlflow.parentRunId")]
    named = [(row.get("run_id") or "", row.get("tags.mlflow.runName") or "", row.get("status") or "") for row in runs]
    # Start times are ISO texts here, which sort as they are; the rows come newest first.
    order = sorted(range(len(runs)), key=lambda index: (runs[index].get("start_time") or "", -index))
    chosen = _newest(findings, [(*named[index], float(rank)) for rank, index in enumerate(order)])
    row = next(row for row in runs if (row.get("run_id") or "") == chosen)
    for column, cell in row.items():
        kind, _, key = (column or "").partition(".")
        if kind == "params" and key:
            findings.param(key, _text_value(cell))
        elif kind == "metrics" and key and isinstance(cell, str):
            value = _float(cell) if not_finite(cell) is None else not_finite(cell)
            if value is not None:
                findings.scalar(key, value)
            elif cell.strip().lower() in MISSING:
                findings.problem(key, "is empty, which is how MLflow exports NaN as well as a missing value")
            else:
                findings.problem(key, f"is no number: `{cell[:40]}`")

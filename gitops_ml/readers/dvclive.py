"""DVCLive: the folder with ``metrics.json`` and ``plots/metrics/**/*.tsv``, read as one.

Needs nothing, and no DVC. Name the folder, its ``metrics.json``, or a glob over its files. Series come from the
tables, final values from ``metrics.json`` where there is no table; ``step`` there is bookkeeping. ``params.yaml``
gives the parameters. Custom and sklearn plots are ignored with a word.

    metrics: {read: [dvclive/**]}
"""

import json
from collections.abc import Iterator
from pathlib import Path

from gitops_ml.readers import mapping, text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings
from gitops_ml.readers.table import CsvReader, TsvReader
from gitops_ml.records import Reading

MAX_TABLES = 10_000


class DvcliveReader(Reader):
    """One DVCLive folder."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By the folder ``plots/metrics`` beside or above the file."""
        return _root(file) is not None

    def unit(self, file: Path) -> Path:
        """Return the DVCLive folder."""
        return _root(file) or (file.parent if file.name == "metrics.json" else file)

    def read(self, file: Path, name: str) -> Reading:
        """Return the folder's metrics and parameters."""
        findings = Findings(name, "dvclive")
        root = file if file.is_dir() else file.parent
        prefix = "" if name == "." else f"{name}/"
        with findings.guarded():
            for table in _tables(root / "plots" / "metrics"):
                _add_table(findings, table, root, prefix)
        summary = root / "metrics.json"
        if summary.is_file():
            with findings.guarded(f"{prefix}metrics.json"):
                _add_summary(findings, text.read_json(summary), f"{prefix}metrics.json")
        elif not (root / "plots" / "metrics").is_dir():
            findings.problem("", "is no DVCLive folder: it has neither metrics.json nor plots/metrics")
        if (root / "params.yaml").is_file():
            with findings.guarded(f"{prefix}params.yaml"):
                params = mapping.read_yaml(root / "params.yaml")
                findings.param_tree(params if isinstance(params, dict) else {})
        for kind in ("custom", "sklearn", "images"):
            if (root / "plots" / kind).is_dir():
                findings.ignore(f"plots/{kind}", "plots, no metrics")
        return findings.reading()


def _root(file: Path) -> Path | None:
    """Return the DVCLive folder that the file belongs to, or that it is."""
    for folder in (file, *file.parents[:6]):
        if folder.name != "metrics" and (folder / "plots" / "metrics").is_dir():
            inside = file.relative_to(folder).parts
            known = not inside or inside[0] == "plots" or inside in _FILES
            return folder if known else None
    return None


_FILES = {("metrics.json",), ("params.yaml",), ("report.md",), ("report.html",), ("dvc.yaml",), ("report.ipynb",)}


def _tables(folder: Path) -> Iterator[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".tsv", ".csv") and path.is_file())
    if len(found) > MAX_TABLES:
        raise UnreadableError("plots/metrics", f"holds {len(found):,} tables; at most {MAX_TABLES:,} are read")
    yield from found


def _add_table(findings: Findings, table: Path, root: Path, prefix: str) -> None:
    shown = f"{prefix}{table.relative_to(root).as_posix()}"
    if not table.resolve().is_relative_to(root.resolve()):
        findings.problem("", "is a link that leads out of the folder; it is not read", file=shown)
        return
    reading = (TsvReader() if table.suffix == ".tsv" else CsvReader()).read(table, shown)
    findings.adopt(reading.problems)
    # The column has only the last part of the metric's name; the path has all of it.
    name = table.relative_to(root / "plots" / "metrics").with_suffix("").as_posix()
    for series in reading.series:
        if series.name == table.stem or len(reading.series) == 1:
            findings.series(name, series.steps, series.values, series.times)
        else:
            findings.ignore(f"{name}:{series.name}", "a further column")
    for words in reading.ignored:
        findings.ignore(name, words)


def _add_summary(findings: Findings, data: object, file: str) -> None:
    if not isinstance(data, dict):
        findings.problem("", "holds no mapping", file=file)
        return
    findings.tree(data, skip=("step",))
    for path, value in findings.leaves(data):
        last = findings.last(path)
        if last is not None and isinstance(value, int | float) and not isinstance(value, bool) and value != last:
            findings.problem(
                path, f"is {json.dumps(value)} there, and its table ends with {last:g}; the table is used", file=file
            )

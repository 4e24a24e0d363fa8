"""Lightning's ``CSVLogger``: ``lightning_logs/version_N/metrics.csv`` with ``hparams.yaml`` beside it.

Needs nothing. Training and validation values stand on different rows, so each metric has its own steps. Of several
versions the highest is read and it is said. ``hparams.yaml`` gives the parameters.

    metrics: {read: [lightning_logs/**]}
"""

import re
from pathlib import Path

from gitops_ml.readers import mapping
from gitops_ml.readers.base import Reader
from gitops_ml.readers.findings import Findings
from gitops_ml.readers.table import head_rows, read_table
from gitops_ml.records import Reading

_VERSION = re.compile(r"version_([0-9]{1,9})")


class LightningReader(Reader):
    """The newest version of one log folder."""

    rank = 15

    def detect(self, file: Path, head: bytes) -> bool:
        """By the columns ``epoch`` and ``step`` of ``metrics.csv``, and its place."""
        if file.is_dir():
            return bool(_versions(file)) or _is_version(file)
        if file.name == "hparams.yaml":
            return (file.parent / "metrics.csv").is_file()
        placed = _VERSION.fullmatch(file.parent.name) or (file.parent / "hparams.yaml").is_file()
        return file.name == "metrics.csv" and bool(placed) and _sparse(head)

    def unit(self, file: Path) -> Path:
        """Return the folder of all versions, or of the one file."""
        folder = file if file.is_dir() else file.parent
        if _VERSION.fullmatch(folder.name):
            return folder.parent
        return folder if file.is_dir() or (folder / "hparams.yaml").is_file() else file

    def read(self, file: Path, name: str) -> Reading:
        """Return the series of the newest version, with its parameters."""
        findings = Findings(name, "lightning")
        table = file
        if file.is_dir():
            versions = _versions(file)
            folder = versions[-1] if versions else file
            if len(versions) > 1:
                findings.problem("", f"has {len(versions)} versions; {folder.name} is read")
            table = folder / "metrics.csv"
        hparams = table.parent / "hparams.yaml"
        if hparams.is_file():
            with findings.guarded(f"{name}/hparams.yaml"):
                params = mapping.read_yaml(hparams)
                findings.param_tree(params if isinstance(params, dict) else {})
        return read_table(findings, table)


def _versions(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name) and _is_version(path)]
    except OSError:
        return []
    return sorted(found, key=lambda path: int(path.name.removeprefix("version_")))


def _is_version(folder: Path) -> bool:
    table = folder / "metrics.csv"
    if folder.is_symlink() or not table.is_file():
        return False
    with table.open("rb") as stream:
        return _sparse(stream.read(4096)) and (
            _VERSION.fullmatch(folder.name) is not None or (folder / "hparams.yaml").is_file()
        )


def _sparse(head: bytes) -> bool:
    return {"epoch", "step"} <= set(head_rows(head, 0)[0])

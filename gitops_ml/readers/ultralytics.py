"""Ultralytics YOLO: ``results.csv`` of a training, one row per epoch, with ``args.yaml`` beside it.

Needs nothing. Names lose the spaces that older versions pad them with: ``metrics/mAP50(B)``. The best epoch is
seldom the last: track it with ``summary: best``. ``args.yaml`` gives the parameters.

    metrics: {read: [runs/detect/train/results.csv]}
"""

from pathlib import Path

from gitops_ml.readers import mapping, text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings
from gitops_ml.readers.table import head_rows, read_table
from gitops_ml.records import Reading


class UltralyticsReader(Reader):
    """One ``results.csv``."""

    rank = 15

    def detect(self, file: Path, head: bytes) -> bool:
        """By a column of detectors or classifiers, or by being the ``args.yaml`` beside such a table."""
        if file.name == "args.yaml":
            return _is_results(file.with_name("results.csv"))
        if file.suffix.lower() != ".csv":
            return False
        return _is_header(head)

    def unit(self, file: Path) -> Path:
        """Return the table."""
        return file.with_name("results.csv") if file.name == "args.yaml" else file

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per column."""
        findings = Findings(name, "ultralytics")
        args = file.parent / "args.yaml"
        if args.is_file():
            with findings.guarded(f"{name.rpartition('/')[0]}/args.yaml".lstrip("/")):
                params = mapping.read_yaml(args)
                findings.param_tree(params if isinstance(params, dict) else {})
        return read_table(findings, file, steps=("epoch",))


def _is_header(head: bytes) -> bool:
    return any(name.startswith(("metrics/mAP50", "metrics/accuracy_top1")) for name in head_rows(head, 0)[0])


def _is_results(table: Path) -> bool:
    try:
        with text.open_bytes(table) as stream:
            return _is_header(stream.read(4096))
    except (OSError, UnreadableError):
        return False

"""Sacred's ``FileStorageObserver``: a run's folder with ``metrics.json``, ``run.json`` and ``config.json``.

Needs no Sacred. ``metrics.json`` gives the series, a number as the run's result is the final value ``result``,
``config.json`` gives the parameters. A run that did not complete is reported.

    metrics: {read: ["runs/*/metrics.json"]}
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings, describe, number
from gitops_ml.records import Reading

_FILES = ("metrics.json", "run.json", "config.json", "info.json", "cout.txt")


class SacredReader(Reader):
    """The folder of one run."""

    rank = 15

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By the files that stand beside each other."""
        folder = file if file.is_dir() else file.parent
        here = file.is_dir() or file.name in _FILES
        return here and all((folder / name).is_file() for name in ("run.json", "config.json", "cout.txt"))

    def unit(self, file: Path) -> Path:
        """Return the run's folder."""
        return file if file.is_dir() else file.parent

    def read(self, file: Path, name: str) -> Reading:
        """Return series, result and parameters."""
        findings = Findings(name, "sacred")
        folder = file if file.is_dir() else file.parent
        if (folder / "metrics.json").is_file() or not file.is_dir():
            with findings.guarded(f"{name}/metrics.json"):
                _add_metrics(findings, text.read_json(folder / "metrics.json" if file.is_dir() else file))
        if file.is_dir():
            with findings.guarded(f"{name}/run.json"):
                _add_run(findings, text.read_json(folder / "run.json"))
            with findings.guarded(f"{name}/config.json"):
                config = text.read_json(folder / "config.json")
                findings.param_tree(config if isinstance(config, dict) else {})
        return findings.reading()


def _add_metrics(findings: Findings, data: Any) -> None:
    if not isinstance(data, dict):
        raise UnreadableError("", f"holds no mapping but: {describe(data)}")
    for name, entry in data.items():
        values = entry.get("values") if isinstance(entry, dict) else None
        steps = entry.get("steps") if isinstance(entry, dict) else None
        if not isinstance(values, list) or not isinstance(steps, list) or len(steps) != len(values):
            findings.problem(str(name), "has no lists `steps` and `values` of equal length; it is not used")
            continue
        stamps = entry.get("timestamps")
        times = [_time(stamp) for stamp in stamps] if isinstance(stamps, list) and len(stamps) == len(steps) else []
        for index, (step, raw) in enumerate(zip(steps, values, strict=True)):
            # jsonpickle wraps a numpy number.
            value = number(raw.get("value") if isinstance(raw, dict) else raw)
            at = number(step)
            if value is None or at is None:
                findings.problem(str(name), f"entry {index + 1} is no number but: {describe(raw)}")
            else:
                findings.point(str(name), at, value, times[index] if times else None)


def _add_run(findings: Findings, data: Any) -> None:
    if not isinstance(data, dict):
        raise UnreadableError("", f"holds no mapping but: {describe(data)}")
    status = data.get("status")
    if status != "COMPLETED":
        findings.problem("status", f"the run is not completed: {str(status)[:40]}")
    result = data.get("result")
    value = number(result.get("value") if isinstance(result, dict) else result)
    if value is not None:
        findings.scalar("result", value)
    elif result is not None:
        findings.ignore("result", describe(result))


def _time(stamp: Any) -> float:
    try:
        return datetime.fromisoformat(str(stamp)).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0

"""Hugging Face ``Trainer``: ``trainer_state.json``, and ``all_results.json`` or ``eval_results.json`` and the like.

Needs no transformers. An output folder is read as one: the history from its own ``trainer_state.json`` or else
from the checkpoint with the highest step, final values from the results files. Run times, samples per second
and floating point operations are cost, not quality, and are ignored with a word.

    metrics: {read: [out/trainer_state.json]}
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings, number
from gitops_ml.readers.rows import add_rows
from gitops_ml.records import Reading

STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,12})")
_RESULTS = re.compile(r"(all|train|eval|test|predict|validation)_results\.json")
_COST = ("_runtime", "_per_second", "_flos", "total_flos", "_mem_gpu_peaked_delta", "_mem_cpu_peaked_delta")


class HuggingfaceReader(Reader):
    """The output folder of one training."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:
        """By the file's name and keys."""
        if file.is_dir():
            return (file / STATE).is_file() or bool(_checkpoints(file))
        keys = text.top_level_keys(head)
        if file.name == STATE:
            return "log_history" in keys or {"best_metric", "epoch"} <= keys
        found = _RESULTS.fullmatch(file.name)
        return found is not None and any(key.startswith(("train_", "eval_", "test_", "predict_")) for key in keys)

    def unit(self, file: Path) -> Path:
        """Return the output folder."""
        folder = file if file.is_dir() else file.parent
        return folder.parent if _CHECKPOINT.fullmatch(folder.name) else folder

    def read(self, file: Path, name: str) -> Reading:
        """Return history and final values."""
        findings = Findings(name, "huggingface")
        folder = file if file.is_dir() else file.parent
        states = [folder / STATE] if (folder / STATE).is_file() else [path / STATE for path in _checkpoints(folder)]
        if not file.is_dir():
            states = [file] if file.name == STATE else []
        prefix = "" if name == "." or not file.is_dir() else f"{name}/"
        if states:
            shown = f"{prefix}{states[-1].relative_to(folder).as_posix()}"
            with findings.guarded(shown):
                _add_state(findings, text.read_json(states[-1]))
        for path in _result_files(file):
            with findings.guarded(f"{prefix}{path.name}"):
                _add_results(findings, text.read_json(path))
        return findings.reading()


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that hold a history; the one with the highest step last."""
    try:
        found = [path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return []
    return sorted((path for path in found if (path / STATE).is_file()), key=lambda path: int(path.name[11:]))


def _result_files(file: Path) -> Iterator[Path]:
    """Yield the results files; ``all_results.json`` holds what the others hold."""
    if not file.is_dir():
        yield from [file] if file.name != STATE else []
        return
    found = sorted(path for path in file.iterdir() if _RESULTS.fullmatch(path.name))
    yield from [path for path in found if path.name == "all_results.json"] or found


def _add_state(findings: Findings, data: Any) -> None:
    history = data.get("log_history") if isinstance(data, dict) else None
    if not isinstance(history, list):
        raise UnreadableError("log_history", "is missing or no list: this is no state of a Trainer")
    rows = [(place, row) for place, row in enumerate(history, start=1) if isinstance(row, dict)]
    if len(rows) < len(history):
        findings.problem(
            "log_history", f"{len(history) - len(rows):,} of its entries are no mappings; they are not used"
        )
    add_rows(findings, ((place, _quality(findings, row)) for place, row in rows), "log_history entry")
    best = data.get("best_metric")
    if best is not None:
        findings.tree({"best_metric": best})


def _add_results(findings: Findings, data: Any) -> None:
    if not isinstance(data, dict):
        raise UnreadableError("", "holds no mapping")
    findings.tree({name: value for name, value in _quality(findings, data).items() if findings.last(str(name)) is None})


def _quality(findings: Findings, row: dict[str, Any]) -> dict[str, Any]:
    """Return the row without what is cost; the first time that is said."""
    kept = {}
    for name, value in row.items():
        if name.endswith(_COST) and number(value) is not None:
            findings.ignore_once(name, "cost, not quality")
        else:
            kept[name] = value
    return kept

"""Per-example predictions of the trials that a comparison pairs example by example."""

import posixpath
from collections.abc import Mapping
from pathlib import Path

from gitops_ml.planning import Plan
from gitops_ml.records import Predictions, Record, StoredFile
from gitops_ml.storage.base import StorageError
from gitops_ml.tools import Tools


def predictions(plan: Plan, records: Mapping[str, Record], tools: Tools) -> Mapping[str, Predictions]:
    """Return the per-example predictions by key, of experiments with one run on each side: elsewhere seeds tell more.

    They are read from the ledger, or from the storage when they are too large for it; one that is not to be had, or
    cannot be read, is left out and said.
    """
    found = {}
    for entry in plan.experiments:
        path = posixpath.normpath(entry.experiment.metrics.predictions or ".")
        sides = [[p.trial.key for p in side if p.trial.key in records] for side in (entry.head, entry.base)]
        if path == "." or any(len(side) != 1 for side in sides):
            continue
        for key in dict.fromkeys((*sides[0], *sides[1])):
            kept = next((file for file in records[key].files if file.path == path), None)
            if kept is None:
                tools.note(f"warning: {key[:12]} left no {path}; nothing is compared example by example")
            elif (scores := _predictions(key, kept, tools)) is not None:
                found[key] = scores
    return found


def _fetched(name: str, file: Path, tools: Tools) -> bool:
    try:
        return tools.storage.get_file(name, file)
    except StorageError as error:
        tools.note(f"warning: {error}")
        return False


def _predictions(key: str, kept: StoredFile, tools: Tools) -> Predictions | None:
    import tempfile

    from gitops_ml.readers.predictions import read_predictions

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(kept.path).name)
        if kept.store == "git":
            outputs = tools.results.report_files(f"records/{key[:2]}/{key}/outputs") or {}
            file.write_bytes(outputs.get(kept.path, b""))
        elif not _fetched(f"outputs/{key}/{kept.path}", file, tools):
            tools.note(f"warning: {kept.path} of {key[:12]} is not in the storage here; its examples are not compared")
            return None
        scores, problems = read_predictions(file, kept.path)
    for problem in problems[:5]:
        tools.note(f"warning: {problem.file} of {key[:12]}: {problem.where}: {problem.message}".replace(": : ", ": "))
    return scores

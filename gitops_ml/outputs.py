"""What a succeeded trial brought back: its metrics under clear names, and where each file is kept."""

import dataclasses
import hashlib
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gitops_ml.globs import compiled
from gitops_ml.ledger import record_path, series_path
from gitops_ml.planning import Trial
from gitops_ml.readers.base import merge, read_outputs
from gitops_ml.records import (
    FILE_LIMIT_BYTES,
    NOT_WRITTEN,
    Attempt,
    Problem,
    Record,
    Scalar,
    Series,
    StoredFile,
    json_bytes,
    record_to_json,
    series_to_csv,
)
from gitops_ml.spec import Experiment
from gitops_ml.storage.base import StorageError
from gitops_ml.values import dataclass

_PROBLEMS_LISTED = 5
"""Of a file of predictions; one wrong column can be a problem of every row."""


class Sink(Protocol):
    """What we need of a storage."""

    def put_file(self, name: str, file: Path) -> None:
        """Take the file, or raise ``StorageError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All metrics of a trial."""

    scalars: tuple[Scalar, ...]
    series: tuple[Series, ...]
    problems: tuple[Problem, ...]
    ignored: tuple[str, ...]


def made_record(
    trial: Trial, attempt: Attempt, folder: Path, storage: Sink, *, elsewhere: Collection[str] = ()
) -> tuple[Record, Mapping[str, bytes]]:
    """Return the record of a trial that succeeded, and its files for the ledger, from the outputs it left.

    Args:
        trial: as it was planned.
        attempt: the one that succeeded.
        folder: the outputs, paths relative to the workdir.
        storage: takes what is too large for the ledger.
        elsewhere: outputs that it left too and that are kept already, but are not in the folder.
    """
    found = collected(trial, folder, elsewhere)
    record = Record(
        key=trial.key,
        document=trial.document,
        experiment=trial.experiment.name,
        path=trial.experiment.path,
        commit=trial.version.commit,
        dirty=trial.version.dirty,
        point=trial.point,
        params=trial.params,
        seed=trial.seed,
        repeat=trial.repeat,
        attempt=attempt,
        scalars=found.scalars,
        series=found.series,
        problems=found.problems,
        ignored=found.ignored,
        evaluation=trial.evaluation,
        derived_from=trial.derived_from,
    )
    csv, decimated = series_to_csv(record.series)
    files, stored = kept_files(trial, folder, storage)
    record = dataclasses.replace(record, decimated=decimated, files=stored)
    series = {series_path(trial.key): csv} if record.series else {}
    return record, {record_path(trial.key): json_bytes(record_to_json(record)), **series, **files}


def collected(trial: Trial, folder: Path, elsewhere: Collection[str] = ()) -> Collected:
    """Read the trial's metrics from its outputs; a tracked one that was not written is a problem.

    What is wrong with its predictions costs no metric its trust: it is said as what was ignored.
    """
    metrics = trial.experiment.metrics
    readings = read_outputs(folder, metrics.read)
    tracked = [track.name for track in metrics.track]
    wanted = {*tracked, *(track.summary.of for track in metrics.track if track.summary.of)}
    scalars, series, problems = merge(readings, wanted)
    found = sorted({scalar.name for scalar in scalars} | {one.name for one in series})
    missing = [name for name in tracked if name not in found]
    files = ", ".join(reading.file for reading in readings)
    problems += tuple(
        Problem(file=files, where=name, message=f"{NOT_WRITTEN}{_instead(name, found)}") for name in missing
    )
    ignored = tuple(f"{reading.file}: {words}" for reading in readings for words in reading.ignored)
    ignored += tuple(_wrong_predictions(trial, folder, elsewhere))
    return Collected(scalars=scalars, series=series, problems=problems, ignored=ignored)


def _instead(name: str, found: Sequence[str]) -> str:
    """Say what can be tracked in place of a metric that has no value."""
    if several := [other for other in found if other.partition(":")[2] == name]:
        return f" by one file alone; track {' or '.join(f'`{other}`' for other in several[:3])}"
    return f"; the files hold: {', '.join(found[:20]) or 'no metrics at all'}"


def _wrong_predictions(trial: Trial, folder: Path, elsewhere: Collection[str]) -> Iterator[str]:
    """Say why declared predictions, or some of their rows, can never be compared example by example."""
    if trial.experiment.metrics.predictions is None:
        return
    path = posixpath.normpath(trial.experiment.metrics.predictions)
    if path in _paths(folder):
        from gitops_ml.readers.predictions import read_predictions

        for problem in read_predictions(folder / path, path)[1][:_PROBLEMS_LISTED]:
            where = f"{problem.where}: " if problem.where else ""
            yield f"{path} as predictions: {where}{problem.message}"
    elif path not in elsewhere:
        yield f"{path} as predictions: it was not written"


def kept_files(trial: Trial, folder: Path, storage: Sink) -> tuple[dict[str, bytes], tuple[StoredFile, ...]]:
    """Put the outputs where they belong; return those for the ledger by their path there, and all with their place.

    Small artifacts with ``store: git`` and small predictions go to the ledger, all else to the storage, under the
    trial's key.
    """
    for_git = goes_to_ledger(trial.experiment)
    files, stored = {}, []
    for path in _paths(folder):
        file = folder / path
        size = file.stat().st_size
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        if for_git(path) and size <= FILE_LIMIT_BYTES:
            files[f"records/{trial.key[:2]}/{trial.key}/outputs/{path}"] = file.read_bytes()
            store = "git"
        else:
            try:
                storage.put_file(f"outputs/{trial.key}/{path}", file)
                store = "storage"
            except StorageError:
                store = "none"
        stored.append(StoredFile(path=path, sha256=digest, size_bytes=size, store=store))
    return files, tuple(stored)


def goes_to_ledger(experiment: Experiment) -> Callable[[str], object]:
    """Return what says of an output's path whether the spec wants it on the ledger, if it is small."""
    wished = [f for a in experiment.artifacts if a.store == "git" for f in (a.path, f"{a.path.rstrip('/')}/**")]
    predictions = experiment.metrics.predictions
    wished += [posixpath.normpath(predictions)] if predictions else []
    return compiled(tuple(wished))


def _paths(folder: Path) -> Iterator[str]:
    """Yield the regular files below the folder whose names can be written down, sorted."""
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if file.is_file() and not file.is_symlink() and path.isprintable():
            yield path

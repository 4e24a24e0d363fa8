"""What the job that trains hands to the job that publishes: raw outputs as data, never records.

The publishing job holds the forge's token and the training job may have run anything, so nothing in the folder is
believed: the digest comes by another way (the training job's output), trials and keys from the publisher's own plan,
and records are made anew from the raw files. What is left to believe is what was measured: metrics, times, cost.

    handover.json              attempts, and the list of each trial's files
    outputs/<key>/...          files that metrics are read from, predictions, and artifacts for the ledger
"""

import dataclasses
import hashlib
import io
import math
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gitops_ml.errors import DeniedError, UserError
from gitops_ml.globs import compiled
from gitops_ml.ledger import attempt_path, record_path
from gitops_ml.outputs import made_record
from gitops_ml.planning import Trial
from gitops_ml.records import (
    Attempt,
    Origin,
    Outcome,
    Record,
    RecordError,
    StoredFile,
    attempt_from_json,
    attempt_to_json,
    json_bytes,
    json_document,
    record_to_json,
)
from gitops_ml.storage.base import StorageError
from gitops_ml.values import dataclass

SCHEMA = "gitops-ml/handover/v1"
MAX_FILES = 20_000
MAX_FILE_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 2**30
MAX_INDEX_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = MAX_TOTAL_BYTES + 2**26
"""Of a zip of such a folder, when nothing in it can be made smaller."""
_MAX_READ_BYTES = 16 * 2**20
_MAX_DEPTH = 64
_LOG_TAIL_BYTES = 4096


class HandoverError(UserError):
    """The folder is not what a training job of ours leaves; nothing of it was taken."""


class Writer:
    """Fills the folder, trial by trial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[str, Record] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; name a new folder for what is handed over")

    def add(self, trial: Trial, record: Record, outputs: Path) -> None:
        """Take a trial's files that the publisher reads; the others are in the storage."""
        wanted = _wanted(trial)
        for file in record.files:
            if wanted(file.path) and file.size_bytes <= MAX_FILE_BYTES:
                target = self._folder / "outputs" / record.key / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(outputs / file.path, target, follow_symlinks=False)
        self._records[record.key] = record

    def close(
        self,
        failed: Sequence[Attempt],
        *,
        live: Sequence[str] = (),
        ended: Sequence[Attempt] = (),
        heads: Mapping[str, int] | None = None,
    ) -> str:
        """Write the index and return the digest of the whole folder.

        Args:
            failed: of trials that somebody's plan has.
            live: keys of jobs that are not over.
            ended: of jobs that no plan has any more.
            heads: that stand no longer and left records all the same, with their changes' numbers.
        """
        documents = {key: record_to_json(record) for key, record in self._records.items()}
        index = {
            "schema": SCHEMA,
            "records": {key: {"attempt": d["attempt"], "files": d["files"]} for key, d in documents.items()},
            "failed": [attempt_to_json(attempt) for attempt in failed],
            "live": list(live),
            "ended": [attempt_to_json(attempt) for attempt in ended],
            "heads": dict(heads or {}),
        }
        (self._folder / "handover.json").write_bytes(json_bytes(index))
        return digest_of(self._folder)


def _wanted(trial: Trial) -> Any:
    experiment = trial.experiment
    globs = [g for read in experiment.metrics.read for g in (read.path, f"{read.path.rstrip('/')}/**")]
    kept = [a.path for a in experiment.artifacts if a.store == "git"]
    kept += [experiment.metrics.predictions] if experiment.metrics.predictions else []
    return compiled((*globs, *(g for path in kept for g in (path, f"{path.rstrip('/')}/**"))))


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over names, sizes and contents of all files in the folder.

    Raises:
        HandoverError: it holds a link, something that is no file, or too much.
    """
    whole = hashlib.sha256()
    total = count = 0
    for path in _files(folder):
        size = (folder / path).stat().st_size
        total, count = total + size, count + 1
        if size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or count > MAX_FILES:
            raise HandoverError(
                f"{folder} holds too much: at most {MAX_FILES} files, {MAX_FILE_BYTES} bytes each, "
                f"{MAX_TOTAL_BYTES} bytes together"
            )
        with (folder / path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{len(path.encode())}:{path}:{size}:{content}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[str]:
    found = []
    for file in folder.rglob("*"):
        path = file.relative_to(folder).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise HandoverError(f"{folder}: {path!r} is no regular file; nothing that we write is anything else")
        if not path.isprintable():
            raise HandoverError(f"{folder}: the name {path!r} cannot be printed")
        if file.is_file():
            found.append(path)
        if len(found) > MAX_FILES:
            raise HandoverError(f"{folder} holds more than {MAX_FILES} files")
    yield from sorted(found)


def unpack(
    archive: Path,
    into: Path,
    *,
    names: Collection[str],
    max_file_bytes: int = MAX_FILE_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> None:
    """Unpack files of a zip that may be anything: what it holds under one of the names, a file's or a folder's.

    What else it holds is not looked at. Contents are held to the checksums that the zip has of them.

    Args:
        archive: a zip.
        into: a new folder.
        names: at the top of the zip.
        max_file_bytes: of each file.
        max_total_bytes: of all that is unpacked.

    Raises:
        HandoverError: it is no zip, or holds a path that leads elsewhere, a link, a name twice, or too much.
    """
    try:
        into.mkdir()
        with _Measured(archive.open("rb", buffering=0)) as file, zipfile.ZipFile(file) as packed:
            # Not by `is_dir`, which a name without a letter breaks up to Python 3.11.
            files = (entry for entry in packed.infolist() if not entry.filename.endswith("/"))
            ours = [entry for entry in files if entry.filename.split("/")[0] in names]
            if len(ours) > MAX_FILES:
                raise HandoverError(f"the archive holds more than {MAX_FILES} files")
            left_bytes = max_total_bytes
            for entry in ours:
                size_bytes = _unpack_one(packed, entry, into, limit_bytes=min(left_bytes, max_file_bytes))
                if size_bytes is None:
                    raise HandoverError(
                        f"the archive holds too much: at most {max_file_bytes} bytes in a file, {max_total_bytes} "
                        "bytes together"
                    )
                left_bytes -= size_bytes
    except _BROKEN as error:
        raise HandoverError(f"the archive cannot be unpacked: {str(error) or type(error).__name__}") from error
    except OSError as error:  # also a name twice, a file that is a folder elsewhere, a name that is too long
        raise HandoverError(f"the archive cannot be unpacked: {error.strerror or error}") from error


# What zipfile raises for bytes that are no zip or a broken one; encrypted and unknown methods are RuntimeErrors.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error, OverflowError)


class _Measured(io.BufferedReader):
    """Reads no more at once than a listing of files needs: zipfile takes its length from the zip itself."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as always, if it is not too much."""
        if size is None or size < 0:
            here = self.tell()
            size = self.seek(0, io.SEEK_END) - here
            self.seek(here)
        if size > _MAX_READ_BYTES:
            raise zipfile.BadZipFile(f"its list of files is longer than {_MAX_READ_BYTES} bytes")
        return super().read(size)


def _unpack_one(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Path, *, limit_bytes: int) -> int | None:
    """Unpack a file and return how many bytes it has; None: more than the limit."""
    kind, parts = stat.S_IFMT(entry.external_attr >> 16), entry.filename.split("/")
    shown = f"the archive holds {entry.filename[:200]!r}"
    if not entry.filename.isprintable() or {"", ".", ".."} & {*parts} or len(parts) > _MAX_DEPTH:
        raise HandoverError(f"{shown}, which is no path that we write")
    if kind not in (0, stat.S_IFREG):
        raise HandoverError(f"{shown}, which is no regular file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise HandoverError(f"{shown} by a method of compression that is not read")
    target = into.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    size_bytes = 0
    with packed.open(entry) as source, target.open("xb") as out:
        # What the zip says of sizes is not believed.
        while chunk := source.read(2**20):
            size_bytes += len(chunk)
            if size_bytes > limit_bytes:
                return None
            out.write(chunk)
    return size_bytes


class _NoStorage:
    """What is too large for the ledger was stored by the job that trained."""

    def put_file(self, name: str, _: Path) -> None:
        raise StorageError(f"{name} is not stored here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was taken from a folder: files for the ledger, and the keys that have records now."""

    files: Mapping[str, bytes]
    records: tuple[str, ...]
    failed: tuple[Attempt, ...]
    costs_usd: tuple[float, ...]
    left: tuple[str, ...] = ()
    """Keys in the folder that the trials do not have."""


def take(
    folder: Path,
    digest: str,
    trials: Sequence[Trial],
    origin: Origin,
    *,
    now: datetime,
    since: datetime | None = None,
    done: Collection[str] = (),
    all_of: bool = True,
) -> Taken:
    """Make records anew from a folder's raw outputs.

    Args:
        folder: as it came from the training job.
        digest: as the training job itself said it.
        trials: that the publisher's own plan lets be trained; anything else in the folder is refused.
        origin: of the records.
        now: aware UTC; nothing began later.
        since: when the training job was asked for; what it says to have begun earlier counts from then. None: whoever
            handed over ran no code of a change, and knows its times from the cloud.
        done: keys that were taken before.
        all_of: refuse the folder if it holds more. A sweep's winner is known only when its points are, so what
            confirms it is taken with a second plan.

    Raises:
        HandoverError: the folder is not what the digest says, or not what it should be.
    """
    _held_to(folder, digest)
    index = _index(folder / "handover.json")
    planned = {trial.key: trial for trial in trials}
    handed = {*index.records, *(attempt.key for attempt in index.failed)} - set(done)
    strange = sorted(handed - planned.keys())
    if strange and all_of:
        raise HandoverError(f"{folder} holds results of trials that are not in the plan: {strange[0][:12]}")
    records = {key: entry for key, entry in index.records.items() if key in planned and key not in done}
    files: dict[str, bytes] = {}
    succeeded: list[Attempt] = []
    for key, (attempt, stored) in records.items():
        believed = _believed(attempt, planned[key], origin, since, now)
        succeeded.append(believed)
        files |= _record_files(planned[key], believed, stored, folder / "outputs" / key)
    lost = [attempt for attempt in index.failed if attempt.key in planned and attempt.key not in done]
    failed = tuple(_believed(attempt, planned[attempt.key], origin, since, now) for attempt in lost)
    for attempt in failed:
        files[attempt_path(attempt.key, attempt.number)] = json_bytes(attempt_to_json(attempt))
    costs = [attempt.cost_usd for attempt in (*succeeded, *failed)]
    return Taken(files=files, records=tuple(records), failed=failed, costs_usd=tuple(costs), left=tuple(strange))


def live_in(folder: Path, digest: str) -> tuple[str, ...]:
    """Return the keys of the jobs that were not over when the folder was left."""
    _held_to(folder, digest)
    return _index(folder / "handover.json").live


def ended_in(folder: Path, digest: str, origin: Origin, now: datetime) -> tuple[Attempt, ...]:
    """Return the attempts of jobs that no plan has any more.

    Only for what a job has handed over that runs no code of any change: there is no plan to hold them to.
    """
    _held_to(folder, digest)
    found = []
    for attempt in _index(folder / "handover.json").ended:
        if not re.fullmatch(r"[0-9a-f]{64}", attempt.key):
            raise HandoverError(f"{folder}: {attempt.key[:80]!r} is no key")
        whose = dataclasses.replace(origin, change=attempt.origin.change)
        found.append(dataclasses.replace(_possible(attempt, None, now), origin=whose))
    return tuple(found)


def heads_in(folder: Path, digest: str) -> Mapping[str, int]:
    """Return heads that stand no longer and left records, with their changes' numbers."""
    _held_to(folder, digest)
    return _index(folder / "handover.json").heads


def _held_to(folder: Path, digest: str) -> None:
    found = digest_of(folder)
    if found != digest:
        raise DeniedError(
            f"{folder} has the digest {found[:12]}, and the job that trained said {digest[:12]}: somebody changed it "
            "on the way, and nothing of it is taken. Run the job that trains again"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    records: Mapping[str, tuple[Attempt, tuple[StoredFile, ...]]]
    failed: tuple[Attempt, ...]
    live: tuple[str, ...] = ()
    ended: tuple[Attempt, ...] = ()
    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _index(file: Path) -> _Index:
    try:
        if file.stat().st_size > MAX_INDEX_BYTES:
            raise HandoverError(f"{file} is larger than {MAX_INDEX_BYTES} bytes")
        document = json_document(file.read_bytes())
        if document.get("schema") != SCHEMA:
            raise HandoverError(f"{file}: schema is {document.get('schema')!r}, not {SCHEMA!r}")
        records = {}
        for key, entry in _mapping(document.get("records")).items():
            if not re.fullmatch(r"[0-9a-f]{64}", key):
                raise HandoverError(f"{file}: {key!r} is no key")
            attempt = attempt_from_json(_mapping(_mapping(entry).get("attempt")))
            if attempt.outcome is not Outcome.SUCCEEDED:
                raise HandoverError(f"{file}: {key[:12]} has outputs and did not succeed")
            records[key] = attempt, tuple(_stored(one) for one in _list(_mapping(entry).get("files")))
        failed = tuple(attempt_from_json(_mapping(one)) for one in _list(document.get("failed")))
        ended = tuple(attempt_from_json(_mapping(one)) for one in _list(document.get("ended", [])))
        if any(attempt.outcome is Outcome.SUCCEEDED for attempt in (*failed, *ended)):
            raise HandoverError(f"{file}: an attempt that succeeded stands among those that did not")
        live = tuple(str(one) for one in _list(document.get("live", [])))
        heads = _mapping(document.get("heads", {}))
        if not all(re.fullmatch("[0-9a-f]{40,64}", one) and type(number) is int for one, number in heads.items()):
            raise HandoverError(f"{file}: an entry of `heads` is no commit with the number of a change")
    except OSError as error:
        raise HandoverError(f"cannot read {file}: {error.strerror}") from error
    except RecordError as error:
        raise HandoverError(f"{file}: {error}") from error
    return _Index(records=records, failed=failed, live=live, ended=ended, heads=heads)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError("an object is missing")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise RecordError("a list is missing")
    return value


def _stored(value: Any) -> StoredFile:
    entry = _mapping(value)
    path, sha256, size, store = (entry.get(name) for name in ("path", "sha256", "size_bytes", "store"))
    good = isinstance(path, str) and path.isprintable() and isinstance(sha256, str)
    if not good or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise RecordError("an entry of `files` is not what it should be")
    assert isinstance(path, str)
    assert isinstance(sha256, str)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or store not in ("git", "storage", "none"):
        raise RecordError("an entry of `files` is not what it should be")
    return StoredFile(path=path, sha256=sha256, size_bytes=size, store=store)


def _believed(attempt: Attempt, trial: Trial, origin: Origin, since: datetime | None, now: datetime) -> Attempt:
    """Return the attempt with everything that is known better here."""
    return dataclasses.replace(
        _possible(dataclasses.replace(attempt, key=trial.key), since, now),
        experiment=trial.experiment.name,
        commit=trial.version.commit,
        dirty=trial.version.dirty,
        params=trial.params,
        seed=trial.seed,
        origin=origin,
    )


def _possible(attempt: Attempt, since: datetime | None, now: datetime) -> Attempt:
    """Return the attempt if it can be one, and as far as it can be.

    A negative cost would buy more trainings, and so would a date in another month: money counts where it began. Who
    names a price and the seconds that were paid for cannot have paid less.
    """
    if attempt.cost_usd < 0 or attempt.duration_s < 0 or not 1 <= attempt.number <= 10_000:
        raise HandoverError(f"the attempt of {attempt.key[:12]} has a negative cost, duration or number")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", attempt.started_at, re.ASCII):
        raise HandoverError(f"the attempt of {attempt.key[:12]} began at no time: {attempt.started_at[:40]!r}")
    usage = attempt.usage
    paid_usd = (usage.usd_per_hour or 0.0) * usage.billed_s / 3600 if usage is not None else 0.0
    if not math.isfinite(paid_usd):
        raise HandoverError(f"the attempt of {attempt.key[:12]} names a price and seconds whose product is no amount")
    times = [attempt.started_at, *([_moment(since)] if since is not None else [])]
    return dataclasses.replace(
        attempt,
        started_at=min(max(times), _moment(now)),  # in this form they sort as they follow each other
        cost_usd=max(attempt.cost_usd, round(paid_usd, 6)),
        reason=attempt.reason[:1000],
        log_tail=attempt.log_tail.encode(errors="replace")[-_LOG_TAIL_BYTES:].decode(errors="ignore"),
    )


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record_files(trial: Trial, attempt: Attempt, stored: Sequence[StoredFile], folder: Path) -> Mapping[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)  # a training may leave nothing
    # Of files that are here digest and place are our own finding; of the others only the training job knows.
    said = {file.path: file for file in stored if file.store != "git"}
    record, files = made_record(trial, attempt, folder, _NoStorage(), elsewhere=said)
    here = {
        file.path: dataclasses.replace(file, store=said[file.path].store)
        if file.store == "none" and file.path in said
        else file
        for file in record.files
    }
    listed = {**{path: file for path, file in said.items() if path not in here}, **here}
    record = dataclasses.replace(record, files=tuple(listed[path] for path in sorted(listed)))
    return {**files, record_path(trial.key): json_bytes(record_to_json(record))}

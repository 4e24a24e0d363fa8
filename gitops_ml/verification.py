"""Whether a ledger is what it must be: keys and digests recomputed, histories only appended to, nothing half there.

Everything on the ledger may have been written by anybody who can push; what is found wrong is named, and the rest is
still looked at. What a newer version wrote is said and left alone.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from gitops_ml import reports
from gitops_ml.comparison_json import SCHEMA as REPORT_SCHEMA
from gitops_ml.errors import UserError
from gitops_ml.git import Repository
from gitops_ml.planning import digest
from gitops_ml.records import (
    ATTEMPT_SCHEMA,
    RECORD_SCHEMA,
    Record,
    RecordError,
    SeriesRange,
    attempt_from_json,
    json_document,
    record_from_json,
    series_from_csv,
    series_range,
)
from gitops_ml.values import dataclass

FOLDERS = ("records", "attempts", "reports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is off, and where: a path on the ledger, or a commit of its history."""

    where: str
    message: str


@dataclasses.dataclass(slots=True, kw_only=True)
class Verification:
    """What was looked at, and what was found; filled by ``verify``."""

    records: int = 0
    attempts: int = 0
    reports: int = 0
    files: int = 0
    """Whose digest was compared with the one in their record."""
    newer: list[str] = dataclasses.field(default_factory=list)
    """Files of a newer schema, which were left alone."""
    findings: list[Finding] = dataclasses.field(default_factory=list)


def verify(repository: Repository, tip: str, lost: Sequence[str] = ()) -> Verification:
    """Look at everything on the ledger at the tip, and at how it came there.

    Args:
        repository: it holds the ledger's whole history.
        tip: the ledger's commit.
        lost: tips that were seen earlier and are not in its history.
    """
    result = Verification()
    for seen in lost:
        result.findings.append(
            Finding(
                where=f"commit {seen[:12]}",
                message="it was the ledger's tip when it was fetched earlier, and is no longer in its history: the "
                "branch was rewritten (force-pushed)",
            )
        )
    result.findings += [
        Finding(where=path, message=f"{what} by commit {commit[:12]}; the ledger is only appended to")
        for commit, what, path in repository.rewrites(tip, FOLDERS)
    ]
    blobs: dict[str, str] = {}
    for path, file in repository.tree(tip, "the ledger").files.items():
        if file.mode.startswith("100"):
            blobs[path] = file.oid
        else:
            result.findings.append(Finding(where=path, message="is no plain file; nothing else belongs on the ledger"))
    for page in _pages(_folders(blobs, result)):
        _verify_page(repository, page, blobs, result)
    return result


_Folder = tuple[str, Sequence[str]]
_FORMS = {
    "records": re.compile(r"records/(?P<short>[0-9a-f]{2})/(?P<key>[0-9a-f]{64})"),
    "attempts": re.compile(r"attempts/(?P<short>[0-9a-f]{2})/(?P<key>[0-9a-f]{64})"),
    "reports": re.compile(
        r"reports/(?P<experiment>[a-z0-9][a-z0-9-]{0,62})/(?P<commit>[0-9a-f]{12})-(?P<plan>[0-9a-f]{8})"
    ),
}
_PAGE_FILES = 500


def _folders(blobs: Mapping[str, str], result: Verification) -> Iterator[_Folder]:
    """Yield each record's, key's or report's folder with its files; what stands elsewhere is a finding."""
    folders: dict[str, list[str]] = {}
    for path in blobs:
        parts = path.split("/")
        if parts[0] in FOLDERS and len(parts) > 3:
            folders.setdefault("/".join(parts[:3]), []).append(path)
        elif path != "README.md":
            result.findings.append(Finding(where=path, message="has no place on the ledger"))
    for folder, paths in folders.items():
        match = _FORMS[folder.partition("/")[0]].fullmatch(folder)
        if match is None or not match.groupdict().get("key", "").startswith(match.groupdict().get("short", "")):
            result.findings.append(Finding(where=folder, message="is named by no key or commit; nothing reads it"))
        else:
            yield folder, paths


def _pages(folders: Iterator[_Folder]) -> Iterator[list[_Folder]]:
    """Yield folders together, so that git is asked for many files at once and few are in memory."""
    page: list[_Folder] = []
    for folder in folders:
        page.append(folder)
        if sum(len(paths) for _, paths in page) >= _PAGE_FILES or len(page) >= _PAGE_FILES:
            yield page
            page = []
    if page:
        yield page


def _verify_page(
    repository: Repository, page: Sequence[_Folder], blobs: Mapping[str, str], result: Verification
) -> None:
    # Of a report only its JSON is looked at: text and plots follow from it.
    wanted = [path for folder, paths in page for path in paths if _is_read(folder, path)]
    found = repository.objects([blobs[path] for path in wanted])
    contents = {path: one.data for path, one in zip(wanted, found, strict=True) if one is not None}
    for path in wanted:
        if path not in contents:
            result.findings.append(Finding(where=path, message="its content is missing from this repository: git fsck"))
    for folder, paths in page:
        files = {path.removeprefix(folder + "/"): contents[path] for path in paths if path in contents}
        if len(files) < sum(_is_read(folder, path) for path in paths):
            continue
        kind = folder.partition("/")[0]
        check = {"records": _record, "attempts": _attempts, "reports": _report}[kind]
        result.findings += [Finding(where=where, message=text) for where, text in check(folder, files, result)]


def _is_read(folder: str, path: str) -> bool:
    return not folder.startswith("reports/") or path == f"{folder}/report.json"


_Found = Iterator[tuple[str, str]]


def _record(folder: str, files: Mapping[str, bytes], result: Verification) -> _Found:
    where = f"{folder}/record.json"
    if "record.json" not in files:
        yield folder, "has no record.json: half a record, which nothing reads"
        return
    result.records += 1
    if _is_newer(files["record.json"], RECORD_SCHEMA):
        result.newer.append(where)
        return
    try:
        record = record_from_json(json_document(files["record.json"]))
        key = digest(record.document)
    except (RecordError, ValueError, RecursionError) as error:
        yield where, f"cannot be read: {error}"
        return
    named = folder.rpartition("/")[2]
    if record.key != named:
        yield where, f"says that its key is {record.key[:12]}, and stands under {named[:12]}"
    if key != named:
        yield where, f"its key document has the key {key[:12]}, not {named[:12]}: it was changed after it was written"
    if record.attempt.key != record.key:
        yield where, f"its attempt is of another key, {record.attempt.key[:12]}"
    for name, said, keyed in (
        ("seed", record.seed, record.document.get("seed")),
        ("repeat", record.repeat, record.document.get("repeat")),
        ("params", _jsonable(record.params), record.document.get("params")),
    ):
        if said != keyed:
            yield where, f"its {name} differs from the one in its key document"
    yield from _outputs(folder, record, files, result)
    if "series.csv" in files:
        yield from _series(folder, record, files["series.csv"])
    elif record.ranges:
        yield where, f"speaks of {len(record.ranges)} series, and there is no series.csv"


def _outputs(folder: str, record: Record, files: Mapping[str, bytes], result: Verification) -> _Found:
    said = {f"outputs/{file.path}": file for file in record.files if file.store == "git"}
    for name, file in said.items():
        if name not in files:
            yield f"{folder}/{name}", "is missing; its record says that it is here"
            continue
        result.files += 1
        found = hashlib.sha256(files[name]).hexdigest()
        if found != file.sha256:
            yield f"{folder}/{name}", f"has the sha256 {found}; its record says {file.sha256[:64]}"
    for name in files:
        if name not in said and name not in ("record.json", "series.csv"):
            yield f"{folder}/{name}", "is not named in its record"


def _series(folder: str, record: Record, data: bytes) -> _Found:
    where = f"{folder}/series.csv"
    try:
        found = {series.name: series_range(series) for series in series_from_csv(data)}
    except RecordError as error:
        yield where, f"cannot be read: {error}"
        return
    said = {one.name: one for one in record.ranges}
    for name in sorted({*found, *said}):
        if name not in said or name not in found:
            yield where, f"the series {name[:80]!r} is only in {'it' if name in found else 'its record'}"
        elif _ends(found[name], decimated=record.decimated) != _ends(said[name], decimated=record.decimated):
            yield where, f"the series {name[:80]!r} is not the one that its record describes"


def _ends(one: SeriesRange, *, decimated: bool) -> list[str]:
    # As texts: NaN equals NaN here, and 1 is 1.0. Decimating keeps ends and extremes, and leaves out points.
    numbers = [repr(float(number)) for number in (one.first, one.last, one.minimum, one.maximum)]
    return numbers if decimated else [*numbers, str(one.points)]


def _attempts(folder: str, files: Mapping[str, bytes], result: Verification) -> _Found:
    for name, data in sorted(files.items()):
        where = f"{folder}/{name}"
        result.attempts += 1
        if _is_newer(data, ATTEMPT_SCHEMA):
            result.newer.append(where)
            continue
        try:
            attempt = attempt_from_json(json_document(data))
        except RecordError as error:
            yield where, f"cannot be read: {error}"
            continue
        if attempt.key != folder.rpartition("/")[2]:
            yield where, f"is of another key, {attempt.key[:12]}"
        if name != f"{attempt.number}.json":
            yield where, f"says that it is number {attempt.number}"


def _report(folder: str, files: Mapping[str, bytes], result: Verification) -> _Found:
    where = f"{folder}/report.json"
    if "report.json" not in files:
        yield folder, "has no report.json: half a report, which nothing reads"
        return
    result.reports += 1
    if _is_newer(files["report.json"], REPORT_SCHEMA):
        result.newer.append(where)
        return
    try:
        experiments = reports.comparison_from(files["report.json"], "").experiments
    except UserError as error:
        yield where, f"cannot be read{str(error).partition(';')[0]}"
        return
    match = _FORMS["reports"].fullmatch(folder)
    assert match is not None
    if len(experiments) != 1:
        yield where, f"is of {len(experiments)} experiments, not of one"
        return
    (experiment,) = experiments
    if experiment.name != match["experiment"]:
        yield where, f"is of the experiment {experiment.name[:80]!r}"
    if not experiment.head.commit.startswith(match["commit"]):
        yield where, f"is of commit {experiment.head.commit[:12]}"


def _is_newer(data: bytes, schema: str) -> bool:
    """Say whether a file is of a later version of the schema; what is no JSON is not."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    found = document.get("schema") if isinstance(document, dict) else None
    ours, _, version = schema.rpartition("v")
    match = re.fullmatch(re.escape(ours) + "v([0-9]{1,6})", found) if isinstance(found, str) else None
    return match is not None and int(match[1]) > int(version)


def _jsonable(values: Mapping[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

"""The ledger branch and the results kept here until they are pushed: read many, append without loss.

Both hold the same tree of files (design: the ledger), so everything is read from both, the ledger first. Nothing here
is ever rewritten: of two records, reports or attempts in one place the first stays.
"""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gitops_ml.errors import GitError, ServiceError
from gitops_ml.git import RefusedError, RejectedError, Repository, locked, replace_file, state_folder
from gitops_ml.records import (
    Attempt,
    Record,
    RecordError,
    Series,
    attempt_from_json,
    json_bytes,
    json_document,
    record_from_json,
    series_from_csv,
)
from gitops_ml.values import dataclass

if TYPE_CHECKING:
    from gitops_ml.entries import Entry, EntryCache, ReportEntry

_E = TypeVar("_E", "Entry", "ReportEntry")

_PUSHES = 40
_FAILURES = 4
_PUSH_LIMIT_S = 240.0
_README_ROWS = 200


def record_path(key: str) -> str:
    """Return where a record stands: ``records/<k0k1>/<key>/record.json``."""
    return f"records/{key[:2]}/{key}/record.json"


def series_path(key: str) -> str:
    """Return where a record's series stand."""
    return f"records/{key[:2]}/{key}/series.csv"


def attempt_path(key: str, number: int) -> str:
    """Return where an attempt that did not succeed stands."""
    return f"attempts/{key[:2]}/{key}/{number}.json"


def report_path(experiment: str, commit: str, plan: str) -> str:
    """Return the folder of a report."""
    return f"reports/{experiment}/{commit[:12]}-{plan[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did: the ledger's commit, the paths added, and the record keys that were there before."""

    commit: str
    """Empty: there is no ledger yet, and there was nothing to begin one with."""
    added: Sequence[str] = ()
    present: Sequence[str] = ()
    warnings: Sequence[str] = ()


class Results:
    """Records, attempts and reports, from the ledger branch and from ``.gitops-ml/results``."""

    def __init__(
        self,
        repository: Repository,
        *,
        remote: str,
        branch: str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._remote = remote
        self._branch = branch
        self._ref = f"refs/heads/{branch}"
        self._sleep = sleep
        self._clock = clock
        self._warnings: dict[str, None] = {}
        self._tip: str | None = None
        self._tip_known = False
        self._folder = folder_of_state(repository.state)

    def refresh(self) -> None:
        """Fetch the ledger branch once; a remote that cannot be reached is a warning in ``warnings``, not an error."""
        if self._repository.remote_url(self._remote) is None:
            return
        try:
            self._fetch()
        except ServiceError as error:
            self._warn(f"the ledger is read as it was last fetched: {error}")

    @property
    def warnings(self) -> Sequence[str]:
        """What went wrong while reading, for the user."""
        return tuple(self._warnings)

    @property
    def tip(self) -> str | None:
        """The ledger's commit as it was last fetched; None: there is none."""
        if not self._tip_known:
            found = self._repository.fetched(self._remote, self._ref)
            # A clone fetches every branch by default, also this one.
            self._tip = found or self._repository.resolve(f"refs/remotes/{self._remote}/{self._branch}")
            self._tip_known = True
        return self._tip

    def lost_tips(self) -> Sequence[str]:
        """Return the tips that were fetched here and are no longer in the ledger's history: somebody rewrote it."""
        tip = self.tip
        return [seen for seen in self._seen_before_rewriting() if tip and not self._repository.is_ancestor(seen, tip)]

    def keys(self) -> frozenset[str]:
        """Return the keys that have a record."""
        return frozenset(self._record_folders()) | frozenset(self._local_keys())

    def records(self, keys: Iterable[str]) -> Mapping[str, Record]:
        """Return the records of those keys that have one. A broken record is left out and named in ``warnings``."""
        wanted = [key for key in dict.fromkeys(keys) if _KEY.fullmatch(key)]
        files = self._read([path for key in wanted for path in (record_path(key), series_path(key))])
        found = {}
        for key in wanted:
            if (data := files[record_path(key)]) is not None:
                record = self._record(key, data, files[series_path(key)])
                if record is not None:
                    found[key] = record
        return found

    def all_records(self) -> Iterator[Record]:
        """Yield every record, in order of keys; series are not read."""
        folders = self._record_folders()
        local = self._local_keys()
        keys = sorted(folders.keys() | local)
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            on_ledger = [key for key in page if key in folders]
            found = self._repository.objects([f"{folders[key]}:record.json" for key in on_ledger])
            data = {key: one.data for key, one in zip(on_ledger, found, strict=True) if one is not None}
            for key in page:
                content = data[key] if key in data else self._local(record_path(key))
                record = None if content is None else self._record(key, content, None)
                if record is not None:
                    yield record

    def entries(self) -> "tuple[Sequence[Entry], Sequence[ReportEntry]]":
        """Return what history shows of every record, in order of keys, and of every report, in order of folders.

        What was read once is kept in ``.gitops-ml/history.json`` under the id of its folder's tree. That id names the
        content, so the cache never goes stale, and whoever removes it loses nothing but the time.
        """
        from gitops_ml.entries import EntryCache, record_entry, report_entry

        file = self._repository.state / "history.json"
        try:
            cache = EntryCache.from_bytes(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            cache = EntryCache()
        top = self._repository.entries(self.tip) if self.tip else None
        trees = tuple(top[kind].oid if top and kind in top else "" for kind in ("records", "reports"))
        if trees != cache.trees or not self.tip:
            folders, report_folders = self._record_folders(), self._report_folders()
            before, cache = cache, self._read_entries(cache, folders, report_folders)
            # What cannot be read is said each time: then all of it has to be gone through each time.
            if len(cache.records) == len(folders) and len(cache.reports) == len(report_folders):
                cache.trees = (trees[0], trees[1])
            if self.tip and cache != before:
                state_folder(self._repository.state)
                replace_file(file, cache.to_bytes())
        records = {entry.key: entry for entry in cache.records.values()}
        reports = {report.folder: report for report in cache.reports.values()}
        for key in self._local_keys() - records.keys():
            self._add_entry(records, key, self._local(record_path(key)), record_entry)
        for folder in self._local_report_folders() - reports.keys():
            self._add_entry(reports, folder, self._local(f"{folder}/report.json"), report_entry)
        return [records[key] for key in sorted(records)], [reports[folder] for folder in sorted(reports)]

    def _read_entries(
        self, cache: "EntryCache", folders: Mapping[str, str], report_folders: Mapping[str, str]
    ) -> "EntryCache":
        """Return the cache for these folders: what it held of them, and what had to be read."""
        from gitops_ml.entries import EntryCache, record_entry, report_entry

        records = {key: one for key, oid in folders.items() if (one := cache.records.get(oid)) and one.key == key}
        reports = {
            name: report
            for name, oid in report_folders.items()
            if (report := cache.reports.get(oid)) and report.folder == name
        }
        lacking = {key: oid for key, oid in folders.items() if key not in records}
        records |= self._entries(lacking, "record.json", record_entry)
        lacking = {name: oid for name, oid in report_folders.items() if name not in reports}
        reports |= self._entries(lacking, "report.json", report_entry)
        return EntryCache(
            {folders[key]: entry for key, entry in records.items()},
            {report_folders[folder]: entry for folder, entry in reports.items()},
        )

    def attempts(self, keys: Iterable[str]) -> Mapping[str, Sequence[Attempt]]:
        """Return the attempts that did not succeed, by key, oldest first."""
        wanted = [key for key in dict.fromkeys(keys) if _KEY.fullmatch(key)]
        paths: dict[str, set[str]] = {key: set() for key in wanted}
        if self.tip and wanted:
            trees = self._repository.all_entries([f"{self.tip}:{_attempts_folder(key)}" for key in wanted])
            for key, entries in zip(wanted, trees, strict=True):
                paths[key] = {f"{_attempts_folder(key)}/{name}" for name in entries or ()}
        for key in wanted:
            folder = self._folder / _attempts_folder(key)
            if folder.is_dir():
                paths[key] |= {f"{_attempts_folder(key)}/{file.name}" for file in folder.glob("[!.]*.json")}
        files = self._read([path for key in wanted for path in sorted(paths[key])])
        found = {}
        for key in wanted:
            attempts = [self._attempt(path, data) for path in paths[key] if (data := files[path]) is not None]
            known = [attempt for attempt in attempts if attempt is not None]
            if known:
                found[key] = tuple(sorted(known, key=lambda attempt: (attempt.number, attempt.started_at)))
        return found

    def attempted(self) -> frozenset[str]:
        """Return the keys that have an attempt that did not succeed."""
        files = (self._folder / "attempts").glob("??/*/[!.]*.json")
        local = {file.parent.name for file in files if _KEY.fullmatch(file.parent.name)}
        return frozenset(self._folders("attempts")) | local

    def report_folders(self) -> Sequence[str]:
        """Return the folder of every report, in order."""
        return sorted(self._local_report_folders() | self._report_folders().keys())

    def report_files(self, folder: str) -> Mapping[str, bytes] | None:
        """Return the files of one report by their path below ``folder``; None: there is no such report."""
        return self._ledger_files(folder) or self._local_files(folder) or None

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep files here until they are pushed; each whole or not at all, a record that is there stays."""
        for path in files:
            _check_path(path)
        with self._lock("results"):
            settled = {unit for path in files if (unit := _unit(path)) and (self._folder / unit[1]).exists()}
            # What makes a unit whole comes last: a record without record.json is none.
            for path in sorted(files, key=lambda path: (_is_marker(path), path)):
                if path.startswith("attempts/"):
                    there = self._local_files(path.rpartition("/")[0])
                    if numbered := _numbered(path, files[path], there):
                        replace_file(self._folder / numbered[0], numbered[1])
                elif _unit(path) not in settled:
                    replace_file(self._folder / path, files[path])

    def kept(self) -> Mapping[str, bytes]:
        """Return what is kept here and not yet known to be on the ledger; of unfinished units nothing."""
        if not self._folder.is_dir():
            return {}
        files = {}
        for file in sorted(self._folder.rglob("*")):
            path = file.relative_to(self._folder).as_posix()
            if file.name.startswith(".new-") or not file.is_file():
                continue
            unit = _unit(path)
            if unit is None or (self._folder / unit[1]).exists():
                files[path] = file.read_bytes()
        return files

    def push(self, message: str, commits: Sequence[str] = ()) -> Pushed:
        """Append everything kept here to the ledger branch in one commit, and free it here when it is there.

        ``commits``, and those that the records were trained at, are pushed too, as ``refs/gitops-ml/commits/<sha>``,
        so that they can be found after a squash; a server that refuses this is a warning.

        Raises:
            GitError: there is no such remote.
            ServiceError: the remote refused or could not be reached; everything is still kept here.
        """
        if self._repository.remote_url(self._remote) is None:
            raise GitError(
                f"there is no remote called `{self._remote}` to push results to; add one (git remote add "
                f"{self._remote} URL) or name another as `ledger: {{remote: ...}}` in gitops-ml.yaml"
            )
        with self._lock("push"):
            files = self.kept()
            pushed = self._append(files, message)
            refused = self._repository.push_commits(self._remote, self._here({*commits, *_commits_of(files)}))
            self._free(files)
        warnings = [
            f"commit {commit[:12]} is not kept on {self._remote} ({why}); after a squash it may be lost"
            for commit, why in refused.items()
        ]
        return dataclasses.replace(pushed, warnings=tuple(warnings))

    def _here(self, commits: Iterable[str]) -> Sequence[str]:
        """Return the commits that this repository has; a record may have been made elsewhere."""
        names = sorted(commits)
        found = self._repository.objects([f"{name}^{{commit}}" for name in names])
        return [name for name, one in zip(names, found, strict=True) if one is not None and one.oid == name]

    # Appending

    def _append(self, files: Mapping[str, bytes], message: str) -> Pushed:
        import random

        deadline = self._clock() + _PUSH_LIMIT_S
        failures = rejections = 0
        written: dict[str, Sequence[str]] = {}
        present: frozenset[str] = frozenset()
        while True:
            try:
                tip = self._fetch()
                self._check_branch(tip)
                # An answer may have been lost: then one of our commits is already part of the branch.
                done = next((c for c in reversed(written) if tip and self._repository.is_ancestor(c, tip)), None)
                if done:
                    return Pushed(commit=tip or "", added=tuple(written[done]), present=tuple(sorted(present)))
                new, present = self._new(files, tip)
                if not new:
                    return Pushed(commit=tip or "", present=tuple(sorted(present)))
                readme = {"README.md": self._readme(new, tip)}
                commit = self._repository.write_commit({**new, **readme}, parent=tip, message=message)
                written[commit] = sorted(new)
                self._repository.push(self._remote, commit, self._ref, expected=tip)
            except RejectedError as error:
                rejections += 1
                if rejections >= _PUSHES or self._clock() > deadline:
                    raise ServiceError(
                        f"{self._branch} on {self._remote} moved {rejections} times while results were pushed "
                        f"({error.message}); they are kept here: push again"
                    ) from error
                # Full jitter: among many writers each gets its turn without knowing of the others.
                self._sleep(random.uniform(0, min(0.05 * 2 ** min(rejections, 6), 2.0)))  # noqa: S311
            except RefusedError as error:
                raise RefusedError(f"{error}; the results are kept here: report --push again") from error
            except ServiceError as error:
                failures += 1
                if failures >= _FAILURES or self._clock() > deadline:
                    raise ServiceError(f"{error}; the results are kept here: report --push again") from error
                self._sleep(random.uniform(0, 2.0**failures))  # noqa: S311
            else:
                self._repository.remember(self._remote, self._ref, commit)
                self._set_tip(commit)
                return Pushed(commit=commit, added=tuple(sorted(new)), present=tuple(sorted(present)))

    def _check_branch(self, tip: str | None) -> None:
        """Refuse a branch of other things: records pushed to `main` would be commits on top of the code."""
        names = set(self._repository.entries(tip) or ()) if tip else set()
        others = sorted(name for name in names - {"README.md"} if not name.startswith("."))
        if others and names.isdisjoint({"records", "attempts", "reports"}):
            from gitops_ml.source import shown

            raise GitError(
                f"{self._branch} on {self._remote} is no ledger: it holds {shown(others[0])}. Results need a branch of "
                "their own; name another as `ledger: {branch: gitops-ml/reports}` in gitops-ml.yaml"
            )

    def _new(self, files: Mapping[str, bytes], tip: str | None) -> tuple[dict[str, bytes], frozenset[str]]:
        """Return what the ledger at the tip lacks, and the keys of records that it has."""
        if tip is None:
            return dict(files), frozenset()
        asked = sorted({unit[1] if (unit := _unit(path)) else path for path in files})
        there = dict(zip(asked, self._repository.objects([f"{tip}:{path}" for path in asked]), strict=True))
        new, present = {}, set()
        for path, data in files.items():
            unit = _unit(path)
            if there[unit[1] if unit else path] is None:
                new[path] = data
            elif path.startswith("records/"):
                present.add(path.split("/")[2])
            elif path.startswith("attempts/") and (numbered := self._renumbered(path, data, tip)):
                new[numbered[0]] = numbered[1]
        return new, frozenset(present)

    def _renumbered(self, path: str, data: bytes, tip: str) -> tuple[str, bytes] | None:
        entries = self._repository.entries(f"{tip}:{path.rpartition('/')[0]}") or {}
        found = self._repository.objects([entry.oid for entry in entries.values()])
        there = {name: one.data for name, one in zip(entries, found, strict=True) if one}
        return _numbered(path, data, there)

    def _free(self, files: Mapping[str, bytes]) -> None:
        """Remove what is confirmed to be on the ledger, as far as nothing else was kept in its place meanwhile."""
        with self._lock("results"):
            # A unit's marker goes first: what a killed process leaves is then no half record but a remnant.
            for path in sorted(files, key=lambda path: (not _is_marker(path), path)):
                file = self._folder / path
                with contextlib.suppress(FileNotFoundError):
                    if file.read_bytes() == files[path]:
                        file.unlink()
            for folder in sorted({p for path in files for p in (self._folder / path).parents}, reverse=True):
                if folder.is_relative_to(self._folder):
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def _readme(self, new: Mapping[str, bytes], tip: str | None) -> bytes:
        """Return the overview: the latest report of each experiment.

        Reports carry no time; those of this push are the newest, and of the others the one that the last overview
        names, as long as it is there.
        """
        folders = {}
        if tip:
            before = self._repository.object(f"{tip}:README.md")
            text = before.data.decode("utf-8", "replace") if before else ""
            folders = {match[1]: match[0].removesuffix("/") for match in _REPORT_LINK.finditer(text)}
            for name in self._repository.entries(f"{tip}:reports") or {}:
                if name not in folders and (versions := self._repository.entries(f"{tip}:reports/{name}")):
                    folders[name] = f"reports/{name}/{max(versions)}"
        for path in new:
            if (match := _REPORT_LINK.match(path)) and _is_marker(path):
                folders[match[1]] = match[0].removesuffix("/")
        names = sorted(folders)
        shown = names[:_README_ROWS]
        asked = [f"{tip}:{folders[name]}/report.json" for name in shown] if tip else []
        found = [one.data if one else None for one in self._repository.objects(asked)] or [None] * len(shown)
        rows = []
        for name, on_ledger in zip(shown, found, strict=True):
            data = new.get(f"{folders[name]}/report.json", on_ledger)
            if data is not None:
                commit = folders[name].rpartition("/")[2].partition("-")[0]
                rows.append(f"| {name} | {_gate(data)} | {commit} | [report]({folders[name]}/report.md) |")
        if len(names) > len(shown):
            rows.append(f"| and {len(names) - len(shown)} more | | | |")
        lines = ["# Results", "", _README_INTRO]
        if rows:
            lines += ["", "| experiment | gate | commit | latest |", "| --- | --- | --- | --- |", *rows]
        return ("\n".join(lines) + "\n").encode()

    # Reading

    def _fetch(self) -> str | None:
        before = self._repository.fetched(self._remote, self._ref)
        tip = self._repository.fetch(self._remote, self._ref, whole=True, apart=True)
        if before and tip is None:
            raise RefusedError(
                f"the ledger {self._branch} is no longer on {self._remote}; it was at {before}. Restore it with "
                f"git --git-dir={self._repository.state / 'git'} push URL {before}:{self._ref}, or forget it with "
                f"rm -r {self._repository.state / 'git'}"
            )
        if before and tip and before != tip and not self._repository.is_ancestor(before, tip):
            self._warn(f"the ledger {self._branch} was rewritten: {before[:12]} is not in the history of {tip[:12]}")
            # Said once, it would be forgotten: from now on the new tip is what was fetched last.
            seen = self._seen_before_rewriting()
            if before not in seen:
                replace_file(self._rewritten, "".join(f"{oid}\n" for oid in (*seen, before)).encode())
        self._set_tip(tip)
        return tip

    @property
    def _rewritten(self) -> Path:
        return self._repository.state / "ledger-rewritten"

    def _seen_before_rewriting(self) -> tuple[str, ...]:
        try:
            return tuple(_OID.findall(self._rewritten.read_text(encoding="ascii", errors="replace")))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def _set_tip(self, tip: str | None) -> None:
        self._tip, self._tip_known = tip, True

    def _record_folders(self) -> dict[str, str]:
        """Return the tree of each record's folder on the ledger, by key."""
        return self._folders("records")

    def _folders(self, kind: str) -> dict[str, str]:
        if not self.tip:
            return {}
        top = self._repository.entries(f"{self.tip}:{kind}") or {}
        trees = self._repository.all_entries([entry.oid for entry in top.values()])
        return {
            key: entry.oid
            for prefix, tree in zip(top, trees, strict=True)
            for key, entry in (tree or {}).items()
            if _KEY.fullmatch(key) and key[:2] == prefix
        }

    def _report_folders(self) -> dict[str, str]:
        """Return the tree of each report's folder on the ledger, by its path."""
        if not self.tip:
            return {}
        top = self._repository.entries(f"{self.tip}:reports") or {}
        trees = self._repository.all_entries([entry.oid for entry in top.values()])
        return {
            f"reports/{experiment}/{name}": entry.oid
            for experiment, tree in zip(top, trees, strict=True)
            for name, entry in (tree or {}).items()
            if entry.mode == "040000"
        }

    def _entries(self, folders: Mapping[str, str], file: str, read: Callable[[bytes, str], _E]) -> dict[str, _E]:
        """Return the entries of a file in each folder (path by tree); what is none is left out and named."""
        found: dict[str, _E] = {}
        names = list(folders)
        for start in range(0, len(names), _PAGE):
            page = names[start : start + _PAGE]
            objects = self._repository.objects([f"{folders[name]}:{file}" for name in page])
            for name, one in zip(page, objects, strict=True):
                self._add_entry(found, name, one.data if one and one.kind == "blob" else None, read)
        return found

    def _add_entry(self, found: dict[str, _E], name: str, data: bytes | None, read: Callable[[bytes, str], _E]) -> None:
        if data is None:
            return
        try:
            found[name] = read(data, name)
        except RecordError as error:
            what = name if "/" in name else f"the record {name[:12]}"
            self._warn(f"{what} cannot be read and is left out: {error}")

    def _local_keys(self) -> set[str]:
        files = (self._folder / "records").glob("??/*/record.json")
        return {file.parent.name for file in files if _KEY.fullmatch(file.parent.name)}

    def _local_report_folders(self) -> set[str]:
        files = (self._folder / "reports").glob("*/*/report.json")
        return {file.parent.relative_to(self._folder).as_posix() for file in files}

    def _read(self, paths: Sequence[str]) -> dict[str, bytes | None]:
        """Return the files by path, the ledger's before those kept here."""
        found = self._repository.objects([f"{self.tip}:{path}" for path in paths]) if self.tip and paths else []
        ledger = {path: one.data for path, one in zip(paths, found) if one and one.kind == "blob"}
        # A record's files come from one side: its series may lie here though the ledger's record has none.
        sides = {path: record_path(path.split("/")[2]) for path in paths if path.startswith("records/")}
        return {
            path: ledger[path] if path in ledger else None if sides.get(path) in ledger else self._local(path)
            for path in paths
        }

    def _local(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _ledger_files(self, folder: str) -> dict[str, bytes]:
        if not self.tip:
            return {}
        pending = [""]
        blobs: dict[str, str] = {}
        while pending:
            trees = self._repository.all_entries([f"{self.tip}:{folder}/{path}".rstrip("/") for path in pending])
            found = [
                (f"{path}/{name}".lstrip("/"), entry)
                for path, tree in zip(pending, trees, strict=True)
                for name, entry in (tree or {}).items()
            ]
            pending = [path for path, entry in found if entry.mode == "040000"]
            blobs |= {path: entry.oid for path, entry in found if entry.mode.startswith("100")}
        return {path: data for path, (_, data) in zip(blobs, self._repository.blobs([*blobs.values()]))}

    def _local_files(self, folder: str) -> dict[str, bytes]:
        _check_path(folder)
        top = self._folder / folder
        files = sorted(file for file in top.rglob("*") if file.is_file() and not file.name.startswith(".new-"))
        unit = _unit(f"{folder}/x")
        if unit and not (self._folder / unit[1]).exists():
            return {}
        return {file.relative_to(top).as_posix(): file.read_bytes() for file in files}

    def _record(self, key: str, data: bytes, series: bytes | None) -> Record | None:
        try:
            read: tuple[Series, ...] = () if series is None else series_from_csv(series)
            record = record_from_json(json_document(data), read)
            if record.key != key:
                raise RecordError(f"it says that its key is {record.key[:12]}")
        except RecordError as error:
            self._warn(f"the record {key[:12]} cannot be read and is left out: {error}")
            return None
        return record

    def _attempt(self, path: str, data: bytes) -> Attempt | None:
        try:
            return attempt_from_json(json_document(data))
        except RecordError as error:
            self._warn(f"{path} cannot be read and is left out: {error}")
            return None

    def _warn(self, text: str) -> None:
        self._warnings[text] = None

    def _lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        state_folder(self._repository.state)
        return locked(self._repository.state / f"{name}.lock")


def folder_of_state(state: Path) -> Path:
    """Return where results are kept until they are pushed."""
    return state / "results"


_PAGE = 512
_KEY = re.compile(r"[0-9a-f]{64}")
_OID = re.compile(r"^[0-9a-f]{40,64}$", re.MULTILINE)
_REPORT_LINK = re.compile(r"reports/([a-z0-9][a-z0-9-]{0,62})/[0-9a-f]+-[0-9a-f]+/")
_README_INTRO = (
    "Written by gitops-ml, never by hand: `records/` holds what each training left, under the key of all that\n"
    "determined it; `attempts/` what did not succeed; `reports/` each comparison. Nothing here is ever changed."
)


def _attempts_folder(key: str) -> str:
    return f"attempts/{key[:2]}/{key}"


def _unit(path: str) -> tuple[str, str] | None:
    """Return the folder that is whole or absent as one, and the file in it that is written last; None: a lone file."""
    parts = path.split("/")
    if len(parts) > 3 and parts[0] == "records":
        return "/".join(parts[:3]), "/".join((*parts[:3], "record.json"))
    if len(parts) > 3 and parts[0] == "reports":
        return "/".join(parts[:3]), "/".join((*parts[:3], "report.json"))
    return None


def _commits_of(files: Mapping[str, bytes]) -> set[str]:
    """Return the commits that the records among the files were trained at, as far as all of it was committed."""
    commits = set()
    for path, data in files.items():
        if path.startswith("records/") and _is_marker(path):
            with contextlib.suppress(RecordError):
                document = json_document(data)
                commit = document.get("commit")
                if document.get("dirty") is False and isinstance(commit, str) and _OID.fullmatch(commit):
                    commits.add(commit)
    return commits


def _is_marker(path: str) -> bool:
    unit = _unit(path)
    return unit is not None and unit[1] == path


def _check_path(path: str) -> None:
    parts = path.split("/")
    if parts[0] not in ("records", "attempts", "reports") or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise GitError(f"{path!r} is no place on the ledger")


def _numbered(path: str, data: bytes, there: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    """Return an attempt under its number or the next free one, or None when it is there under some number."""
    folder, _, name = path.rpartition("/")
    mine = _without_number(data)
    if any(_without_number(other) == mine for other in there.values()):
        return None
    if name not in there:
        return path, data
    number = 1 + max(int(stem) for other in there if (stem := other.removesuffix(".json")).isdecimal())
    return f"{folder}/{number}.json", json_bytes({**json_document(data), "number": number})


def _without_number(data: bytes) -> object:
    try:
        return {name: value for name, value in json_document(data).items() if name != "number"}
    except RecordError:
        return data


def _gate(report: bytes) -> str:
    """Return a report's gate, as far as its ``report.json`` says it in one plain word."""
    try:
        gate = json.loads(report).get("gate")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return gate if isinstance(gate, str) and re.fullmatch(r"[a-z ]{1,20}", gate) else ""

"""The contract of a metrics reader, and how a trial's outputs are read.

A reader is a class without arguments in one file and one line under ``gitops_ml.readers`` in
``pyproject.toml``; its name there is what ``metrics.read[].format`` accepts. It is lenient in what it
uses and strict in what it says: NaN and infinities are kept, torn tails, duplicates and wrong types become
``Problem``s, what is no metric is named in ``ignored``. It raises nothing for any bytes.
"""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gitops_ml import globs, plugins
from gitops_ml.records import Problem, Reading, Scalar, Series
from gitops_ml.spec import Read

MAX_BYTES = 100 * 2**20
"""A larger metrics file is reported, not read."""
HEAD_BYTES = 2**16
MAX_ENTRIES = 200_000
"""Files and folders of a workdir that are looked at."""
MAX_FILES = 10_000
"""Files and folders that one ``read`` entry may select."""


class UnreadableError(Exception):
    """A file, or the rest of it, cannot be used. Readers catch it and report it as a ``Problem``."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


class Reader(Protocol):
    """Reads one format."""

    rank: int
    """Order in which formats are tried when none is named: special formats 10, general ones 90."""

    def detect(self, file: Path, head: bytes) -> bool:
        """Say whether the file is of this format, from its name, its neighbours and its first 64 KiB.

        A folder is asked about too, with an empty ``head``: True if the folder is one unit of this format.
        """

    def unit(self, file: Path) -> Path:
        """Return what is read as one with this file: itself, or the folder that it belongs to."""
        return file

    def read(self, file: Path, name: str) -> Reading:
        """Return what the file or folder says; ``name`` is its path as the user knows it.

        A reader may also look at the file's neighbours (DVCLive's ``plots/metrics``).
        """


def read_outputs(
    folder: Path, reads: Sequence[Read], readers: Mapping[str, Reader] | None = None
) -> tuple[Reading, ...]:
    """Read all metrics that a trial left.

    Args:
        folder: the trial's workdir with its outputs; nothing outside of it is opened.
        reads: the spec's ``metrics.read``. A file that several of them select is read once, as the first says.
        readers: by name; default: all that are installed.

    Raises:
        UserError: a format's name is not known.
    """
    known = readers if readers is not None else _Installed()
    root = folder.resolve()
    paths = _walk(root)
    done: set[Path] = set()
    readings: list[Reading] = []
    for read in reads:
        readings += _read_entry(root, read, paths, known, done)
    return tuple(readings)


def merge(
    readings: Iterable[Reading], wanted: Collection[str] = ()
) -> tuple[tuple[Scalar, ...], tuple[Series, ...], tuple[Problem, ...]]:
    """Bring the metrics of all files under names that mean one thing each.

    A name that one file has is kept. A name that several have becomes ``file:name`` for each of them, with a
    problem that says so. ``wanted`` are the names that the spec tracks: one of the form ``file:name`` is given
    too where it was not needed, so that qualifying a name never breaks it.
    """
    readings = tuple(readings)
    found: list[tuple[str, Scalar | Series]] = [
        (reading.file, item) for reading in readings for item in _items(reading)
    ]
    files_of: defaultdict[str, list[str]] = defaultdict(list)
    for file, item in found:
        files_of[item.name].append(file)
    merged = [
        item if len(files_of[item.name]) == 1 else dataclasses.replace(item, name=f"{file}:{item.name}")
        for file, item in found
    ]
    names = {item.name for item in merged}
    for name in sorted(set(wanted) - names):
        merged += [dataclasses.replace(item, name=name) for file, item in found if _qualifies(name, file, item.name)][
            :1
        ]
    problems = [problem for reading in readings for problem in reading.problems]
    problems += _ambiguities(files_of)
    return (
        tuple(item for item in merged if isinstance(item, Scalar)),
        tuple(item for item in merged if isinstance(item, Series)),
        tuple(problems),
    )


class _Installed(Mapping[str, Reader]):
    """All installed readers; each is imported when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Reader] = {}

    def __getitem__(self, name: str) -> Reader:
        if name not in self._loaded:
            self._loaded[name] = plugins.load("reader", name)()
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(plugins.known("reader"))

    def __len__(self) -> int:
        return len(plugins.known("reader"))


def _items(reading: Reading) -> Iterator[Scalar | Series]:
    yield from reading.scalars
    yield from reading.series


def _walk(root: Path) -> list[str]:
    """Return all paths below the folder, sorted. Links to folders are not followed: they may lead in circles."""
    found: list[str] = []
    for parent, folders, files in os.walk(root):
        prefix = Path(parent).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found += [f"{prefix}{name}" for name in folders + files]
        if len(found) > MAX_ENTRIES:
            break
    return sorted(found[:MAX_ENTRIES])


def _read_entry(
    root: Path, read: Read, paths: Sequence[str], readers: Mapping[str, Reader], done: set[Path]
) -> Iterator[Reading]:
    pattern = globs.rooted(".", read.path)
    if pattern is None:
        yield _unread(read.path, "leads out of the workdir; it is not read")
        return
    several = globs.is_glob(pattern)
    reader = readers[read.format] if read.format is not None else None
    matches = ["."] if pattern == "." else globs.selected(paths, [pattern])
    if len(matches) > MAX_FILES:
        yield _unread(read.path, f"selects {len(matches):,} files; at most {MAX_FILES:,} are read: write a closer glob")
        return
    files = 0
    shown = False
    for match in matches:
        path = root / match
        if not path.resolve().is_relative_to(root):
            shown = True
            yield _unread(match, "is a link that leads out of the workdir; it is not read")
            continue
        folder = path.is_dir()
        if folder and several and read.format is not None and reader is not None and not reader.detect(path, b""):
            continue
        found = (read.format or "", reader) if reader is not None else _detect(path, readers)
        files += not folder or found is not None
        if found is not None:
            yield from _read_unit(root, path, found, done)
        elif path not in done and not (folder and several):
            done.add(path)
            shown = True
            yield _unknown(match, folder=folder, several=several, readers=readers)
    if not matches:
        yield _unread(read.path, "no file matches; did the training write it, relative to the workdir?")
    elif not files and not shown:
        yield _unread(read.path, "only folders match that are no unit of a known format; add `/**` to read their files")


def _read_unit(root: Path, path: Path, found: tuple[str, Reader], done: set[Path]) -> Iterator[Reading]:
    format_name, reader = found
    unit = reader.unit(path)
    if not unit.resolve().is_relative_to(root):
        unit = path
    if unit in done or path in done:
        return
    done.update((unit, path))
    reading = reader.read(unit, unit.relative_to(root).as_posix())
    yield reading if reading.format else dataclasses.replace(reading, format=format_name)


def _detect(path: Path, readers: Mapping[str, Reader]) -> tuple[str, Reader] | None:
    head = b""
    if path.is_file():
        try:
            with path.open("rb") as stream:
                head = stream.read(HEAD_BYTES)
        except OSError:
            return None
    elif not path.is_dir():
        return None  # a FIFO would wait for ever
    ranked = sorted((readers[name].rank, name) for name in readers)
    return next(((name, readers[name]) for _, name in ranked if readers[name].detect(path, head)), None)


def _unknown(name: str, *, folder: bool, several: bool, readers: Mapping[str, Reader]) -> Reading:
    if folder:
        return _unread(name, "is a folder and no unit of a known format; add `/**` to read the files in it")
    if several:
        return Reading(file=name, format="", ignored=(f"{name} (no metrics file that we know)",))
    return _unread(name, f"its format is not known; name one of them as `format`: {', '.join(sorted(readers))}")


def _unread(name: str, message: str) -> Reading:
    return Reading(file=name, format="", problems=(Problem(file=name, where="", message=message),))


def _qualifies(wanted: str, file: str, name: str) -> bool:
    # A folder that is one unit can be named by any file in it: `dvclive/metrics.json:acc`.
    if not wanted.endswith(f":{name}"):
        return False
    named = wanted[: -len(name) - 1]
    return named == file or file == "." or named.startswith(f"{file}/")


def _ambiguities(files_of: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, files in files_of.items():
        if len(files) > 1:
            groups[tuple(Counter(files))].append(name)
    for files, names in groups.items():
        shown = ", ".join(f"`{name}`" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield Problem(
            file=files[0],
            where=names[0],
            message=f"{shown}: the same name in {', '.join(files)}; write `{files[0]}:{names[0]}` to say which",
        )

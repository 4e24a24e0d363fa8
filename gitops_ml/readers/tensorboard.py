"""TensorBoard event files, as PyTorch (``simple_value``) and TensorFlow 2 or Keras (tensors) write them.

Needs no TensorBoard. All event files of one folder are read as one; where a restart wrote a step again, the
last write counts and it is said. Values are 32-bit floats mostly, so 0.6 is 0.6000000238. Every record's checksum
is verified; a tail that was cut off is reported, and what stands before it is used. Histograms, images and
texts are ignored with a word. Keras writes ``train`` and ``validation`` folders with the same names in both:
``out/logs/validation:epoch_loss`` says which.

    metrics: {read: ["out/**/events.out.tfevents.*"]}
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from gitops_ml.readers import protobuf, text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import MAX_NAMES, Findings
from gitops_ml.readers.protobuf import WireError
from gitops_ml.records import Reading

MARK = ".tfevents."
MAX_RECORD_BYTES = 2**16
"""No scalar is larger: a larger record is an image, a graph or a histogram and is passed over unread."""
MAX_FILES = 1000

_Point = tuple[float, float]
_DTYPES = {1: "f", 2: "d", 3: "i", 9: "q", 19: "e"}
"""Of TensorProto: float, double, int32, int64, half."""


class TensorboardReader(Reader):
    """The event files of one folder."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:
        """By name, or by the first record."""
        if file.is_dir():
            return any(_event_files(file))
        return MARK in file.name or b"brain.Event:" in head[:64]

    def unit(self, file: Path) -> Path:
        """Return the folder: several files of one training continue each other."""
        return file.parent if MARK in file.name and file.is_file() else file

    def read(self, file: Path, name: str) -> Reading:
        """Return one series per tag."""
        findings = Findings(name, "tensorboard")
        prefix = "" if name == "." else f"{name}/"
        events = _Events(findings)
        with findings.guarded():
            if not file.is_dir():
                events.add(file, name)
            files = sorted(_event_files(file)) if file.is_dir() else []
            if len(files) > MAX_FILES:
                raise UnreadableError("", f"holds {len(files):,} event files; at most {MAX_FILES:,} are read")
            for path in sorted(files, key=_first_time):
                with findings.guarded(f"{prefix}{path.name}"):
                    events.add(path, f"{prefix}{path.name}")
            events.finish()
        return findings.reading()


class _Events:
    """Gathers the values of all files, by tag and step."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._tags: dict[str, dict[int, _Point]] = {}
        self._plugins: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self._again: dict[str, int] = {}

    def add(self, file: Path, shown: str) -> None:
        for offset, record in _records(self._findings, file, shown):
            try:
                self._event(record)
            except WireError:
                self._findings.problem(f"byte {offset}", "holds no event; the record is not used", file=shown)

    def finish(self) -> None:
        for tag, points in self._tags.items():
            steps = sorted(points)
            if tag in self._again:
                self._findings.problem(
                    tag,
                    f"{self._again[tag]:,} steps were written again, as after a restart; the last write counts",
                )
            self._findings.uncount(len(steps))
            for step in steps:
                value, time = points[step]
                self._findings.point(tag, float(step), value, time)
        for tag, why in self._ignored.items():
            if tag not in self._tags:
                self._findings.ignore(tag, why)

    def _event(self, record: bytes) -> None:
        time = 0.0
        step = 0
        summaries = []
        for number, wire, value in protobuf.fields(record):
            if number == 1 and wire == protobuf.FIXED64:
                (time,) = struct.unpack("<d", _bytes(value))
            elif number == 2 and isinstance(value, int):
                step = protobuf.signed(value)
            elif number == 5 and wire == protobuf.BYTES:
                summaries.append(_bytes(value))
        for summary in summaries:
            for number, wire, value in protobuf.fields(summary):
                if number == 1 and wire == protobuf.BYTES:
                    self._value(_bytes(value), step, time)

    def _value(self, data: bytes, step: int, time: float) -> None:
        tag = ""
        value: float | None = None
        what = "no scalar"
        for number, wire, content in protobuf.fields(data):
            if number == 1 and wire == protobuf.BYTES:
                tag = _bytes(content).decode("utf-8", "surrogateescape")
            elif number == 2 and wire == protobuf.FIXED32:
                (value,) = struct.unpack("<f", _bytes(content))
            elif number == 8 and wire == protobuf.BYTES:
                value = _tensor(_bytes(content))
            elif number == 9 and wire == protobuf.BYTES:
                self._plugins.setdefault(tag, _plugin(_bytes(content)))
            elif number in _KINDS:
                what = _KINDS[number]
        plugin = self._plugins.get(tag, "")
        if value is None or plugin not in ("", "scalars"):
            if len(self._ignored) < MAX_NAMES:
                self._ignored[tag] = plugin or what
            return
        points = self._tags.get(tag)
        if points is None:
            if len(self._tags) >= MAX_NAMES:
                raise UnreadableError("", f"has more than {MAX_NAMES:,} names; those after them are not read")
            points = self._tags[tag] = {}
        if step in points:
            self._again[tag] = self._again.get(tag, 0) + 1
        else:
            self._findings.count(1)
        points[step] = (value, time)


_KINDS = {4: "image", 5: "histogram", 6: "audio"}


def _event_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if MARK in path.name and path.is_file() and not path.is_symlink())


def _first_time(file: Path) -> tuple[float, str]:
    """Return when the file was begun: the first record has the wall time first."""
    try:
        with text.open_bytes(file) as stream:
            head = stream.read(21)
    except (OSError, UnreadableError):
        head = b""
    time = struct.unpack("<d", head[13:21])[0] if len(head) == 21 and head[12] == 9 else 0.0
    return (time if time == time else 0.0), file.name


def _records(findings: Findings, file: Path, shown: str) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and payload of every sound record that can hold scalars."""
    with text.open_bytes(file) as stream:
        end = file.stat().st_size
        offset = 0
        while offset < end:
            frame = stream.read(12)
            if len(frame) < 12:
                break
            size, check = struct.unpack("<QI", frame)
            if protobuf.masked(protobuf.crc32c(frame[:8])) != check:
                findings.problem(
                    f"byte {offset}", "the checksum is wrong; the file is not used from here on", file=shown
                )
                return
            if offset + 16 + size > end:
                break
            if size > MAX_RECORD_BYTES:
                stream.seek(size + 4, 1)
            else:
                payload = stream.read(size)
                tail = stream.read(4)
                if len(payload) < size or len(tail) < 4:
                    break
                if protobuf.masked(protobuf.crc32c(payload)) != struct.unpack("<I", tail)[0]:
                    findings.problem(f"byte {offset}", "the checksum is wrong; the record is not used", file=shown)
                else:
                    yield offset, payload
            offset += 16 + size
        if offset < end:
            findings.problem(f"byte {offset}", "the last record is cut off; the records before it are used", file=shown)
        elif not end:
            findings.problem("", "is empty", file=shown)


def _tensor(data: bytes) -> float | None:
    """Return the value of a tensor that has exactly one; None: it has more, none, or is no number."""
    dtype = 0
    found: list[float] = []
    content = b""
    for number, wire, value in protobuf.fields(data):
        if number == 1 and isinstance(value, int):
            dtype = value
        elif number == 4 and wire == protobuf.BYTES:
            content = _bytes(value)
        elif number == 5:
            found += protobuf.floats(_bytes(value), "f")
        elif number == 6:
            found += protobuf.floats(_bytes(value), "d")
        elif number in (7, 10):
            whole = [value] if isinstance(value, int) else protobuf.varints(value)
            found += [float(protobuf.signed(item)) for item in whole]
    if content and dtype in _DTYPES and not found:
        found += protobuf.floats(content, _DTYPES[dtype])
    return found[0] if len(found) == 1 and dtype in _DTYPES else None


def _plugin(metadata: bytes) -> str:
    for number, wire, value in protobuf.fields(metadata):
        if number == 1 and wire == protobuf.BYTES:
            for inner, inner_wire, name in protobuf.fields(_bytes(value)):
                if inner == 1 and inner_wire == protobuf.BYTES:
                    return _bytes(name)[:100].decode("utf-8", "replace")
    return ""


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError("a number where bytes should stand")
    return value

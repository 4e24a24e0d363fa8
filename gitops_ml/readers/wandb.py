"""Weights & Biases: the offline ``run-<id>.wandb`` file, and the ``files`` folder of an online run.

Needs no wandb and no account. An offline run keeps its whole history in the ``.wandb`` file, which is read with its
checksums; a tail that was cut off is reported and what stands before it is used. The folder of an online run has
final values only (``wandb-summary.json``). Names that start with ``_`` are wandb's own. ``config`` gives parameters.

    metrics: {read: ["wandb/offline-run-*/run-*.wandb"]}
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gitops_ml.readers import mapping, protobuf, text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings, describe, number
from gitops_ml.readers.protobuf import WireError
from gitops_ml.records import Reading

MAGIC = b":W&B\xe1\xbe\x00"
_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HISTORY, _SUMMARY, _CONFIG, _RUN, _EXIT = 2, 3, 5, 17, 18


class WandbReader(Reader):
    """One run."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:
        """By the first bytes, or as the summary in a run's folder."""
        if file.is_dir():
            return (file / "wandb-summary.json").is_file() or (file / "files" / "wandb-summary.json").is_file()
        return head.startswith(MAGIC[:4]) or file.name == "wandb-summary.json" or _beside_summary(file)

    def unit(self, file: Path) -> Path:
        """Return the file itself, or the folder of an online run's files."""
        if file.is_dir():
            return file if (file / "wandb-summary.json").is_file() else file / "files"
        return file if file.suffix == ".wandb" else file.parent

    def read(self, file: Path, name: str) -> Reading:
        """Return history, summary and config."""
        findings = Findings(name, "wandb")
        if file.is_dir():
            _add_folder(findings, file, name)
            return findings.reading()
        with findings.guarded():
            run = _Run(findings)
            try:
                for offset, payload in _payloads(findings, file):
                    try:
                        run.add(payload)
                    except (WireError, RecursionError):
                        findings.problem(f"byte {offset}", "holds no W&B record; it is not used")
            finally:
                run.finish()
        return findings.reading()


class _Run:
    """Gathers the records of one run."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._summary: dict[str, Any] = {}
        self._series: set[str] = set()
        self._ignored: dict[str, str] = {}
        self._rows = 0
        self._ended = False

    def add(self, payload: bytes) -> None:
        for kind, wire, body in protobuf.fields(payload):
            if wire != protobuf.BYTES or not isinstance(body, bytes):
                continue
            if kind == _HISTORY:
                self._history(body)
            elif kind == _SUMMARY:
                self._summary.update(_items(body))
                for removed in _removed(body):
                    self._summary.pop(removed, None)
            elif kind == _CONFIG:
                self._config(body)
            elif kind == _EXIT:
                self._ended = True
            elif kind == _RUN:
                for inner, inner_wire, config in protobuf.fields(body):
                    if inner == 4 and inner_wire == protobuf.BYTES and isinstance(config, bytes):
                        self._config(config)

    def finish(self) -> None:
        if not self._ended:
            self._findings.problem("", "the run was not finished; what it wrote until then is read")
        for name, value in self._leaves(self._summary):
            if name in self._series:
                continue
            found = number(value)
            if found is not None:
                self._findings.scalar(name, found)
            else:
                self._ignored.setdefault(name, describe(value))
        for name, why in self._ignored.items():
            if name not in self._series:
                self._findings.ignore(name, why)

    def _history(self, body: bytes) -> None:
        row = _items(body)
        step = number(row.get("_step"))
        time = number(row.get("_timestamp"))
        if step is None:
            step = float(self._rows)
        self._rows += 1
        for name, value in self._leaves(row):
            found = number(value)
            if found is None:
                if len(self._ignored) < 1000:
                    self._ignored.setdefault(name, describe(value))
                continue
            self._findings.point(name, step, found, time)
            self._series.add(name)

    def _config(self, body: bytes) -> None:
        for name, value in _items(body).items():
            if not name.startswith("_"):
                self._findings.param_tree({name: value})

    def _leaves(self, data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        own = {name: value for name, value in data.items() if not name.startswith("_")}
        for path, value in self._findings.leaves(own):
            if "/_type" not in path:
                yield path, value


def _items(body: bytes) -> dict[str, Any]:
    """Return the key-value items of a history, summary or config record; nested keys join with ``/``."""
    found: dict[str, Any] = {}
    for kind, wire, item in protobuf.fields(body):
        if kind != 1 or wire != protobuf.BYTES or not isinstance(item, bytes):
            continue
        keys: list[str] = []
        value: Any = None
        for inner, _, content in protobuf.fields(item):
            if inner in (1, 2) and isinstance(content, bytes):
                keys.append(content.decode("utf-8", "surrogateescape"))
            elif inner == 16 and isinstance(content, bytes):
                try:
                    value = text.loads(content.decode("utf-8", "surrogateescape"))
                except json.JSONDecodeError:
                    value = None
        if keys:
            found["/".join(keys)] = value
    return found


def _removed(body: bytes) -> Iterator[str]:
    for kind, wire, item in protobuf.fields(body):
        if kind == 2 and wire == protobuf.BYTES and isinstance(item, bytes):
            keys = [
                c.decode("utf-8", "surrogateescape")
                for n, _, c in protobuf.fields(item)
                if n in (1, 2) and isinstance(c, bytes)
            ]
            yield "/".join(keys)


def _payloads(findings: Findings, file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and payload of the records of a LevelDB log whose checksums are CRC-32 (as in zlib)."""
    data = text.read_bytes(file)
    if not data.startswith(MAGIC):
        raise UnreadableError("byte 0", "is no .wandb file of a version that we know")
    position = len(MAGIC)
    begun: list[bytes] = []
    begun_at = 0
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left  # a record's header never spans two blocks
            continue
        if position + 7 > len(data):
            findings.problem(f"byte {position}", "the last record is cut off; the records before it are used")
            return
        check, size, kind = struct.unpack_from("<IHB", data, position)
        payload = data[position + 7 : position + 7 + size]
        if kind == 0 and size == 0 and check == 0:
            position += left  # space that was set aside and not used
            continue
        if len(payload) < size:
            findings.problem(f"byte {position}", "the last record is cut off; the records before it are used")
            return
        if size > left - 7 or zlib.crc32(payload, zlib.crc32(bytes([kind]))) != check:
            findings.problem(f"byte {position}", "the checksum is wrong; the file is read on at its next block")
            begun.clear()
            position += left
            continue
        if kind in (_FULL, _FIRST):
            begun, begun_at = [], position
        begun.append(payload)
        if kind == _FULL or (kind == _LAST and len(begun) > 1):
            yield begun_at, b"".join(begun)
            begun = []
        position += 7 + size
    if begun:
        findings.problem(f"byte {begun_at}", "the last record is cut off; the records before it are used")


def _beside_summary(file: Path) -> bool:
    return file.name in ("config.yaml", "wandb-metadata.json") and (file.parent / "wandb-summary.json").is_file()


def _add_folder(findings: Findings, folder: Path, name: str) -> None:
    shown = f"{name}/wandb-summary.json"
    with findings.guarded(shown):
        data = text.read_json(folder / "wandb-summary.json")
        if not isinstance(data, dict):
            raise UnreadableError("", "holds no mapping")
        findings.tree({key: value for key, value in data.items() if not key.startswith("_")})
    config = folder / "config.yaml"
    if config.is_file():
        with findings.guarded(f"{name}/config.yaml"):
            params = mapping.read_yaml(config)
            for key, entry in params.items() if isinstance(params, dict) else ():
                if isinstance(entry, dict) and "value" in entry and not key.startswith("_"):
                    findings.param_tree({key: entry["value"]})

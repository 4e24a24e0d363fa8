"""Open foreign files safely, and turn their text into plain data.

A name in a training's output can be a FIFO, a device, a link out of the folder, or 80 GB long; its text can be
UTF-16 from a Windows shell or no text at all.
"""

import codecs
import io
import json
import json.scanner
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from gitops_ml.readers.base import MAX_BYTES, UnreadableError
from gitops_ml.readers.findings import Repeated

MAX_DOCUMENT_BYTES = 16 * 2**20
"""A JSON document is parsed as a whole, at up to 20 times its size in memory."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_bytes(file: Path, max_bytes: int = MAX_BYTES) -> BinaryIO:
    """Open a regular file of bounded size.

    Raises:
        UnreadableError: it is too large, or no regular file.
        OSError: it cannot be opened.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("", "is no regular file")
    if found.st_size > max_bytes:
        raise UnreadableError("", f"has {found.st_size:,} bytes; at most {max_bytes:,} are read")
    return file.open("rb")


def read_bytes(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file of bounded size; raises as ``open_bytes`` does."""
    with open_bytes(file, max_bytes) as stream:
        return stream.read(max_bytes)


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first bytes show, by a byte order mark or by where the zeros are."""
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    if len(head) >= 4 and head[1] == 0 != head[0] and head[3] == 0 != head[2]:
        return "utf-16-le"
    if len(head) >= 4 and head[0] == 0 != head[1] and head[2] == 0 != head[3]:
        return "utf-16-be"
    return "utf-8"


def decode(data: bytes) -> str:
    """Return the text; what is not in its encoding is kept as lone surrogates, which ``Findings`` reports."""
    encoding = encoding_of(data[:4])
    # A surrogate escape needs a byte that is not ASCII, which a torn UTF-16 text need not have.
    return data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")


def open_text(file: Path, max_bytes: int = MAX_BYTES) -> TextIO:
    """Open a text without reading it whole; line ends stay as they are. Raises as ``open_bytes`` does."""
    stream = open_bytes(file, max_bytes)
    encoding = encoding_of(stream.read(4))
    stream.seek(0)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


def read_json(file: Path) -> Any:
    """Return the JSON document, with ``Repeated`` in place of the value of a repeated key.

    Raises:
        UnreadableError: it is no JSON; says where.
        OSError: it cannot be opened.
    """
    text = decode(read_bytes(file, MAX_DOCUMENT_BYTES))
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"line {error.lineno}, column {error.colno}", _json_fault(text, error)) from error


def loads(text: str) -> Any:
    """Parse JSON as ``read_json`` does.

    Raises:
        json.JSONDecodeError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return _FAST.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer with more digits than Python converts
        return _CAREFUL.decode(text)


def loads_line(line: str) -> Any:
    """Parse one line of JSON, mostly a flat mapping; as ``loads``, three times as fast."""
    try:
        data, end = _SCAN(line, 0)
    except (ValueError, StopIteration):
        return loads(line)
    # Each key has a colon: as many colons as keys that are left means that no key was repeated.
    if type(data) is dict and (line[end:] == "\n" or not line[end:].strip()):
        colons = line.count(":")
        if colons == len(data) or colons == _keys(data):
            return data
    return loads(line)


def _keys(data: dict[str, Any]) -> int:
    return len(data) + sum(_keys(value) for value in data.values() if type(value) is dict)


def head_text(head: bytes) -> str:
    """Return the text of a file's first bytes, for ``detect``."""
    return decode(head).lstrip("\ufeff")


def top_level_keys(head: bytes) -> frozenset[str]:
    """Return what may be keys of the JSON document that starts with these bytes: a cheap look, for ``detect``."""
    text = head_text(head)
    return frozenset(re.findall(r'"([^"\\]{1,60})"\s*:', text)) if text.lstrip().startswith("{") else frozenset()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                data[key] = Repeated()
            seen.add(key)
    return data


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 400 else float(digits)


_SCAN = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[arg-type]  # the stub calls the context a scanner
_FAST = json.JSONDecoder(object_pairs_hook=_pairs)
_CAREFUL = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer)


def _json_fault(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "is empty"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return "is cut off: the JSON ends too early; nothing of it is used"
    return f"is no JSON: {error.msg}"

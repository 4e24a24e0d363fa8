"""JSON, YAML and TOML documents: every number of a nested mapping is a final value.

Needs nothing. Nested keys join with ``/``: ``{"val": {"acc": 0.9}}`` is ``val/acc``. The texts ``nan``, ``inf`` and
``-inf`` count as numbers. Other texts, booleans and lists are ignored with a word. A list of mappings at the top
is read as rows, one per step. A key that stands twice in a mapping gives no value at all, because nobody can say
which of the two was meant. YAML aliases and tags are refused: metrics need none, and an alias can stand for
gigabytes.

    metrics: {read: [out/metrics.json, {path: out/final, format: yaml}]}
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import MAX_DEPTH, Findings, Repeated, describe, not_finite, number
from gitops_ml.readers.rows import add_rows
from gitops_ml.records import Reading
from gitops_ml.values import dataclass

MAX_YAML_BYTES = 4 * 2**20
MAX_TOML_BYTES = 2 * 2**20


class JsonReader(Reader):
    """One JSON document."""

    rank = 90

    def detect(self, file: Path, head: bytes) -> bool:
        """By its suffix, or its first character."""
        if file.suffix.lower() in (".json", ".geojson"):
            return True
        return not file.suffix and text.head_text(head).lstrip().startswith(("{", "["))

    def read(self, file: Path, name: str) -> Reading:
        """Return its numbers."""
        findings = Findings(name, "json")
        with findings.guarded():
            add_document(findings, text.read_json(file))
        return findings.reading()


class YamlReader(Reader):
    """One YAML document."""

    rank = 90

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By its suffix."""
        return file.suffix.lower() in (".yaml", ".yml")

    def read(self, file: Path, name: str) -> Reading:
        """Return its numbers."""
        findings = Findings(name, "yaml")
        with findings.guarded():
            add_document(findings, read_yaml(file))
        return findings.reading()


class TomlReader(Reader):
    """One TOML document."""

    rank = 90

    def detect(self, file: Path, head: bytes) -> bool:  # noqa: ARG002
        """By its suffix."""
        return file.suffix.lower() == ".toml"

    def read(self, file: Path, name: str) -> Reading:
        """Return its numbers."""
        findings = Findings(name, "toml")
        with findings.guarded():
            add_document(findings, read_toml(file))
        return findings.reading()


def add_document(findings: Findings, data: Any) -> None:
    """Add what a parsed document says."""
    if isinstance(data, dict):
        findings.tree(data)
    elif isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        add_rows(findings, enumerate(data, start=1), "row")
    elif (value := number(data)) is not None:
        findings.problem("", f'holds the number {value:g} without a name; write a mapping such as {{"accuracy": 0.9}}')
    else:
        findings.problem("", f"holds no mapping but: {describe(data)}")


def read_toml(file: Path) -> Any:
    """Return the TOML document.

    Raises:
        UnreadableError: it is no TOML, or too large.
        OSError: it cannot be opened.
    """
    content = text.decode(text.read_bytes(file, MAX_TOML_BYTES)).removeprefix("\ufeff")
    try:
        return tomllib.loads(content)
    except ValueError as error:  # a TOMLDecodeError, or an integer with thousands of digits
        raise UnreadableError("", f"is no TOML: {error}") from error


def read_yaml(file: Path) -> Any:
    """Return the YAML document, with ``Repeated`` in place of the value of a repeated key.

    Raises:
        UnreadableError: it is no YAML, is too large, or has aliases.
        OSError: it cannot be opened.
    """
    return parse_yaml(text.decode(text.read_bytes(file, MAX_YAML_BYTES)).removeprefix("\ufeff"))


def parse_yaml(content: str) -> Any:
    """Return the YAML document of a text; raises as ``read_yaml`` does."""
    loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
    try:
        events = yaml.parse(content.encode("utf-8", "replace"), Loader=loader)
        return _document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableError(f"line {mark.line + 1}" if mark else "", f"is no YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UnreadableError("", f"is no YAML: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A value with a tag of its own, such as a pickled numpy number: never built."""

    words = "a tagged value"


def _document(events: Iterator[yaml.Event]) -> Any:
    """Build plain data without recursion; nothing in the text can make us build an object."""
    root: list[Any] = []
    stack: list[list[Any] | _Pairs] = [root]
    for event in events:
        match event:
            case yaml.AliasEvent():
                raise UnreadableError(_line(event), f"has the alias `*{event.anchor}`; aliases are not read")
            case yaml.ScalarEvent():
                inner = stack[-1]
                inner.append(event.value if isinstance(inner, _Pairs) and not inner.has_key else _scalar(event))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(stack) > MAX_DEPTH:
                    raise UnreadableError(_line(event), f"is nested deeper than {MAX_DEPTH}")
                opened: list[Any] | _Pairs = [] if isinstance(event, yaml.SequenceStartEvent) else _Pairs()
                stack[-1].append(opened if event.implicit or _core(event.tag) else _Tagged())
                stack.append(opened)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                stack.pop()
            case yaml.DocumentStartEvent() if root:
                raise UnreadableError(_line(event), "has a second document; one is read")
    return root[0] if root else None


class _Pairs(dict[Any, Any]):
    """A mapping that is filled by its keys and values in turn."""

    __slots__ = ("_key", "has_key")

    def __init__(self) -> None:
        super().__init__()
        self.has_key = False
        self._key = ""

    def append(self, item: Any) -> None:
        if not self.has_key:
            self._key = item if isinstance(item, str) else describe(item)
        else:
            self[self._key] = Repeated() if self._key in self else item
        self.has_key = not self.has_key


_INTEGER = re.compile(r"[-+]?[0-9]{1,5000}|0x[0-9a-fA-F]{1,64}|0o[0-7]{1,64}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _scalar(event: yaml.ScalarEvent) -> Any:
    if event.tag is not None and not _core(event.tag):
        return _Tagged()
    written: str = event.value
    if not event.implicit[0]:  # quoted
        return written
    if written in ("", "~", "null", "Null", "NULL"):
        return None
    if written in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return written[0] in "tT"
    if len(written) < 400 and _INTEGER.fullmatch(written):
        return int(written, 0) if written[:2] in ("0x", "0o") else int(written)
    if len(written) < 5000 and _FLOAT.fullmatch(written):
        return float(written)
    found = not_finite(written)
    return written if found is None else found


def _core(tag: str | None) -> bool:
    return tag is None or (tag.startswith("tag:yaml.org,2002:") and ":python/" not in tag)


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else ""

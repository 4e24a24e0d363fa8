"""YAML text -> plain data that remembers line and column.

A strict subset, so that a spec means to every reader what it means to us: one UTF-8 document of YAML 1.2 core types
(``1e-3`` is a number, ``no`` and ``on`` are strings) without anchors, aliases, merge keys, tags or duplicate keys.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from gitops_ml.diagnostics import Diagnostic, Position
from gitops_ml.values import dataclass

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Path = tuple[str | int, ...]

# The C parser is about ten times faster; a PyYAML built without libyaml still gives the same answers.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Plain data (dict, list, str, int, float, bool, None) and the place of every key and value in it."""

    file: str
    data: Any
    problems: tuple[Diagnostic, ...]
    """What the strict loader refuses, in order of place."""
    complete: bool
    """False: the text could not be read to its end, so ``data`` says nothing."""
    _text: str = dataclasses.field(repr=False)
    _root: Any = dataclasses.field(repr=False)
    _children: dict[int, Any] = dataclasses.field(repr=False)

    def position(self, path: Sequence[str | int]) -> Position:
        """Return where the value at the path starts; of a path that is not there, where its nearest holder does."""
        event = self._event(path)
        return _position(event.start_mark) if event else Position(1, 1)

    def key_position(self, path: Sequence[str | int]) -> Position:
        """Return where the key that ends the path stands; of an item of a list, where its value does."""
        *holder, last = path
        container = self._container(holder)
        if isinstance(container, dict) and last in container:
            return _position(self._children[id(container)][last][0].start_mark)
        return self.position(path)

    def position_in(self, path: Sequence[str | int], text: str, occurrence: int) -> Position:
        """Return where the text stands for the n-th time (from 0) inside the string at the path."""
        event = self._event(path)
        if event is None or event.start_mark.index is None:
            return self.position(path)
        index = event.start_mark.index - 1
        for _ in range(occurrence + 1):
            index = self._text.find(text, index + 1, event.end_mark.index)
            if index < 0:  # written with escapes or folded over lines
                return self.position(path)
        return _place(self._text, index)

    def written(self, path: Sequence[str | int]) -> str | None:
        """Return the value at the path as it is written, such as ``3.10`` of the number 3.1; None: it is no scalar."""
        value: str | None = getattr(self._event(path), "value", None)
        return value

    def span(self, path: Sequence[str | int]) -> tuple[int, int] | None:
        """Return where in the text, less a BOM, the value at the path starts and ends; None: there is no such value."""
        event = self._event(path)
        if self._container(path) is None or event.start_mark.index is None:
            return None
        return event.start_mark.index, event.end_mark.index

    def in_brackets(self, path: Sequence[str | int]) -> bool:
        """Say whether the list or mapping at the path is written in brackets, on one line mostly."""
        return bool(getattr(self._event(path), "flow_style", False))

    def contains(self, pattern: re.Pattern[str]) -> bool:
        """Say whether the pattern occurs in the text; one with escapes in it may hide what it means."""
        return "\\" in self._text or pattern.search(self._text) is not None

    def _container(self, path: Sequence[str | int]) -> Any:
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _event(self, path: Sequence[str | int]) -> Any:
        event, value = self._root, self.data
        for part in path:
            try:
                child = self._children[id(value)][part]
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
            event = child[1] if isinstance(child, tuple) else child
        return event


def read_source(content: bytes, file: str) -> Source:
    """Return the data in the text, with all that is wrong with it as text. Raises nothing for any bytes."""
    loader = _Loader(file)
    data = None
    try:
        loader.text = _decoded(content, file)
        data = loader.document()
        complete = True
    except _RefusedError as refused:
        loader.problems.append(refused.diagnostic)
        complete = False
    except yaml.YAMLError as error:
        loader.problems.append(_syntax_error(error, loader.text, file))
        complete = False
    return Source(
        file=file,
        data=data if complete else None,
        problems=tuple(sorted(loader.problems, key=lambda found: found.position)),
        complete=complete,
        _text=loader.text,
        _root=loader.root,
        _children=loader.children,
    )


def shown(value: object) -> str:
    """Return a value of a spec as a message quotes it: on one line, printable, and not too long."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


class _RefusedError(Exception):
    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


# Not YAML, or invisible to a reviewer, or a line break to some tools and none to others. Bidirectional controls show
# a text in another order than the one it has (CVE-2021-42574).
_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7})(?= |$)", re.MULTILINE)


def _decoded(content: bytes, file: str) -> str:
    def refuse(position: Position, code: str, message: str) -> _RefusedError:
        return _RefusedError(Diagnostic(file=file, position=position, code=code, message=message))

    if len(content) > MAX_BYTES:
        raise refuse(Position(1, 1), "too-large", f"the file is larger than {MAX_BYTES:,} bytes, which is the limit")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8").removeprefix("\ufeff")
        raise refuse(
            _place(before, len(before)),
            "not-utf-8",
            f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8",
        ) from error
    text = text.removeprefix("\ufeff")
    if unwanted := _UNWANTED.search(text):
        raise refuse(
            _place(text, unwanted.start()),
            "control-character",
            f"the character U+{ord(unwanted[0]):04X} is not accepted; remove it",
        )
    if conflict := _CONFLICT.search(text):
        raise refuse(
            _place(text, conflict.start()),
            "merge-conflict",
            f"`{conflict[0]}` is a merge conflict marker; resolve the conflict and remove the markers",
        )
    return text


class _Loader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.text = ""
        self._exclaims = False
        self.problems: list[Diagnostic] = []
        self.root: Any = None
        # By the id of a container, which Source keeps alive: for a mapping (key event, value event) by key, for a
        # list the events of its items.
        self.children: dict[int, Any] = {}

    def document(self) -> Any:
        self._exclaims = "!" in self.text
        parser = _Parser(self.text)
        try:
            return self._document(parser.get_event)
        finally:
            parser.dispose()

    def _document(self, next_event: Any) -> Any:
        next_event()  # the stream's start
        event = next_event()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        if event.version not in (None, (1, 2)):
            self._report(event, "yaml-version", "only YAML 1.2 is read; remove the %YAML line")
        self.root = next_event()
        data = self._value(self.root, next_event, 1)
        next_event()  # the document's end
        event = next_event()
        if not isinstance(event, yaml.StreamEndEvent):
            # What follows is not looked at, so nothing is said about it.
            self._report(event, "several-documents", "a second document starts here; one file holds one document")
        return data

    def _value(self, event: Any, next_event: Any, depth: int) -> Any:
        kind = type(event)
        if kind is yaml.AliasEvent:
            self._report(event, "alias", f"aliases are not accepted; write out the value of {shown(event.anchor)}")
            return None
        self._check_properties(event)
        if kind is yaml.ScalarEvent:
            return self._scalar(event)
        if depth > MAX_DEPTH:
            raise _RefusedError(self._diagnostic(event, "too-deep", f"nested deeper than {MAX_DEPTH} levels"))
        if kind is yaml.SequenceStartEvent:
            items: list[Any] = []
            marks: list[Any] = []
            while type(event := next_event()) is not yaml.SequenceEndEvent:
                items.append(self._value(event, next_event, depth + 1))
                marks.append(event)
            self.children[id(items)] = marks
            return items
        mapping: dict[str, Any] = {}
        places: dict[str, tuple[Any, Any]] = {}
        while type(key_event := next_event()) is not yaml.MappingEndEvent:
            key = self._key(key_event, next_event, depth + 1)
            event = next_event()
            value = self._value(event, next_event, depth + 1)
            if key in mapping:
                first = _position(places[key][0].start_mark)
                self._report(
                    key_event, "duplicate-key", f"the key {shown(key)} is already on line {first.line}; remove one"
                )
            elif key is not None:
                mapping[key] = value
                places[key] = (key_event, event)
        self.children[id(mapping)] = places
        return mapping

    def _key(self, event: Any, next_event: Any, depth: int) -> str | None:
        if type(event) is not yaml.ScalarEvent:
            self._value(event, next_event, depth)
            if type(event) is not yaml.AliasEvent:
                self._report(event, "key-type", "a key is a string, not a list or a mapping")
            return None
        self._check_properties(event)
        if not event.style and event.value == "<<":
            self._report(event, "merge-key", "merge keys are not accepted; write the keys out")
            return None
        value = self._scalar(event)
        if not isinstance(value, str):
            self._report(event, "key-type", f"a key is a string; write it in quotes: '{event.value}'")
        return str(event.value)

    def _check_properties(self, event: Any) -> None:
        if event.anchor is not None:
            self._report(event, "anchor", f"anchors are not accepted; remove `&{event.anchor}`")
        # libyaml forgets the tag `!`: only the text still has it.
        if event.tag is not None or (self._exclaims and self.text.startswith("!", event.start_mark.index)):
            self._report(event, "tag", f"tags are not accepted; remove {shown(event.tag or '!')}")

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style:
            if event.style == '"' and (unwanted := _UNWANTED.search(text)):
                self._report(
                    event, "control-character", f"the character U+{ord(unwanted[0]):04X} is not accepted in a string"
                )
            return text
        if text[:1] not in _FIRST:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if not (number := _NUMBER.fullmatch(text)):
            return text
        value = _number(text, number.lastgroup or "")
        if value is None:
            self._report(
                event, "number-range", f"{shown(text)} is not a finite number of 64 bits; quote it if it is text"
            )
            return 0
        return value

    def _report(self, event: Any, code: str, message: str) -> None:
        found = self._diagnostic(event, code, message)
        if found not in self.problems[-1:]:  # a mapping and its first key start at the same place
            self.problems.append(found)

    def _diagnostic(self, event: Any, code: str, message: str) -> Diagnostic:
        return Diagnostic(file=self.file, position=_position(event.start_mark), code=code, message=message)


# YAML 1.2, 10.3.2: the core schema.
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_NUMBER = re.compile(
    r"(?P<int>[-+]?[0-9]+)|(?P<oct>0o[0-7]+)|(?P<hex>0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<special>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_FIRST = frozenset(["", *"~nNtTfF-+.0123456789"])


def _number(text: str, kind: str) -> int | float | None:
    if kind == "special":
        return None
    if kind == "float":
        number = float(text)
        return number if abs(number) != float("inf") else None
    if len(text) > 100:
        return None
    integer = int(text, {"int": 10, "oct": 8, "hex": 16}[kind])
    return integer if -(2**63) <= integer < 2**64 else None


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _place(text: str, index: int) -> Position:
    before = text[:index]
    line = before.count("\n") + before.count("\r") - before.count("\r\n")
    return Position(line + 1, index - max(before.rfind("\n"), before.rfind("\r")))


# What libyaml says, and what helps.
_HINTS = {
    "that cannot start any token": "; a tab cannot indent, and a value that starts with @, % or ` needs quotes",
    "mapping values are not allowed": "; a value that holds `: ` needs quotes, and keys of one mapping the same indent",
    "could not find expected ':'": "; a key needs a `:` behind it",
    "did not find expected key": "; keys of one mapping need the same indent",
    "did not find expected ',' or": "; a list or mapping in brackets is not closed, or lacks a comma",
    "did not find expected node content": "; a value is missing, or a bracket is not closed",
    "unexpected end of stream": "; a quote is not closed",
    "did not find expected '-' indicator": "; items of one list need the same indent",
}


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> Diagnostic:
    position, problem = Position(1, 1), "this is not YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or problem
        mark = error.problem_mark or error.context_mark
        if "end of stream" in problem and error.context_mark:  # where the open quote is, not where the file ends
            mark = error.context_mark
        if mark:
            position = _position(mark)
        if mark and error.context_mark and error.context and mark.line != error.context_mark.line:
            problem += f" {error.context} that starts on line {error.context_mark.line + 1}"
    hint = next((hint for words, hint in _HINTS.items() if words in problem), "")
    end = _place(text, len(text))
    return Diagnostic(file=file, position=min(position, end), code="yaml-syntax", message=f"{problem}{hint}")


def strings(data: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield every string value in the data with its path."""
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from strings(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from strings(value, (*path, index))

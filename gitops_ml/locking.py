"""Versions written into specs: the text stays as it is, byte for byte, but for what is pinned."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gitops_ml.errors import UserError
from gitops_ml.source import Source, read_source
from gitops_ml.values import dataclass

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A data entry outside of the repository, by its place in the spec's list."""

    index: int
    name: str
    uri: str
    version: str | None


def entries(source: Source) -> Sequence[Entry]:
    """Return the data entries of a spec that are pinned in it."""
    data = source.data.get("data") if isinstance(source.data, dict) else None
    return tuple(
        Entry(index=index, name=entry["name"], uri=entry["uri"], version=entry.get("version"))
        for index, entry in enumerate(data if isinstance(data, list) else ())
        if isinstance(entry, dict) and "://" in str(entry.get("uri")) and isinstance(entry.get("name"), str)
    )


def with_versions(content: bytes, file: str, versions: Mapping[int, str]) -> bytes:
    """Return the spec's text with the versions of data entries, given by their place in the list.

    Raises:
        UserError: an entry is written in a way that cannot be edited.
    """
    for index, version in versions.items():
        content = _with_version(content, file, index, version)
    return content


def _with_version(content: bytes, file: str, index: int, version: str) -> bytes:
    source = read_source(content, file)
    wanted: Any = copy.deepcopy(source.data)
    wanted["data"][index]["version"] = version
    text = content.decode()
    start = _BOM if text.startswith(_BOM) else ""
    for candidate in _edited(source, text.removeprefix(_BOM), index, version):
        edited = (start + candidate).encode()
        found = read_source(edited, file)
        # What an edit did is judged by what the text then says, whatever the way in which it was written.
        if found.complete and found.problems == source.problems and _same(found.data, wanted):
            return edited
    place = source.position(("data", index))
    raise UserError(f"{file}:{place.line}: this entry cannot be edited; write into it by hand: version: {version}")


def _edited(source: Source, text: str, index: int, version: str) -> Iterator[str]:
    """Yield the text with the version in it, written in the ways that YAML has, the plainest first."""
    entry, spellings = ("data", index), (version, f"'{version}'", json.dumps(version))
    if (old := source.span((*entry, "version"))) is not None:
        for spelling in spellings:
            yield text[: old[0]] + spelling + text[old[1] :]
        return
    uri = source.span((*entry, "uri"))
    if uri is None:
        return
    if source.in_brackets(entry):
        for spelling in spellings:
            yield f"{text[: uri[1]]}, version: {spelling}{text[uri[1] :]}"
        return
    indent = " " * (source.key_position((*entry, "uri")).column - 1)
    end = text.find("\n", uri[1])
    line_end = "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"
    at = len(text) if end < 0 else end + 1
    before = text[:at] if end >= 0 else text + line_end
    after = line_end if end >= 0 else ""
    for spelling in spellings:
        yield f"{before}{indent}version: {spelling}{after}{text[at:]}"


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

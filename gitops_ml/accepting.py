"""A JSON Schema as a function that says yes or no, quickly.

Nearly all specs are valid, and jsonschema takes longer to import than to read a spec. So it is asked only what is
wrong, once this says that something is. The tests hold both to the same answer. Only the keywords that our schemas
use are known; another one is an error when the schema is compiled.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

Accepts = Callable[[Any], bool]

_ANNOTATIONS = frozenset(["$schema", "$id", "title", "description", "examples", "default", "then", "properties"])


def accepting(schema: Mapping[str, Any]) -> Accepts:
    """Return a function that says whether the schema, its references expanded, accepts a value.

    Raises:
        KeyError: the schema has a keyword that is not known here.
    """
    checks = [_KEYWORDS[key](value, schema) for key, value in schema.items() if key not in _ANNOTATIONS]
    if "properties" in schema and "additionalProperties" not in schema:
        checks.append(_properties(True, schema))
    if len(checks) == 1:
        return checks[0]
    return lambda value: all(check(value) for check in checks)


def pattern_matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Return the search of a schema's pattern: its `$` is the end of the text, Python's lets a newline follow."""
    return re.compile(re.sub(r"\$$", r"\\Z", pattern)).search


def repeated(items: Sequence[Any]) -> int | None:
    """Return the index of the first item that equals an earlier one, as JSON Schema compares; None: all differ."""
    seen = set()
    for index, item in enumerate(items):
        if (frozen := _frozen(item)) in seen:
            return index
        seen.add(frozen)
    return None


def _frozen(value: Any) -> Any:
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, dict):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


_TYPES: Mapping[str, Accepts] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _type(wanted: str | list[str], _: Any) -> Accepts:
    if isinstance(wanted, str):
        return _TYPES[wanted]
    kinds = [_TYPES[kind] for kind in wanted]
    return lambda value: any(kind(value) for kind in kinds)


def _enum(words: list[str], _: Any) -> Accepts:
    known = frozenset(words)
    return lambda value: isinstance(value, str) and value in known


def _const(wanted: Any, _: Any) -> Accepts:
    return lambda value: not isinstance(value, bool) and bool(value == wanted)


def _pattern(pattern: str, _: Any) -> Accepts:
    search = pattern_matcher(pattern)
    return lambda value: not isinstance(value, str) or search(value) is not None


def _number(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Accepts]:
    is_number = _TYPES["number"]
    return lambda bound, _: lambda value: not is_number(value) or holds(value, bound)


def _size(kind: type[Sized], holds: Callable[[int, int], bool]) -> Callable[[Any, Any], Accepts]:
    return lambda bound, _: lambda value: not isinstance(value, kind) or holds(len(value), bound)


def _items(schema: Mapping[str, Any], _: Any) -> Accepts:
    accepts = accepting(schema)
    return lambda value: not isinstance(value, list) or all(accepts(item) for item in value)


def _unique(_: bool, __: Any) -> Accepts:  # noqa: FBT001 the keyword's own value
    return lambda value: not isinstance(value, list) or repeated(value) is None


def _required(keys: list[str], _: Any) -> Accepts:
    return lambda value: not isinstance(value, dict) or all(key in value for key in keys)


def _names(schema: Mapping[str, Any], _: Any) -> Accepts:
    accepts = accepting(schema)
    return lambda value: not isinstance(value, dict) or all(accepts(key) for key in value)


def _properties(rest: Any, schema: Mapping[str, Any]) -> Accepts:
    known = {key: accepting(value) for key, value in schema.get("properties", {}).items()}
    other: Accepts = accepting(rest) if isinstance(rest, dict) else lambda _: bool(rest)
    return lambda value: not isinstance(value, dict) or all(known.get(key, other)(item) for key, item in value.items())


def _if(condition: Mapping[str, Any], schema: Mapping[str, Any]) -> Accepts:
    holds, then = accepting(condition), accepting(schema["then"])
    return lambda value: not holds(value) or then(value)


def _one_of(options: list[Mapping[str, Any]], _: Any) -> Accepts:
    accepted = [accepting(option) for option in options]
    return lambda value: sum(accepts(value) for accepts in accepted) == 1


_KEYWORDS: Mapping[str, Callable[[Any, Any], Accepts]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "minimum": _number(lambda value, bound: value >= bound),
    "maximum": _number(lambda value, bound: value <= bound),
    "minLength": _size(str, lambda size, bound: size >= bound),
    "maxLength": _size(str, lambda size, bound: size <= bound),
    "minItems": _size(list, lambda size, bound: size >= bound),
    "maxItems": _size(list, lambda size, bound: size <= bound),
    "minProperties": _size(dict, lambda size, bound: size >= bound),
    "maxProperties": _size(dict, lambda size, bound: size <= bound),
    "items": _items,
    "uniqueItems": _unique,
    "required": _required,
    "propertyNames": _names,
    "additionalProperties": _properties,
    "if": _if,
    "oneOf": _one_of,
}

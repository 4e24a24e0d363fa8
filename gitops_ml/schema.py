"""Data against one of our JSON Schemas, with findings in our own words.

``jsonschema`` decides what is wrong; here it is said so that a person can mend it: what was found, what is accepted,
and the nearest word.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.accepting import accepting, pattern_matcher, repeated
from gitops_ml.diagnostics import Diagnostic, Position
from gitops_ml.source import Source, shown


def schema_names() -> list[str]:
    """Return the names of the schemas that we ship, such as ``experiment.v1``."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def schema_text(name: str) -> str:
    """Return the text of one of ``schema_names``."""
    return (_FOLDER / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def accepts(name: str, data: object) -> bool:
    """Say whether the schema of that name accepts the data."""
    return _accepts(name)(data)


def sound_part(name: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data without the keys, at any depth, whose values the schema refuses; None: the rest is refused too.

    A list is kept whole or not at all, so that places in it stay what they are.
    """
    found = _sound(_schema(name), data)
    return found if isinstance(found, dict) else None


def _sound(schema: Mapping[str, Any], value: Any) -> Any:
    """Return what the schema accepts of the value; None, which no schema of ours accepts: nothing."""
    accepted = accepting(schema)
    if not accepted(value) and isinstance(value, dict) and schema.get("type") == "object":
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        parts = {key: known.get(key, other) for key in value}
        tried = {key: _sound(part, value[key]) for key, part in parts.items() if isinstance(part, dict)}
        value = {key: part for key, part in tried.items() if part is not None}
    return value if accepted(value) else None


def findings(name: str, source: Source) -> Iterator[Diagnostic]:
    """Yield what the schema of that name finds wrong in the data."""
    if not accepts(name, source.data):
        for error in _validator(name)(source.data):
            yield from _phrased(error, source)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return the advice that names the known word most like this one; empty: none is, or there are too many to ask."""
    import difflib

    words = list(known)
    found = difflib.get_close_matches(word, words, n=1, cutoff=likeness) if len(words) <= 1000 else []
    return f"; did you mean {shown(found[0])}?" if found else ""


def nearest_or_all(word: str, known: Iterable[str]) -> str:
    """Return the advice that names the nearest known word, or else the first of them all."""
    words = list(known)
    return nearest(word, words) or f"; known are: {', '.join(words[:30])}{', ...' if len(words) > 30 else ''}"


# Not by importlib.resources, which is slow to import: what is installed is always files.
_FOLDER = Path(__file__).parent / "schemas"
_SUFFIX = ".schema.json"


@functools.cache
def _schema(name: str) -> Mapping[str, Any]:
    schema = json.loads(schema_text(name))
    expanded: Mapping[str, Any] = _expanded(schema, schema.get("$defs", {}))
    return expanded


@functools.cache
def _accepts(name: str) -> Callable[[Any], bool]:
    return accepting(_schema(name))


@functools.cache
def _validator(name: str) -> Callable[[Any], Iterator[Any]]:
    # jsonschema takes 0.1 s to import: who has no mistake does not pay it.
    from jsonschema import Draft202012Validator, validators

    extend: Any = validators.extend
    kind = extend(Draft202012Validator, {"pattern": _pattern, "required": _required, "uniqueItems": _unique})
    iter_errors: Callable[[Any], Iterator[Any]] = kind(_schema(name)).iter_errors
    return iter_errors


def _expanded(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Put every definition where it is used: resolving references took half of the time."""
    if isinstance(schema, list):
        return [_expanded(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    target = definitions[schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else {}
    merged = {**target, **{key: value for key, value in schema.items() if key not in ("$ref", "$defs")}}
    return {
        key: value if key in ("examples", "default", "const", "enum") else _expanded(value, definitions)
        for key, value in merged.items()
    }


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _search(pattern)(instance):
        from jsonschema import ValidationError

        yield ValidationError("")


_search = functools.cache(pattern_matcher)


def _unique(_: Any, __: Any, instance: Any, ___: Any) -> Iterator[Any]:
    # jsonschema's own compares every pair when items cannot be sorted: minutes for a large list of mappings.
    if isinstance(instance, list) and (index := repeated(instance)) is not None:
        from jsonschema import ValidationError

        yield ValidationError(str(index))


def _required(_: Any, required: list[str], instance: Any, __: Any) -> Iterator[Any]:
    # jsonschema's own says which key is missing in its English message alone.
    if isinstance(instance, dict):
        from jsonschema import ValidationError

        yield from (ValidationError(key) for key in required if key not in instance)


_TYPES = {
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def _phrased(error: Any, source: Source) -> Iterator[Diagnostic]:
    path = tuple(error.absolute_path)
    keyword, accepted, found, schema = error.validator, error.validator_value, error.instance, error.schema

    def finding(code: str, message: str, position: Position | None = None) -> Diagnostic:
        return Diagnostic(file=source.file, position=position or source.position(path), code=code, message=message)

    place = _subject(path)
    secret = "secrets" in path
    match keyword:
        case "additionalProperties":
            known = schema.get("properties", {})
            for key in found:
                if key not in known:
                    advice = nearest_or_all(key, known)
                    yield finding("unknown-key", f"unknown key {shown(key)}{advice}", source.key_position((*path, key)))
        case "required":
            yield finding("missing-key", f"{place or 'the file'} lacks the key `{error.message}`")
        case "type":
            # A number is named as it is written: of a Python version, 3.10 must not become 3.1.
            written = source.written(path) if isinstance(found, int | float) else None
            wanted, advice = _kinds(accepted, schema), _mend(schema, found, written, secret=secret)
            kind = "empty" if found is None and not path else _kind(found, written)
            yield finding("wrong-type", f"{place or 'the file'} is {kind}, not {wanted}{advice}")
        case "enum":
            words = ", ".join(map(str, accepted))
            advice = nearest(found, map(str, accepted)) if isinstance(found, str) else ""
            yield finding("unknown-value", f"{place} is {shown(found)}; accepted are: {words}{advice}")
        case "const":
            quoted = isinstance(found, str) and found == str(accepted)
            advice = "; write it without quotes" if quoted else f"; only `{accepted}` is known"
            yield finding("wrong-value", f"{place} is {_kind(found) if quoted else shown(found)}{advice}")
        case "pattern" if not found and schema.get("minLength"):
            pass  # that it is empty is said already
        case "pattern":
            key = "propertyNames" in error.absolute_schema_path
            what = "the value" if secret else shown(found)
            yield finding(
                "wrong-format",
                f"{what} is not {schema.get('title', 'accepted')}{_like(schema)}",
                source.key_position((*path, found)) if key else None,
            )
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            least = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than"}.get(
                keyword, "less than"
            )
            yield finding("out-of-range", f"{place} is {shown(found)}; it must be {least} {accepted}")
        case "minLength" | "minItems" | "minProperties":
            yield finding("empty", f"{place or 'the file'} must not be empty")
        case "maxLength" | "maxItems" | "maxProperties":
            what = {"maxLength": "characters", "maxItems": "items"}.get(keyword, "keys")
            yield finding("too-long", f"{place} has {len(found):,} {what}; at most {accepted:,} are accepted")
        case "uniqueItems":
            index = int(error.message)
            yield finding("repeated", f"{shown(found[index])} is in {place} twice", source.position((*path, index)))
        case "oneOf" if not isinstance(found, dict):
            pass  # the wrong type is said already
        case "oneOf":
            choices = [option["required"] for option in accepted if "required" in option]
            words = " or ".join(" with ".join(f"`{key}`" for key in keys) for keys in choices)
            yield finding("one-of", f"{place} needs exactly one of: {words}")
        case _:
            raise AssertionError(f"no words for the keyword {keyword}")


def _subject(path: tuple[str | int, ...]) -> str:
    named = [part for part in path if isinstance(part, str)]
    if not path:
        return ""
    if isinstance(path[-1], int):
        return f"item {path[-1] + 1} of `{_word(named[-1])}`" if named else f"item {path[-1] + 1}"
    return f"`{_word(path[-1])}`"


def _word(text: str) -> str:
    return shown(text)[1:-1]


def _kinds(accepted: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(accepted, list) and "title" in schema:
        return str(schema["title"])
    words = [_TYPES[word] for word in ([accepted] if isinstance(accepted, str) else accepted)]
    return " or ".join(words)


def _kind(value: object, written: str | None = None) -> str:
    match value:
        case bool():
            return f"the boolean {shown(value)}"
        case int() | float():
            return f"the number {shown(value if written is None else written)}"
        case str():
            return "a string"
        case _:
            return shown(value)


def _mend(schema: Mapping[str, Any], found: object, written: str | None, *, secret: bool) -> str:
    if secret:
        return "; only names stand here, a value comes from the environment of the caller"
    accepted = schema["type"]
    wanted = [accepted] if isinstance(accepted, str) else accepted
    if "string" in wanted and isinstance(found, bool | int | float):
        text = shown(found if written is None else written)[1:-1]
        fits = re.search(schema.get("pattern", ""), text)
        return f'; write it in quotes: "{text}"' if fits else _like(schema)
    if ("number" in wanted or "integer" in wanted) and isinstance(found, str):
        return "; write it without quotes" if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", found) else ""
    if "array" in wanted and isinstance(found, str | int | float):
        return f"; write [{shown(found)[1:-1]}]"
    return ""


def _like(schema: Mapping[str, Any]) -> str:
    examples = [_brief(example) for example in schema.get("examples", ())[:4]]
    return f"; write it like {' or '.join(f'`{example}`' for example in examples)}" if examples else ""


def _brief(example: object) -> str:
    text = example if isinstance(example, str) else json.dumps(example)
    return text if len(text) <= 60 else f"{text[:57]}..."

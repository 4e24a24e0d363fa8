"""A comparison of one experiment as JSON and back: what ``report.json`` holds.

``schemas/report.v1.schema.json`` owns the names; they are those of the values in ``comparison``, so fields are
walked, not listed a second time. Curves stay out: the records hold every point.
"""

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from gitops_ml.comparison import ExperimentComparison
from gitops_ml.errors import UserError

SCHEMA = "gitops-ml/report/v1"

_T = TypeVar("_T")


class ReportError(UserError):
    """A report is not what the schema says."""


def comparison_to_json(experiment: ExperimentComparison) -> dict[str, Any]:
    """Return the comparison in stable order; equal comparisons give equal documents, without NaN."""
    document: dict[str, Any] = {"schema": SCHEMA, **_plain(experiment)}
    for point in document["points"]:
        del point["curves"]
    return document


def comparison_from_json(document: Mapping[str, Any]) -> ExperimentComparison:
    """Return the comparison that a ``report.json`` holds, without curves. Fields of later versions are left alone.

    Raises:
        ReportError: a field is missing or is not what the schema says.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise ReportError(f"this is no report: its `schema` is not `{SCHEMA}`")
    return _dataclass(ExperimentComparison, document, "")


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in (str, int, bool, types.NoneType):
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a report")
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {name: [] if name == "curves" else _plain(getattr(value, name)) for name in _names(kind)}


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dataclass(kind: type[_T], data: Any, place: str) -> _T:
    if not isinstance(data, Mapping):
        raise ReportError(f"{place or 'the report'} is no object")
    fields, hints = {}, _hints(typing.cast("type[Any]", kind))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name == "curves":
            fields[field.name] = ()
        elif field.name in data:
            fields[field.name] = _value(hints[field.name], data[field.name], _at(place, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ReportError(f"{_at(place, field.name)} is missing")
    return kind(**fields)


def _value(hint: Any, data: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, data, place)
    if origin is tuple:
        if not isinstance(data, list):
            raise ReportError(f"{place} is no list")
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(data))
        if len(data) != len(arguments):
            raise ReportError(f"{place} has {len(data)} items, not {len(arguments)}")
        return tuple(_value(kind, item, place) for kind, item in zip(arguments, data, strict=True))
    if origin is not None:
        if not isinstance(data, Mapping):
            raise ReportError(f"{place} is no object")
        return {name: _value(arguments[1], item, _at(place, name)) for name, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast("type[Any]", hint), data, place)
    if issubclass(hint, enum.Enum):
        known = [member.value for member in hint]
        if data not in known:
            raise ReportError(f"{place} is {str(data)[:40]!r}; known are: {', '.join(known)}")
        return hint(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool) and data.bit_length() < 1000:
        return float(data)
    if type(data) is not hint or (hint is float and not math.isfinite(data)):
        raise ReportError(f"{place} is no {_WORDS[hint]}")
    return data


_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def _one_of(kinds: tuple[Any, ...], data: Any, place: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    # 3 is a whole number first: a parameter keeps its type.
    exact = [kind for kind in kinds if type(data) is kind and (kind is not float or math.isfinite(data))]
    if exact:
        return data
    others = [kind for kind in kinds if kind is not type(None)]
    if isinstance(data, list):
        others = [kind for kind in others if typing.get_origin(kind) is tuple] or others
    elif isinstance(data, Mapping):
        others = [kind for kind in others if typing.get_origin(kind) is not tuple]
    return _value(others[-1] if len(others) > 1 else others[0], data, place)


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name

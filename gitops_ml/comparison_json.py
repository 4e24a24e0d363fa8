"""A comparison as JSON and back: what ``report.json`` holds, of one experiment or of all.

``schemas/report.v1.schema.json`` owns the names; they are those of the values in ``comparison``, so fields are
walked, not listed a second time. Everything read is checked: reports come back from artifacts.
"""

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from gitops_ml.comparison import Comparison, Curves
from gitops_ml.errors import UserError
from gitops_ml.records import number_json

SCHEMA = "gitops-ml/report/v1"

_T = TypeVar("_T")


class ReportError(UserError):
    """A report is not what the schema says."""


def comparison_to_json(comparison: Comparison, *, curves: bool = False) -> dict[str, Any]:
    """Return the comparison in stable order; equal comparisons give equal documents, without NaN.

    Args:
        comparison: of one or several experiments.
        curves: with every point of every curve. A report on the ledger has none, the records hold them; what is
            handed to another process for drawing needs them.
    """
    document = _plain(comparison)
    for experiment, its_json in zip(comparison.experiments, document["experiments"], strict=True):
        for point, point_json in zip(experiment.points, its_json["points"], strict=True):
            point_json["curves"] = [_curves_json(one) for one in point.curves] if curves else []
    # The worst gate of all, in one word: what lists of reports show without reading further.
    return {"schema": SCHEMA, "gate": comparison.gate.value, **document}


def comparison_from_json(document: Mapping[str, Any]) -> Comparison:
    """Return the comparison that a ``report.json`` holds. Fields of later versions are left alone.

    Raises:
        ReportError: a field is missing or is not what the schema says.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise ReportError(f"this is no report: its `schema` is not `{SCHEMA}`")
    try:
        return _dataclass(Comparison, document, "")
    except RecursionError as error:
        raise ReportError("this is no report: it is nested too deeply") from error


def _curves_json(curves: Curves) -> dict[str, Any]:
    """Return one metric's curves; values that are not finite are texts."""
    sides = {
        side: {
            str(seed): {
                "name": one.name,
                "steps": list(map(number_json, one.steps)),
                "values": list(map(number_json, one.values)),
                "times": None if one.times is None else list(map(number_json, one.times)),
            }
            for seed, one in series.items()
        }
        for side, series in (("base", curves.base), ("head", curves.head))
    }
    return {"name": curves.name, **sides}


def _plain(value: Any) -> Any:
    kind: Any = type(value)
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
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dataclass(kind: type[_T], data: Any, place: str) -> _T:
    if not isinstance(data, Mapping):
        raise ReportError(f"{place or 'the report'} is no object")
    fields, hints = {}, _hints(typing.cast("Any", kind))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in data:
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
        return {
            _key(arguments[0], name, place): _value(arguments[1], item, _at(place, name)) for name, item in data.items()
        }
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast("type[Any]", hint), data, place)
    if issubclass(hint, enum.Enum):
        known = [member.value for member in hint]
        if data not in known:
            raise ReportError(f"{place} is {str(data)[:40]!r}; known are: {', '.join(known)}")
        return hint(data)
    if hint is float and data in ("nan", "inf", "-inf") and place.rpartition(".")[2].startswith(("values[", "steps[")):
        return float(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool) and data.bit_length() < 1000:
        return float(data)
    if type(data) is not hint or (hint is float and not math.isfinite(data)):
        raise ReportError(f"{place} is no {_WORDS[hint]}")
    return data


_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def _key(kind: type, name: str, place: str) -> Any:
    """Return a mapping's key; of curves it is the seed."""
    if kind is not int:
        return name
    if not name.lstrip("-").isascii() or not name.lstrip("-").isdigit() or len(name) > 20:
        raise ReportError(f"{_at(place, name)[:200]} is not named by a seed")
    return int(name)


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

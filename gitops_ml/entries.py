"""What history needs of a record or a report, read from its JSON at little cost.

Reading a whole record checks every field, which takes seconds for 10,000. An entry holds the few that a table shows,
each checked as it is taken; whoever needs more reads the record.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gitops_ml.records import ATTEMPT_SCHEMA, RECORD_SCHEMA, RecordError
from gitops_ml.spec import Value
from gitops_ml.values import dataclass

FORM = 3
"""Of an entry's values in the cache; another one is read anew."""

REPORT_SCHEMA = "gitops-ml/report/v1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A record's line in the history; ten thousand are made from the cache by position, which takes half the time."""

    key: str
    experiment: str
    commit: str
    dirty: bool
    point: Mapping[str, Value]
    params: Mapping[str, Value]
    seed: int
    repeat: int
    started_at: str
    duration_s: float
    cost_usd: float
    backend: str
    origin: str
    user: str
    data: Mapping[str, str]
    """What each data entry was pinned to, by its name."""
    metrics: Mapping[str, float]
    """Final values: a scalar, or the last point of a series."""
    lowest: Mapping[str, float]
    """The least value of each series that has one."""
    highest: Mapping[str, float]
    derived_from: str | None


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """A report's verdicts in the history."""

    folder: str
    experiment: str
    commit: str
    dirty: bool
    gate: str
    recorded: int
    """Trials of the head side that have a record."""
    metric: str
    """The one that decides: the primary one, else the first with a gate, else the first with a goal; or empty."""
    goal: str
    """Of that metric: ``maximize``, ``minimize`` or ``none``; empty when it is not known."""
    verdicts: Sequence[tuple[str, Sequence[str]]]
    """Each point's verdict on that metric, and the keys of its trials on the head side."""


def record_entry(data: bytes, key: str) -> Entry:
    """Return the entry of a ``record.json`` that stands under the key.

    Raises:
        RecordError: it is no record, or a field that history shows is not what the schema says.
    """
    document = _parsed(data)
    _form(document, RECORD_SCHEMA)
    attempt = _object(document, "attempt")
    _form(attempt, ATTEMPT_SCHEMA, "attempt.")
    if document.get("key") != key:
        raise RecordError(f"it says that its key is {str(document.get('key'))[:12]}")
    origin = _object(attempt, "origin")
    metrics, lowest, highest = _metrics(document)
    return Entry(
        key=key,
        experiment=_text(document, "experiment"),
        commit=_text(document, "commit"),
        dirty=document.get("dirty") is True,
        point=_values(document, "point"),
        params=_values(document, "params"),
        seed=_whole(document, "seed"),
        repeat=_whole(document, "repeat"),
        started_at=_text(attempt, "started_at"),
        duration_s=_finite(attempt, "duration_s"),
        cost_usd=_finite(attempt, "cost_usd"),
        backend=_text(attempt, "backend"),
        origin=_text(origin, "kind"),
        user=origin["user"] if isinstance(origin.get("user"), str) else "",
        data=pins(_object(document, "document")),
        metrics=metrics,
        lowest=lowest,
        highest=highest,
        derived_from=document["derived_from"] if isinstance(document.get("derived_from"), str) else None,
    )


def report_entry(data: bytes, folder: str) -> ReportEntry:
    """Return the entry of a ``report.json``.

    Raises:
        RecordError: it is no report of one experiment, or a field that history shows is not what the schema says.
    """
    document = _parsed(data)
    if document.get("schema") != REPORT_SCHEMA:
        raise RecordError(f"its schema is {str(document.get('schema'))[:60]!r}, not {REPORT_SCHEMA!r}")
    experiments = _list(document, "experiments")
    if len(experiments) != 1 or not isinstance(experiments[0], dict):
        raise RecordError(f"it is of {len(experiments)} experiments, not of one")
    experiment = experiments[0]
    head = _object(experiment, "head")
    metric, goal = _deciding(_list(experiment, "metrics"))
    verdicts, recorded = [], 0
    for point in _list(experiment, "points"):
        if not isinstance(point, dict):
            raise RecordError("a point is no object")
        judged = {_name(one): one.get("verdict") for one in _list(point, "metrics") if isinstance(one, dict)}
        found = judged.get(metric, "")
        trials = [trial for trial in _list(point, "head_trials") if isinstance(trial, dict)]
        verdicts.append((found if isinstance(found, str) else "", [str(trial.get("key")) for trial in trials]))
        recorded += sum(trial.get("recorded") is True for trial in trials)
    return ReportEntry(
        folder=folder,
        experiment=_text(experiment, "name"),
        commit=_text(head, "commit"),
        dirty=head.get("dirty") is True,
        gate=_text(experiment, "gate"),
        recorded=recorded,
        metric=metric,
        goal=goal,
        verdicts=tuple(verdicts),
    )


# The cache: values in the order of the fields, so that no name is written ten thousand times


@dataclasses.dataclass(slots=True)
class EntryCache:
    """Entries that were read before, by the id of the git tree that holds their file."""

    records: dict[str, Entry] = dataclasses.field(default_factory=dict)
    reports: dict[str, ReportEntry] = dataclasses.field(default_factory=dict)
    trees: tuple[str, str] = ("", "")
    """Ids of the trees of all records and of all reports, if these are all that they hold; else empty."""

    @classmethod
    def from_bytes(cls, data: bytes) -> "EntryCache":
        """Return what ``to_bytes`` wrote; empty when it was another version's, or is damaged."""
        try:
            document = json.loads(data)
            if document["form"] != FORM:
                return cls()
            return cls(
                {oid: Entry(*values) for oid, values in document["records"].items()},
                {oid: ReportEntry(*values) for oid, values in document["reports"].items()},
                (str(document["trees"][0]), str(document["trees"][1])),
            )
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
            return cls()

    def to_bytes(self) -> bytes:
        """Return the cache as a file."""
        records = {oid: [getattr(entry, name) for name in _ENTRY] for oid, entry in self.records.items()}
        reports = {oid: [getattr(entry, name) for name in _REPORT] for oid, entry in self.reports.items()}
        document = {"form": FORM, "trees": self.trees, "records": records, "reports": reports}
        return json.dumps(document, separators=(",", ":")).encode()


_ENTRY = tuple(field.name for field in dataclasses.fields(Entry))
_REPORT = tuple(field.name for field in dataclasses.fields(ReportEntry))


# Fields, checked as they are taken


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError("not a JSON object")
    return document


def _form(document: Mapping[str, Any], schema: str, place: str = "") -> None:
    found = document.get("schema")
    if found == schema:
        return
    ours = schema.rstrip("0123456789")
    if not (isinstance(found, str) and found.startswith(ours) and found.removeprefix(ours).isdecimal()):
        raise RecordError(f"{place}schema is {str(found)[:60]!r}, not {schema!r} or a newer one")


def _metrics(document: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    metrics: dict[str, float] = {}
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for one in _list(document, "ranges"):
        name = _name_of(one, "ranges")
        for into, field in ((metrics, "last"), (lowest, "minimum"), (highest, "maximum")):
            if (number := _number(one.get(field))) is not None:
                into[name] = number
    for one in _list(document, "scalars"):
        name = _name_of(one, "scalars")
        if (number := _number(one.get("value"))) is not None:
            metrics[name] = number
    return metrics, lowest, highest


def _number(value: Any) -> float | None:
    """Return a finite number; what is none stands for no value: it fulfils no condition and has no mean."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int and value.bit_length() < 1000:
        return float(value)
    return None


def _deciding(metrics: Sequence[Any]) -> tuple[str, str]:
    """Return the name and the goal of the metric that decides, by the rule of ``comparison.ranking``."""

    def rank(metric: Mapping[str, Any]) -> tuple[bool, bool]:
        track = metric["track"]
        return track.get("primary") is not True, track.get("gate") in ("off", None)

    known = [one for one in metrics if isinstance(one, dict) and isinstance(one.get("track"), dict) and _name(one)]
    with_goal = [one for one in known if one["track"].get("goal") != "none"] or known
    if not with_goal:
        return "", ""
    found = min(with_goal, key=rank)
    goal = found["track"].get("goal")
    return _name(found), goal if goal in ("maximize", "minimize", "none") else ""


def _name(metric: Mapping[str, Any]) -> str:
    track = metric.get("track")
    name = track.get("name") if isinstance(track, dict) else None
    return name if isinstance(name, str) else ""


def _name_of(one: Any, place: str) -> str:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise RecordError(f"{place} has an item without a name")
    return str(one["name"])


def pins(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what each data entry of a key document was pinned to, by its name, as far as it says so."""
    pairs = document.get("data")
    if not isinstance(pairs, list):
        return {}
    return {str(pair[0]): str(pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2}


def _values(document: Mapping[str, Any], name: str) -> dict[str, Value]:
    found = _object(document, name)
    for value in found.values():
        for item in value if isinstance(value, list) else (value,):
            if not isinstance(item, str | int | float) or (isinstance(item, float) and not math.isfinite(item)):
                raise RecordError(f"{name} holds what is neither a scalar nor a list of scalars")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = _taken(document, name, lambda value: isinstance(value, dict), "an object")
    return found


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    return _taken(document, name, lambda value: isinstance(value, list), "a list") if name in document else []


def _text(document: Mapping[str, Any], name: str) -> str:
    return str(_taken(document, name, lambda value: isinstance(value, str), "a text"))


def _whole(document: Mapping[str, Any], name: str) -> int:
    return int(_taken(document, name, lambda value: type(value) is int, "a whole number"))


def _finite(document: Mapping[str, Any], name: str) -> float:
    return float(_taken(document, name, lambda value: _number(value) is not None, "a finite number"))


def _taken(document: Mapping[str, Any], name: str, fits: Callable[[Any], bool], words: str) -> Any:
    if name not in document:
        raise RecordError(f"{name} is missing")
    if not fits(document[name]):
        raise RecordError(f"{name} is not {words}")
    return document[name]

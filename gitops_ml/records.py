"""What trials leave: series, readings, records and attempts, with their JSON forms.

A record is immutable and lives in users' repositories: ``schemas/record.v1.schema.json`` and
``schemas/attempt.v1.schema.json`` own the names, and each released version stays readable.
"""

import csv
import dataclasses
import enum
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from gitops_ml.errors import UserError
from gitops_ml.spec import Value
from gitops_ml.values import dataclass

RECORD_SCHEMA = "gitops-ml/record/v1"
ATTEMPT_SCHEMA = "gitops-ml/attempt/v1"
"""Names of the JSON forms. A file with a higher version is read as far as it is understood, and never rewritten."""

NOT_WRITTEN = "the tracked metric was not written"
"""How the problem begins that stands for a tracked metric which no file has."""

FILE_LIMIT_BYTES = 1 << 20
"""Files over this do not go to git."""


class RecordError(UserError):
    """A file of the ledger is not what its schema says; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over a training, in the order in which it was written.

    ``steps``, ``values`` and, if known, ``times`` have the same length n >= 1. Values may be NaN or
    infinite: they are kept and reported, never dropped. Times are seconds since 1970 (UTC).
    """

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    times: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A final value that has no steps; ``stderr`` and ``count`` when the file states them.

    ``stderr`` is the sampling error over the test set (not seed noise), ``count`` the number of examples.
    """

    name: str
    value: float
    stderr: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a metrics file that a reviewer must know: ``where`` is a line, key or byte offset."""

    file: str
    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that a reader found in one file (or one folder that is one unit, such as a DVCLive one)."""

    file: str
    """Relative to the trial's workdir, with forward slashes."""
    format: str
    scalars: tuple[Scalar, ...] = ()
    series: tuple[Series, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Torn tails, duplicate keys, wrong types: reported, and the rest of the file is still used."""
    ignored: tuple[str, ...] = ()
    """What is no metric, said in words: ``predictions (list of 1000 numbers)``."""
    params: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One score per example of the evaluation data, so that two versions can be compared example by example."""

    ids: tuple[str, ...]
    """Unique, in the order of the file."""
    scores: tuple[float, ...]
    """Finite, of the same length."""
    kind: str
    """``correct``: 1 or 0. ``score``: the file's own, more is better. ``error``: absolute error, less is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionMatrix:
    """How often examples of each class were taken for each: ``counts[actual][predicted]``, finite and not negative."""

    labels: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that a trial left: with its digest, and where it is kept (``git``, ``storage`` or ``none``)."""

    path: str
    sha256: str
    size_bytes: int
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRange:
    """What a record says about a series without its points: NaN counts as a point, never as an extreme."""

    name: str
    points: int
    first: float
    last: float
    minimum: float
    """NaN when no value is a number."""
    maximum: float


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    OVER_BUDGET = "over_budget"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a record was made: ``kind`` is ``ci`` or ``local``; CI gates only on records of CI origin."""

    kind: str
    run_url: str | None = None
    user: str | None = None
    change: int | None = None
    """Number of the change it was trained for. Its commits may be gone after a forced push; what they cost is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the trial ran on, as far as it is known."""

    machine: str
    """Class of machine, such as an instance type; locally the CPU's model."""
    cpus: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The rented machine of an attempt: what and where it was, what it cost by the hour, and how it was released."""

    provider: str
    region: str
    zone: str
    instance_id: str
    """Empty: none was to be had."""
    instance_type: str
    market: str
    """``spot`` or ``on-demand``."""
    image: str
    usd_per_hour: float | None
    """Without disk and address, which the attempt's cost has; None: not known."""
    price_source: str
    price_date: str
    billed_s: float
    final_state: str
    """What the provider called the machine when it was last looked at."""
    worst_usd: float | None = None
    """What all attempts of the trial could cost together as this one began; None: not known."""
    tries: tuple[str, ...] = ()
    """What was asked for before it and refused, each with the provider's code."""
    idle_share: float | None = None
    """Share of the training's time in which no GPU worked; None: no GPU, or not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job. ``reason`` says in a sentence why it ended as it did."""

    key: str
    number: int
    experiment: str
    outcome: Outcome
    reason: str
    exit_code: int | None
    backend: str
    commit: str
    dirty: bool
    params: Mapping[str, Value]
    seed: int
    started_at: str
    """ISO 8601, UTC, whole seconds."""
    duration_s: float
    cost_usd: float
    hardware: Hardware | None = None
    origin: Origin = Origin(kind="local")
    log_tail: str = ""
    """The redacted end of the log, at most 4 KiB; only for attempts that did not succeed."""
    usage: Usage | None = None
    """Of a rented machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a succeeded trial leaves. Immutable, stored under its key."""

    key: str
    document: Mapping[str, Any]
    """The key document: everything that determined the result."""
    experiment: str
    path: str
    commit: str
    dirty: bool
    point: Mapping[str, Value]
    """The swept parameters of the point; empty without a sweep."""
    params: Mapping[str, Value]
    seed: int
    repeat: int
    attempt: Attempt
    scalars: tuple[Scalar, ...]
    series: tuple[Series, ...]
    """Whole unless ``decimated``: then by steps, with each metric's ends, minima and maxima kept."""
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()
    files: tuple[StoredFile, ...] = ()
    decimated: bool = False
    evaluation: str | None = None
    """Digest of the declared evaluation code; None: not declared."""
    derived_from: str | None = None
    ranges: tuple[SeriesRange, ...] = ()
    """Of the whole series, kept also where the series themselves were not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A state of the repository: a commit, or the uncommitted work on top of it."""

    commit: str
    tree: str
    label: str
    """How it was named or found: ``main``, ``HEAD``, a short commit."""
    dirty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineChoice:
    """The commit that head is compared with, how it was chosen, and how far behind the ref's tip it is."""

    version: Version | None
    ref: str
    chosen: str
    """``merge-base``, ``tip``, ``first parent``, ``before the push``, ``HEAD``, ``given``, ``ancestor``,
    ``original`` (what head is a rerun of), ``none`` (there is nothing before head) or ``not found``."""
    behind: int | None = None
    """Commits between it and the ref's tip; None: not known."""
    note: str = ""

    def sentence(self) -> str:
        """Return the one line that every output shows about the baseline."""
        if self.version is None:
            return f"no baseline: {self.note}" if self.note else "no baseline"
        how = {
            "merge-base": f"the merge-base with {self.ref}",
            "tip": f"the tip of {self.ref}",
            "first parent": f"the commit before on {self.ref}",
            "before the push": f"{self.ref} before the push",
            "HEAD": "the last commit",
            "given": f"given as {self.ref}",
            "ancestor": f"an earlier commit of {self.ref}",
            "original": "the original",
        }.get(self.chosen, f"{self.chosen} of {self.ref}")
        text = f"compared with {self.version.commit[:12]}, {how}"
        if self.behind:
            text += f" ({self.behind} commit{'s' if self.behind > 1 else ''} behind the tip of {self.ref})"
        elif self.behind == 0 and self.chosen == "merge-base":
            text += f" (the tip of {self.ref})"
        return f"{text}; {self.note}" if self.note else text


# JSON forms: stable key order, no bare NaN, every name as the schemas have it


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a JSON file: sorted keys, one line per field, ASCII, no NaN tokens."""
    return (json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def json_document(data: bytes) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        RecordError: it is no JSON object, has a key twice, or a number that JSON does not know.
    """
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError("not a JSON object")
    return document


def _no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def record_to_json(record: Record) -> dict[str, Any]:
    """Return ``record.json``; the series stand beside it, see ``series_to_csv``."""
    return {
        "schema": RECORD_SCHEMA,
        "key": record.key,
        "document": record.document,
        "experiment": record.experiment,
        "path": record.path,
        "commit": record.commit,
        "dirty": record.dirty,
        "point": _values_json(record.point),
        "params": _values_json(record.params),
        "seed": record.seed,
        "repeat": record.repeat,
        "attempt": attempt_to_json(record.attempt),
        "scalars": [_scalar_json(scalar) for scalar in record.scalars],
        "ranges": [_range_json(one) for one in record.ranges or map(series_range, record.series)],
        "problems": [{"file": p.file, "where": p.where, "message": p.message} for p in record.problems],
        "ignored": list(record.ignored),
        "files": [_file_json(file) for file in record.files],
        "decimated": record.decimated,
        "evaluation": record.evaluation,
        "derived_from": record.derived_from,
    }


def record_from_json(document: Mapping[str, Any], series: Sequence[Series] = ()) -> Record:
    """Return the record of a ``record.json``, with the series that were read beside it.

    Raises:
        RecordError: a field is missing or is not what the schema says.
    """
    fields = _Fields(document, "")
    fields.form(RECORD_SCHEMA)
    return Record(
        key=fields.text("key"),
        document=fields.object("document"),
        experiment=fields.text("experiment"),
        path=fields.text("path"),
        commit=fields.text("commit"),
        dirty=fields.flag("dirty"),
        point=fields.values("point"),
        params=fields.values("params"),
        seed=fields.whole("seed"),
        repeat=fields.whole("repeat"),
        attempt=_attempt(fields.child("attempt")),
        scalars=tuple(map(_scalar, fields.children("scalars"))),
        series=tuple(series),
        problems=tuple(
            Problem(file=one.text("file"), where=one.text("where"), message=one.text("message"))
            for one in fields.children("problems")
        ),
        ignored=fields.texts("ignored"),
        files=tuple(map(_file, fields.children("files"))),
        decimated=fields.flag("decimated"),
        evaluation=fields.text_or_none("evaluation"),
        derived_from=fields.text_or_none("derived_from"),
        ranges=tuple(map(_range, fields.children("ranges"))),
    )


def attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    """Return the JSON form of an attempt, in a record or in a file of its own."""
    hardware = attempt.hardware
    usage = {} if attempt.usage is None else {"usage": usage_to_json(attempt.usage)}
    return usage | {
        "schema": ATTEMPT_SCHEMA,
        "key": attempt.key,
        "number": attempt.number,
        "experiment": attempt.experiment,
        "outcome": attempt.outcome.value,
        "reason": attempt.reason,
        "exit_code": attempt.exit_code,
        "backend": attempt.backend,
        "commit": attempt.commit,
        "dirty": attempt.dirty,
        "params": _values_json(attempt.params),
        "seed": attempt.seed,
        "started_at": attempt.started_at,
        "duration_s": attempt.duration_s,
        "cost_usd": attempt.cost_usd,
        "hardware": None if hardware is None else _hardware_json(hardware),
        "origin": _origin_json(attempt.origin),
        "log_tail": attempt.log_tail,
    }


def attempt_from_json(document: Mapping[str, Any]) -> Attempt:
    """Return the attempt of its JSON form.

    Raises:
        RecordError: a field is missing or is not what the schema says.
    """
    return _attempt(_Fields(document, ""))


def _attempt(fields: "_Fields") -> Attempt:
    fields.form(ATTEMPT_SCHEMA)
    outcome = fields.text("outcome")
    if outcome not in set(Outcome):
        raise RecordError(f"{fields.place('outcome')} is {outcome!r}; known are: {', '.join(Outcome)}")
    hardware = fields.child_or_none("hardware")
    origin = fields.child("origin")
    return Attempt(
        key=fields.text("key"),
        number=fields.whole("number"),
        experiment=fields.text("experiment"),
        outcome=Outcome(outcome),
        reason=fields.text("reason"),
        exit_code=fields.whole_or_none("exit_code"),
        backend=fields.text("backend"),
        commit=fields.text("commit"),
        dirty=fields.flag("dirty"),
        params=fields.values("params"),
        seed=fields.whole("seed"),
        started_at=fields.text("started_at"),
        duration_s=fields.number("duration_s", finite=True),
        cost_usd=fields.number("cost_usd", finite=True),
        hardware=None if hardware is None else _hardware(hardware),
        origin=Origin(
            kind=origin.text("kind"),
            run_url=origin.text_or_none("run_url"),
            user=origin.text_or_none("user"),
            change=origin.whole_or_none("change"),
        ),
        log_tail=fields.text("log_tail"),
        usage=None if (usage := fields.child_or_none("usage")) is None else _usage(usage),
    )


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Return the JSON form of a rented machine."""
    return dataclasses.asdict(usage) | {"tries": list(usage.tries)}


def usage_from_json(document: Mapping[str, Any]) -> Usage:
    """Return the rented machine of its JSON form.

    Raises:
        RecordError: a field is missing or is not what the schema says.
    """
    return _usage(_Fields(document, ""))


def _usage(fields: "_Fields") -> Usage:
    return Usage(
        **{name: fields.text(name) for name in _USAGE_TEXTS},
        usd_per_hour=fields.number_or_none("usd_per_hour", finite=True),
        billed_s=fields.number("billed_s", finite=True),
        worst_usd=fields.number_or_none("worst_usd", finite=True),
        tries=fields.texts("tries"),
        idle_share=fields.number_or_none("idle_share", finite=True),
    )


_USAGE_TEXTS = (
    "provider",
    "region",
    "zone",
    "instance_id",
    "instance_type",
    "market",
    "image",
    "price_source",
    "price_date",
    "final_state",
)


def _origin_json(origin: Origin) -> dict[str, Any]:
    form: dict[str, Any] = {"kind": origin.kind, "run_url": origin.run_url, "user": origin.user}
    # Added later: left out where there is none, so that what was written before is written as it was.
    return form if origin.change is None else {**form, "change": origin.change}


def _hardware_json(hardware: Hardware) -> dict[str, Any]:
    return {
        "machine": hardware.machine,
        "cpus": hardware.cpus,
        "memory_bytes": hardware.memory_bytes,
        "gpus": list(hardware.gpus),
    }


def _hardware(fields: "_Fields") -> Hardware:
    return Hardware(
        machine=fields.text("machine"),
        cpus=fields.whole("cpus"),
        memory_bytes=fields.whole_or_none("memory_bytes"),
        gpus=fields.texts("gpus"),
    )


def _scalar_json(scalar: Scalar) -> dict[str, Any]:
    stderr = None if scalar.stderr is None else number_json(scalar.stderr)
    return {"name": scalar.name, "value": number_json(scalar.value), "stderr": stderr, "count": scalar.count}


def _scalar(fields: "_Fields") -> Scalar:
    return Scalar(
        name=fields.text("name"),
        value=fields.number("value"),
        stderr=fields.number_or_none("stderr"),
        count=fields.whole_or_none("count"),
    )


def _range_json(one: SeriesRange) -> dict[str, Any]:
    numbers = {name: number_json(getattr(one, name)) for name in ("first", "last", "minimum", "maximum")}
    return {"name": one.name, "points": one.points, **numbers}


def _range(fields: "_Fields") -> SeriesRange:
    return SeriesRange(
        name=fields.text("name"),
        points=fields.whole("points"),
        first=fields.number("first"),
        last=fields.number("last"),
        minimum=fields.number("minimum"),
        maximum=fields.number("maximum"),
    )


def _file_json(file: StoredFile) -> dict[str, Any]:
    return {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes, "store": file.store}


def _file(fields: "_Fields") -> StoredFile:
    return StoredFile(
        path=fields.text("path"),
        sha256=fields.text("sha256"),
        size_bytes=fields.whole("size_bytes"),
        store=fields.text("store"),
    )


def number_json(value: float) -> float | str:
    """Return the number, or ``nan``, ``inf``, ``-inf`` as text: JSON has no such numbers."""
    return value if math.isfinite(value) else str(float(value))


_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _values_json(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_T = TypeVar("_T")


class _Fields:
    """An object of a file that somebody may have edited: every field is checked as it is taken."""

    def __init__(self, document: Any, place: str) -> None:
        if not isinstance(document, Mapping):
            raise RecordError(f"{place or 'the file'} is no object")
        self._document = document
        self._place = place

    def place(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name

    def form(self, schema: str) -> None:
        found, ours = self.text("schema"), schema.rstrip("0123456789")
        if not (found.startswith(ours) and found.removeprefix(ours).isdecimal()):
            raise RecordError(f"{self.place('schema')} is {found!r}, not {schema!r} or a newer one")

    def text(self, name: str) -> str:
        return self._take(name, str, "a text")

    def text_or_none(self, name: str) -> str | None:
        return None if self._document.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        return self._take(name, bool, "true or false")

    def whole(self, name: str) -> int:
        value = self._take(name, int, "a whole number")
        if isinstance(value, bool):
            raise RecordError(f"{self.place(name)} is not a whole number")
        return value

    def whole_or_none(self, name: str) -> int | None:
        return None if self._document.get(name) is None else self.whole(name)

    def number(self, name: str, *, finite: bool = False) -> float:
        value = self._document.get(name)
        if isinstance(value, str) and value in _NOT_FINITE and not finite:
            return _NOT_FINITE[value]
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise RecordError(f"{self.place(name)} is not a {'finite ' if finite else ''}number")
        return value

    def number_or_none(self, name: str, *, finite: bool = False) -> float | None:
        return None if self._document.get(name) is None else self.number(name, finite=finite)

    def texts(self, name: str) -> tuple[str, ...]:
        items = self._list(name)
        if not all(isinstance(item, str) for item in items):
            raise RecordError(f"{self.place(name)} is not a list of texts")
        return tuple(items)

    def object(self, name: str) -> Mapping[str, Any]:
        return self._take(name, dict, "an object")

    def values(self, name: str) -> Mapping[str, Value]:
        values: dict[str, Value] = {}
        for key, value in self.object(name).items():
            for item in value if isinstance(value, list) else [value]:
                if not isinstance(item, str | int | float):
                    raise RecordError(f"{self.place(name)}.{key} is neither a scalar nor a list of scalars")
            values[key] = tuple(value) if isinstance(value, list) else value
        return values

    def child(self, name: str) -> "_Fields":
        return _Fields(self._document.get(name), self.place(name))

    def child_or_none(self, name: str) -> "_Fields | None":
        return None if self._document.get(name) is None else self.child(name)

    def children(self, name: str) -> "Iterable[_Fields]":
        return [_Fields(item, f"{self.place(name)}[{number}]") for number, item in enumerate(self._list(name))]

    def _list(self, name: str) -> list[Any]:
        # A list that is not there is empty: lists may be added to the form without a new version.
        return self._take(name, list, "a list") if name in self._document else []

    def _take(self, name: str, kind: type[_T], words: str) -> _T:
        if name not in self._document:
            raise RecordError(f"{self.place(name)} is missing")
        value = self._document[name]
        if not isinstance(value, kind):
            raise RecordError(f"{self.place(name)} is not {words}")
        return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


# Series as CSV

_HEADER = "metric,step,time,value"


def series_range(series: Series) -> SeriesRange:
    """Return what a record says about a series without its points."""
    numbers = [value for value in series.values if not math.isnan(value)]
    return SeriesRange(
        name=series.name,
        points=len(series.values),
        first=series.values[0],
        last=series.values[-1],
        minimum=min(numbers, default=math.nan),
        maximum=max(numbers, default=math.nan),
    )


def series_to_csv(series: Sequence[Series], limit_bytes: int = FILE_LIMIT_BYTES) -> tuple[bytes, bool]:
    """Return ``series.csv`` within the limit, and whether points had to be left out for that.

    Points are left out evenly over each series. Its ends, the minimum and maximum of each stretch (so also of the
    whole) and the first value of each stretch that is not finite stay. With very many metrics those alone may be
    over the limit; then the file is as small as that allows.
    """
    data = _csv(series, None)
    stretches = max((len(one.values) for one in series), default=0)
    decimated = False
    while len(data) > limit_bytes and stretches > 1:
        # Towards the limit in one or two steps: a stretch leaves about two points.
        stretches = max(1, min(stretches // 2, int(stretches * limit_bytes / len(data) * 0.9)))
        data, decimated = _csv(series, stretches), True
    return data, decimated


def _csv(series: Sequence[Series], stretches: int | None) -> bytes:
    lines = [_HEADER]
    for one in series:
        name = _csv_name(one.name)
        count = len(one.values)
        kept = range(count) if stretches is None or count <= 2 * stretches + 2 else _kept(one.values, stretches)
        times = one.times
        for i in kept:
            time = _csv_number(times[i]) if times is not None else ""
            lines.append(f"{name},{_csv_number(one.steps[i])},{time},{_csv_number(one.values[i])}")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _kept(values: Sequence[float], stretches: int) -> list[int]:
    kept = {0, len(values) - 1}
    for number in range(stretches):
        stretch = range(number * len(values) // stretches, (number + 1) * len(values) // stretches)
        finite = [i for i in stretch if math.isfinite(values[i])]
        if finite:
            kept.update((min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)))
        if len(finite) != len(stretch):
            kept.add(next(i for i in stretch if not math.isfinite(values[i])))
    return sorted(kept)


def _csv_name(name: str) -> str:
    if any(c in name for c in ',"\r\n') or name != name.strip():
        return '"' + name.replace('"', '""') + '"'
    return name


def _csv_number(value: float) -> str:
    """Return the shortest text that reads back as the same number; whole numbers without a point."""
    if value == 0 and math.copysign(1, value) < 0:
        return "-0.0"
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(float(value))


def series_from_csv(data: bytes) -> tuple[Series, ...]:
    """Return the series of a ``series.csv``.

    Raises:
        RecordError: it is no such file; the text says which line.
    """
    rows_by_name: dict[str, list[list[str]]] = {}
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8", "surrogatepass"), newline=""), strict=True)
        if ",".join(next(reader, [])) != _HEADER:
            raise RecordError(f"line 1 of the series is not `{_HEADER}`")
        for row in reader:
            if len(row) != 4:
                raise RecordError(f"line {reader.line_num} of the series has {len(row)} fields, not 4")
            rows_by_name.setdefault(row[0], []).append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordError(f"the series are no valid CSV: {error}") from error
    found = []
    for name, rows in rows_by_name.items():
        _, steps, times, values = zip(*rows, strict=True)
        try:
            found.append(
                Series(
                    name=name,
                    steps=tuple(map(float, steps)),
                    values=tuple(map(float, values)),
                    times=tuple(map(float, times)) if any(times) else None,
                )
            )
        except ValueError as error:
            raise RecordError(f"the series {name!r} has a field that is no number: {error}") from error
    return tuple(found)

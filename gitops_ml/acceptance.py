"""``gitops-ml.accepted.yaml``: regressions that somebody accepted, with a bound, a reason and an expiry date.

    version: 1
    accepted:
      - experiment: digits
        metric: accuracy
        bound: 0.93
        reason: half the parameters for 0.4 points
        author: Ada
        expires: "2026-12-31"

An entry lets one metric of one experiment pass although its verdict says no, while the value on the head side is
no worse than the bound. It does not lift a floor, and it does not make a missing value good. An entry whose last
day is over is an error: it says nothing any more, and reads as if it did.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

from gitops_ml.diagnostics import Diagnostic, Position
from gitops_ml.source import Source, read_source, shown
from gitops_ml.values import dataclass

FILE = "gitops-ml.accepted.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """One accepted regression, and where it stands in the file."""

    experiment: str
    metric: str
    bound: float
    """The worst value of the metric, on the head side, that is accepted; in its unit."""
    reason: str
    author: str
    expires: date
    """The last day on which it holds."""
    position: Position

    def words(self) -> str:
        """Return reason, author, bound and expiry as the report shows them."""
        return f"{self.reason} (by {self.author}, to {self.bound:g} at worst, until {self.expires.isoformat()})"


def read_acknowledgements(
    content: bytes, today: date, file: str = FILE
) -> tuple[tuple[Acknowledgement, ...], tuple[Diagnostic, ...]]:
    """Return the valid entries of the file, and what is wrong with it, in order of place.

    Args:
        content: the file's bytes.
        today: entries that ended before it are findings, and are left out.
        file: its name for the findings.
    """
    source = read_source(content, file)
    problems = list(source.problems)
    found: list[Acknowledgement] = []
    if source.complete:
        reader = _Reader(source, today)
        found = list(reader.entries())
        problems += reader.problems
    return tuple(found), tuple(sorted(problems, key=lambda problem: problem.position))


class _Reader:
    def __init__(self, source: Source, today: date) -> None:
        self._source = source
        self._today = today
        self.problems: list[Diagnostic] = []

    def entries(self) -> Iterator[Acknowledgement]:
        data = self._source.data
        if not self._is(dict, data, (), "a mapping with `version` and `accepted`"):
            return
        self._keys(data, (), ("version", "accepted"))
        if "version" in data and (data["version"] != 1 or isinstance(data["version"], bool)):
            self._report("wrong-value", f"`version` is {shown(data['version'])}; this gitops-ml reads 1", ("version",))
        entries = data.get("accepted")
        if "accepted" not in data or not self._is(list, entries, ("accepted",), "a list"):
            return
        seen: dict[tuple[str, str], int] = {}
        for index, entry in enumerate(entries):
            acknowledgement = self._entry(entry, ("accepted", index))
            if acknowledgement is None:
                continue
            name = (acknowledgement.experiment, acknowledgement.metric)
            if name in seen:
                text = f"`{name[1]}` of `{name[0]}` is accepted in line {seen[name]} already"
                self._report("duplicate", text, ("accepted", index))
                continue
            seen[name] = acknowledgement.position.line
            yield acknowledgement

    def _entry(self, entry: Any, path: tuple[str | int, ...]) -> Acknowledgement | None:
        if not self._is(dict, entry, path, f"a mapping with {_listed(_FIELDS)}"):
            return None
        before = len(self.problems)
        self._keys(entry, path, tuple(_FIELDS))
        values: dict[str, Any] = {}
        for name, (accepted, convert) in _FIELDS.items():
            if name in entry:
                values[name] = convert(entry[name])
                if values[name] is None:
                    text = f"`{name}` is {shown(entry[name])}; accepted is {accepted}"
                    self._report("wrong-value", text, (*path, name))
        if len(self.problems) > before:
            return None
        if values["expires"] < self._today:
            text = (
                f"the acceptance of `{values['metric']}` ended on {values['expires'].isoformat()}; "
                "remove the entry, or decide anew and set a later date"
            )
            self._report("expired", text, (*path, "expires"))
            return None
        return Acknowledgement(**values, position=self._source.position(path))

    def _keys(self, data: Mapping[str, Any], path: tuple[str | int, ...], known: tuple[str, ...]) -> None:
        import difflib

        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else f"; known are {_listed(known)}"
                position = self._source.key_position((*path, key))
                self.problems.append(self._finding("unknown-key", f"unknown key {shown(key)}{hint}", position))
        for key in known:
            if key not in data:
                self._report("missing-key", f"`{key}` is missing", path)

    def _is(self, kind: type, value: object, path: tuple[str | int, ...], accepted: str) -> bool:
        if isinstance(value, kind):
            return True
        self._report("wrong-type", f"found {shown(value)}; accepted is {accepted}", path)
        return False

    def _report(self, code: str, message: str, path: tuple[str | int, ...]) -> None:
        self.problems.append(self._finding(code, message, self._source.position(path)))

    def _finding(self, code: str, message: str, position: Position) -> Diagnostic:
        return Diagnostic(file=self._source.file, position=position, code=code, message=message)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value.strip()) > 0 and len(value) <= 1000 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _day(value: object) -> date | None:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


_FIELDS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "experiment": ("the name of an experiment", _text),
    "metric": ("the name of a tracked metric", _text),
    "bound": ("the worst value that is accepted, a number in the metric's unit", _number),
    "reason": ("a text of at most 1000 characters", _text),
    "author": ("a name", _text),
    "expires": ("a day such as `2026-12-31`, the last one on which it holds", _day),
}

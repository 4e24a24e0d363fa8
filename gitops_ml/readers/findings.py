"""What a reader has found in one file, gathered with the manners that all readers share.

NaN and infinities are kept and reported, booleans and texts are ignored with a word, names are made safe to
store, and there is a limit on everything that a hostile file could make grow.
"""

import contextlib
import dataclasses
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gitops_ml.readers.base import UnreadableError
from gitops_ml.records import Problem, Reading, Scalar, Series
from gitops_ml.spec import Value

MAX_VALUES = 5_000_000
"""Values of all series of one file; more would take gigabytes. Such a file is refused, not cut: a series that
is cut has a wrong last value."""
MAX_NAMES = 20_000
MAX_NAME_LENGTH = 500
MAX_LISTED = 200
"""Problems, and things ignored, that are listed one by one; the rest is counted."""
MAX_DEPTH = 64

STEP_NAMES = ("step", "global_step", "_step", "trainer/global_step", "iteration", "iter", "epoch")
"""What a column is called that counts the progress, best first."""
TIME_NAMES = ("timestamp", "_timestamp", "wall_time", "time")
"""What a column is called that may hold times; ``epoch_seconds`` decides whether it does."""

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
_NOT_FINITE |= {"+inf": math.inf, "+infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}
_NOT_FINITE |= {".nan": math.nan, ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf}


_MANY = {"number": "numbers", "str": "texts", "list": "lists", "dict": "mappings", "bool": "true or false"}
_FOUND_AGAIN = ("is nan", "is inf", "is -inf", "steps go back from ")


class Repeated:
    """Stands for the value of a key that its mapping has more than once."""


def not_finite(text: str) -> float | None:
    """Return the number that ``nan``, ``-inf`` and their like write; None: the text is none of them."""
    return _NOT_FINITE.get(text.strip().lower()) if len(text) < 20 else None


def number(value: object) -> float | None:
    """Return the value as a float; None: it is no number. An integer beyond a double is infinite."""
    if isinstance(value, str):
        return not_finite(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def epoch_seconds(times: Sequence[float]) -> tuple[float, ...] | None:
    """Return the times in seconds since 1970; None: they are something else, such as seconds since the start.

    DVCLive and MLflow write milliseconds. Before 1973 nobody trained neural networks that we compare.
    """
    if not times or not all(1e8 < time < 1e14 for time in times):
        return None
    return tuple(time / 1000 for time in times) if min(times) > 1e11 else tuple(times)


def describe(value: object) -> str:
    """Say in a few words what a value is that is no metric."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "text"
        case None:
            return "empty"
        case int() | float():
            return "number"
        case list() | tuple():
            kinds = {"number" if number(item) is not None else type(item).__name__ for item in value[:100]}
            kind = _MANY.get(kinds.pop(), "values") if len(kinds) == 1 else "values"
            return f"list of {len(value)} {kind}"
        case dict():
            return "mapping"
        case _:
            return getattr(value, "words", None) or f"a {type(value).__name__}"


@dataclasses.dataclass(slots=True)
class _Points:
    steps: list[float] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)


class Findings:
    """Gathers what stands in one file, or in one folder that is one unit."""

    def __init__(self, name: str, format_name: str) -> None:
        self.name = name
        self.format = format_name
        self.params: dict[str, Value] = {}
        self._scalars: dict[str, Scalar] = {}
        self._series: dict[str, Series] = {}
        self._points: dict[str, _Points] = {}
        self._problems: list[Problem] = []
        self._ignored: list[str] = []
        self._refused: set[str] = set()
        self._noted: set[tuple[str, str]] = set()
        self._more_problems = 0
        self._more_ignored = 0
        self._size = 0

    @contextlib.contextmanager
    def guarded(self, file: str | None = None) -> Iterator[None]:
        """Turn what a file can do to its reader into a problem; everything found before it stays.

        Only what foreign bytes cause is caught: anything else is a mistake of ours and shows itself.
        """
        try:
            yield
        except UnreadableError as error:
            self.problem(error.where, error.message, file=file)
        except OSError as error:
            self.problem("", f"cannot be read: {error.strerror or type(error).__name__}", file=file)
        except RecursionError:
            self.problem("", "is nested too deeply to be read", file=file)
        except sqlite3.Error as error:
            self.problem("", f"is no sound database: {error}", file=file)

    def problem(self, where: str, message: str, *, file: str | None = None) -> None:
        """Note something that a reviewer must know."""
        if len(self._problems) < MAX_LISTED:
            self._problems.append(Problem(file=_clean(file or self.name), where=_clean(where), message=_clean(message)))
        else:
            self._more_problems += 1

    def ignore(self, name: str, why: str) -> None:
        """Note what is no metric."""
        self.ignore_words(f"{name[:MAX_NAME_LENGTH]} ({why})")

    def ignore_words(self, words: str) -> None:
        """Note what is no metric, as a part's reader said it."""
        if len(self._ignored) < MAX_LISTED:
            self._ignored.append(_clean(words))
        else:
            self._more_ignored += 1

    def ignore_once(self, name: str, why: str) -> None:
        """Note what is no metric, unless it was noted before."""
        if (name, why) not in self._noted and len(self._noted) < MAX_NAMES:
            self._noted.add((name, why))
            self.ignore(name, why)

    def adopt(self, problems: Sequence[Problem]) -> None:
        """Take over what a part's reader complained about, less what is found again in the whole."""
        for problem in problems:
            if not problem.message.startswith(_FOUND_AGAIN) and "values are not finite" not in problem.message:
                self.problem(problem.where, problem.message, file=problem.file)

    def scalar(self, name: str, value: float, *, stderr: float | None = None, count: int | None = None) -> None:
        """Add a final value."""
        safe = self._safe(name)
        if safe is None:
            return
        if safe in self._scalars or safe in self._refused:
            self._scalars.pop(safe, None)
            if safe not in self._refused:
                self.problem(safe, "is written more than once; none of its values is used")
            self._refused.add(safe)
            return
        self._scalars[safe] = Scalar(name=safe, value=value, stderr=stderr, count=count)

    def series(
        self, name: str, steps: Sequence[float], values: Sequence[float], times: Sequence[float] | None = None
    ) -> None:
        """Add a whole series; an empty one is ignored with a word."""
        if not values:
            self.ignore(name, "no values")
            return
        safe = self._safe(name)
        if safe is None:
            return
        if safe in self._series:
            self.problem(safe, "is written twice; only the first series is used")
            return
        self.count(len(values))
        self._series[safe] = Series(
            name=safe, steps=tuple(steps), values=tuple(values), times=None if times is None else tuple(times)
        )

    def point(self, name: str, step: float, value: float, time: float | None = None) -> None:
        """Add one value to a series that grows point by point."""
        points = self._points.get(name)
        if points is None:
            if len(self._points) >= MAX_NAMES:
                raise UnreadableError("", f"has more than {MAX_NAMES:,} names; those after them are not read")
            points = self._points[name] = _Points()
        self.count(1)
        points.steps.append(step)
        points.values.append(value)
        if time is not None:
            points.times.append(time)

    def count(self, values: int) -> None:
        """Take note of values about to be kept.

        Raises:
            UnreadableError: the file holds more than we are ready to keep; its series are dropped.
        """
        self._size += values
        if self._size > MAX_VALUES:
            self._series.clear()
            self._points.clear()
            raise UnreadableError("", f"holds more than {MAX_VALUES:,} values; its series are not read: log less often")

    def uncount(self, values: int) -> None:
        """Take back a note: the values are about to be added as a series, which counts them again."""
        self._size -= values

    def tree(self, data: Mapping[Any, Any], *, skip: Sequence[str] = ()) -> None:
        """Add every number of a nested mapping as a final value; nested keys join with ``/``."""
        for path, value in self.leaves(data):
            if path in skip:
                continue
            found = number(value)
            if found is None:
                self.ignore(path, describe(value))
            else:
                self.scalar(path, found)

    def leaves(self, data: Mapping[Any, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
        """Yield the path and value of everything in a nested mapping that is no mapping itself."""
        if depth > MAX_DEPTH:
            self.problem(prefix[:MAX_NAME_LENGTH], f"is nested deeper than {MAX_DEPTH}; what is below is not read")
            return
        for key, value in data.items():
            path = f"{prefix}/{key}" if prefix else str(key)
            if isinstance(value, Repeated):
                self.problem(path, "the key stands there more than once; none of its values is used")
            elif isinstance(value, Mapping):
                yield from self.leaves(value, path, depth + 1)
            else:
                yield path, value

    def flat(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row whose nested keys are joined with ``/``; what stands in it twice is left out and reported."""
        if not any(type(value) is dict or type(value) is Repeated for value in row.values()):
            return row
        items = list(self.leaves(row))
        found = dict(items)
        if len(found) < len(items):
            for name, times in Counter(name for name, _ in items).items():
                if times > 1:
                    self.problem(name, "is written more than once; none of its values is used")
                    del found[name]
        return found

    def param(self, name: str, value: object) -> None:
        """Add a parameter that the training recorded; what is no scalar or list of scalars is left out."""
        if len(self.params) >= MAX_NAMES:
            return
        safe = _clean(name[:MAX_NAME_LENGTH])
        if isinstance(value, list | tuple) and len(value) <= 100 and all(_plain(item) for item in value):
            self.params[safe] = tuple(_param(item) for item in value)
        elif _plain(value):
            self.params[safe] = _param(value)

    def param_tree(self, data: Mapping[Any, Any]) -> None:
        """Add the parameters of a nested mapping; nested keys join with ``/``."""
        for path, value in self.leaves(data):
            self.param(path, value)

    def last(self, name: str) -> float | None:
        """Return the last value of a series that was added whole."""
        found = self._series.get(name)
        return found.values[-1] if found else None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was noted so far."""
        return tuple(self._problems)

    def reading(self) -> Reading:
        """Return all of it, after a look at what every series can have wrong."""
        with self.guarded():
            for name, points in self._points.items():
                self._size -= len(points.values)
                times = epoch_seconds(points.times) if len(points.times) == len(points.values) else None
                self.series(name, points.steps, points.values, times)
        self._points.clear()
        for name in self._series.keys() & self._scalars.keys():
            del self._scalars[name]  # a series says more than its last value
        self._report_steps()
        self._report_not_finite()
        if not self._series and not self._scalars and not self._problems:
            self.problem("", "holds no metrics")
        if self._more_problems:
            self._problems.append(Problem(file=self.name, where="", message=f"{self._more_problems:,} more problems"))
        if self._more_ignored:
            self._ignored.append(f"{self._more_ignored:,} more")
        return Reading(
            file=self.name,
            format=self.format,
            scalars=tuple(self._scalars.values()),
            series=tuple(self._series.values()),
            problems=tuple(self._problems),
            ignored=tuple(self._ignored),
            params=self.params,
        )

    def _report_steps(self) -> None:
        seen: set[int] = set()
        for series in self._series.values():
            if id(series.steps) in seen:
                continue
            seen.add(id(series.steps))
            if tuple(sorted(series.steps)) != series.steps:
                pairs = zip(series.steps, series.steps[1:], strict=False)
                before, after = next(pair for pair in pairs if not pair[0] <= pair[1])
                self.problem(
                    series.name,
                    f"steps go back from {before:g} to {after:g}, as after a restart; all values are kept as written",
                )
                return

    def _report_not_finite(self) -> None:
        for scalar in self._scalars.values():
            if not math.isfinite(scalar.value):
                self.problem(scalar.name, f"is {scalar.value}")
        for series in self._series.values():
            if math.isfinite(sum(series.values)):
                continue
            bad = [index for index, value in enumerate(series.values) if not math.isfinite(value)]
            if bad:
                self.problem(
                    series.name,
                    f"{len(bad):,} of {len(series.values):,} values are not finite, the first at step"
                    f" {series.steps[bad[0]]:g}: {series.values[bad[0]]}",
                )

    def _safe(self, name: str) -> str | None:
        if len(name) > MAX_NAME_LENGTH:
            self.problem(f"{name[:40]}…", f"the name has {len(name):,} characters; at most {MAX_NAME_LENGTH} are read")
            return None
        if not name:
            self.problem("", "a value has no name")
            return None
        if len(self._scalars) + len(self._series) >= MAX_NAMES:
            raise UnreadableError("", f"has more than {MAX_NAMES:,} names; those after them are not read")
        safe = _clean(name)
        if safe != name:
            self.problem(safe, "the name is not valid Unicode; the bad characters are replaced")
        return safe


def _clean(text: str) -> str:
    """Return the text without lone surrogates, which no file or request can carry."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= 64
    return isinstance(value, str)


def _param(value: Any) -> Any:
    return _clean(value[:1000]) if isinstance(value, str) else value

"""What trials leave: series, readings, records and attempts, with their JSON forms.

A record is immutable and lives in users' repositories: ``schemas/record.v1.schema.json`` and
``schemas/attempt.v1.schema.json`` own the names, and each released version stays readable.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from gitops_ml.spec import Value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over a training, in the order in which it was written.

    ``steps``, ``values`` and, if known, ``times`` have the same length n >= 1. Values may be NaN or
    infinite: they are kept and reported, never dropped. Times are seconds since 1970 (UTC).
    """

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    times: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A final value that has no steps; ``stderr`` and ``count`` when the file states them.

    ``stderr`` is the sampling error over the test set (not seed noise), ``count`` the number of examples.
    """

    name: str
    value: float
    stderr: float | None = None
    count: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a metrics file that a reviewer must know: ``where`` is a line, key or byte offset."""

    file: str
    where: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that a trial left: with its digest, and where it is kept (``git``, ``storage`` or ``none``)."""

    path: str
    sha256: str
    size_bytes: int
    store: str


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    OVER_BUDGET = "over_budget"
    LOST = "lost"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a record was made: ``kind`` is ``ci`` or ``local``; CI gates only on records of CI origin."""

    kind: str
    run_url: str | None = None
    user: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the trial ran on, as far as it is known."""

    machine: str
    """Class of machine, such as an instance type; locally the CPU's model."""
    cpus: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A state of the repository: a commit, or the uncommitted work on top of it."""

    commit: str
    tree: str
    label: str
    """How it was named or found: ``main``, ``HEAD``, a short commit."""
    dirty: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BaselineChoice:
    """The commit that head is compared with, how it was chosen, and how far behind the ref's tip it is."""

    version: Version | None
    ref: str
    chosen: str
    """``merge-base``, ``tip``, ``first parent``, ``before the push``, ``HEAD``, ``given``, ``ancestor`` or ``none``."""
    behind: int | None = None
    """Commits between it and the ref's tip; None: not known."""
    note: str = ""

    def sentence(self) -> str:
        """Return the one line that every output shows about the baseline."""
        if self.version is None:
            return f"no baseline: {self.note}" if self.note else "no baseline"
        text = f"compared with {self.version.commit[:12]} ({self.chosen} of {self.ref}"
        if self.behind:
            text += f", {self.behind} commit{'s' if self.behind > 1 else ''} behind its tip"
        elif self.behind == 0:
            text += ", its tip"
        text += ")"
        return f"{text}; {self.note}" if self.note else text

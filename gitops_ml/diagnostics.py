"""Findings with a place, and the forms in which they are shown."""

import dataclasses
import enum


class Severity(enum.StrEnum):
    """How bad a finding is: only an error makes a spec invalid."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text file; both count from 1, in characters."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: where, what, and its short stable code such as ``unknown-key``."""

    file: str
    position: Position
    code: str
    message: str
    severity: Severity = Severity.ERROR


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``doctor``: what was looked at, whether it is as it should be, what to do if not."""

    subject: str
    ok: bool | None
    """None: could not be found out, or does not matter here."""
    found: str
    fix: str = ""

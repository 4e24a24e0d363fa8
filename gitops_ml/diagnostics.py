"""Findings with a place, and the forms in which they are shown."""

import enum
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gitops_ml import __version__
from gitops_ml.values import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is: only an error makes a spec invalid."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text file; both count from 1, in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: where, what, and its short stable code such as ``unknown-key``."""

    file: str
    position: Position
    code: str
    message: str
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``doctor``: what was looked at, whether it is as it should be, what to do if not."""

    subject: str
    ok: bool | None
    """None: could not be found out, or does not matter here."""
    found: str
    fix: str = ""


def counted(number: int, word: str) -> str:
    """Return ``1 error`` or ``2 errors``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def summary(diagnostics: Sequence[Diagnostic], checked: str) -> str:
    """Return the one line that ends every form: what was checked, and how many findings there are."""
    errors = sum(found.severity is Severity.ERROR for found in diagnostics)
    warnings = len(diagnostics) - errors
    words = [counted(errors, "error")] if errors else []
    words += [counted(warnings, "warning")] if warnings else []
    return f"{checked}: {', '.join(words) or 'nothing found'}"


def as_text(diagnostics: Iterable[Diagnostic]) -> str:
    """Return one line per finding, as editors and terminals know it: ``file:line:column: message [code]``."""
    return "\n".join(
        f"{_printable(found.file)}:{found.position.line}:{found.position.column}: "
        f"{'warning: ' if found.severity is Severity.WARNING else ''}{_printable(found.message)} [{found.code}]"
        for found in diagnostics
    )


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Return a list of mappings."""
    return json.dumps(
        [
            {
                "file": found.file,
                "line": found.position.line,
                "column": found.position.column,
                "severity": found.severity,
                "code": found.code,
                "message": found.message,
            }
            for found in diagnostics
        ],
        indent=2,
    )


def as_github(diagnostics: Iterable[Diagnostic]) -> str:
    """Return workflow commands, which GitHub shows as annotations on the lines of a change."""
    return "\n".join(
        f"::{found.severity} file={_property(found.file)},line={found.position.line},col={found.position.column},"
        f"title={_property(found.code)}::{_escaped(_printable(found.message))}"
        for found in diagnostics
    )


def as_gitlab(diagnostics: Iterable[Diagnostic]) -> str:
    """Return a code quality report, which GitLab shows in the merge request."""
    severities = {Severity.ERROR: "major", Severity.WARNING: "minor"}
    return json.dumps(
        [
            {
                "description": found.message,
                "check_name": found.code,
                "fingerprint": fingerprint,
                "severity": severities[found.severity],
                "location": {"path": found.file, "lines": {"begin": found.position.line}},
            }
            for found, fingerprint in _fingerprinted(diagnostics)
        ],
        indent=2,
    )


def as_sarif(diagnostics: Iterable[Diagnostic]) -> str:
    """Return SARIF 2.1.0, which code scanning reads."""
    found_here = list(diagnostics)
    return json.dumps(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {
                        "driver": {
                            "name": "gitops-ml",
                            "semanticVersion": __version__,
                            "rules": [{"id": code} for code in sorted({found.code for found in found_here})],
                        }
                    },
                    "columnKind": "unicodeCodePoints",
                    "results": [_sarif_result(*found) for found in _fingerprinted(found_here)],
                }
            ],
        },
        indent=2,
    )


FORMATS: Mapping[str, Callable[[Iterable[Diagnostic]], str]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
    "gitlab": as_gitlab,
    "sarif": as_sarif,
}


def _sarif_result(found: Diagnostic, fingerprint: str) -> dict[str, Any]:
    import urllib.parse

    return {
        "ruleId": found.code,
        "level": found.severity,
        "message": {"text": found.message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": urllib.parse.quote(found.file, errors="surrogateescape")},
                    "region": {"startLine": found.position.line, "startColumn": found.position.column},
                }
            }
        ],
        "partialFingerprints": {"gitopsMl/v1": fingerprint},
    }


def _fingerprinted(diagnostics: Iterable[Diagnostic]) -> Iterator[tuple[Diagnostic, str]]:
    """Yield each finding with a digest that stays when lines above it come and go."""
    import hashlib

    seen: Counter[tuple[str, str, str]] = Counter()
    for found in diagnostics:
        identity = (found.file, found.code, found.message)
        text = json.dumps([*identity, seen[identity]])
        seen[identity] += 1
        yield found, hashlib.sha256(text.encode()).hexdigest()


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


# https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(_printable(text)).replace(":", "%3A").replace(",", "%2C")

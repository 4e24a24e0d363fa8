"""``gitops-ml.yaml`` at the repository's root: project settings and policy. All optional."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitops_ml.errors import UserError
from gitops_ml.values import dataclass

# What reads and checks YAML is imported where it is used: many repositories have no such file.
if TYPE_CHECKING:
    from gitops_ml.diagnostics import Diagnostic
    from gitops_ml.source import Source

PROJECT_FILE = "gitops-ml.yaml"
# Names by which people know a branch that they work on; a push finds out about all others.
_WORKED_ON = frozenset(["main", "master", "trunk", "develop", "development", "dev", "staging", "production", "release"])
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?(\?owner=\d{12})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Where results are committed."""

    branch: str = "gitops-ml/reports"
    remote: str = "origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The settings of one repository."""

    specs: tuple[str, ...] = ("experiments/**/*.yaml", "experiment.yaml")
    backend: str = "local"
    backends: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Per-backend settings, by backend name."""
    ledger: LedgerSettings = LedgerSettings()
    storage: str | None = None
    images: str = "auto"
    policy: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load_project(top: Path) -> Project:
    """Return the settings in the work tree at ``top``.

    Raises:
        UserError: the file is not valid; the text holds its diagnostics.
    """
    text = project_text(top)
    if text is None:
        return Project()
    project, found = project_from(text)
    if project is None:
        from gitops_ml.diagnostics import Severity, as_text

        raise UserError(as_text(it for it in found if it.severity is Severity.ERROR))
    return project


def project_text(top: Path) -> bytes | None:
    """Return the file's text, cut where it is too large to be read; None: there is no such file."""
    try:
        with (top / PROJECT_FILE).open("rb") as file:
            from gitops_ml.source import MAX_BYTES

            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{PROJECT_FILE} cannot be read: {error.strerror}") from error


def project_from(text: bytes, file: str = PROJECT_FILE) -> "tuple[Project | None, tuple[Diagnostic, ...]]":
    """Return the settings that the text holds, and all findings in order of place; no settings if one is an error."""
    from gitops_ml.schema import findings
    from gitops_ml.source import read_source

    source = read_source(text, file)
    found = list(source.problems)
    if source.complete and source.data is not None:
        said = {problem.position for problem in found}
        found += [finding for finding in findings("project.v1", source) if finding.position not in said]
        if not found:
            found += _checks(source)
    found.sort(key=lambda finding: finding.position)
    if found:
        return None, tuple(found)
    data = source.data or {}
    return (
        Project(
            **data
            | {"ledger": LedgerSettings(**data.get("ledger", {}))}
            | ({"specs": tuple(data["specs"])} if "specs" in data else {})
        ),
        (),
    )


def _checks(source: "Source") -> "list[Diagnostic]":
    from gitops_ml import plugins
    from gitops_ml.diagnostics import Diagnostic
    from gitops_ml.globs import rooted
    from gitops_ml.schema import nearest_or_all
    from gitops_ml.source import shown

    found = []

    def error(path: tuple[str | int, ...], code: str, message: str, *, key: bool = False) -> None:
        position = source.key_position(path) if key else source.position(path)
        found.append(Diagnostic(file=source.file, position=position, code=code, message=message))

    data = source.data
    for index, glob in enumerate(data.get("specs", ())):
        if rooted(".", glob) is None:
            error(("specs", index), "outside", f"{shown(glob)} leads out of the repository; specs are inside it")
    backends: list[tuple[tuple[str | int, ...], str, bool]] = [
        (("backends", name), name, True) for name in data.get("backends", ())
    ]
    if "backend" in data:
        backends.append((("backend",), data["backend"], False))
    known = plugins.known("backend")
    for path, name, key in backends:
        if name not in known:
            advice = nearest_or_all(name, known)
            error(path, "unknown-backend", f"no backend is called {shown(name)}{advice}", key=key)
    branch = data.get("ledger", {}).get("branch", "")
    if branch in _WORKED_ON:
        accepted = f"results need a branch of their own, such as `{LedgerSettings().branch}`"
        error(("ledger", "branch"), "ledger-branch", f"{shown(branch)} is a branch that people work on; {accepted}")
    storage = data.get("storage", "")
    if "://" in storage and not _S3.fullmatch(storage):
        accepted = "a folder and s3://bucket/prefix, with ?owner=ACCOUNT or without"
        error(("storage",), "storage", f"{shown(storage)} is no storage; accepted are {accepted}")
    return found

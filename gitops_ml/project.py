"""``gitops-ml.yaml`` at the repository's root: project settings and policy. All optional."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Where results are committed."""

    branch: str = "gitops-ml/reports"
    remote: str = "origin"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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
    raise NotImplementedError

"""What a command gets beside its arguments: the outside world, connected on demand."""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from gitops_ml.backends.base import Backend
    from gitops_ml.forges.base import Forge
    from gitops_ml.git import Repository
    from gitops_ml.ledger import Results
    from gitops_ml.project import Project
    from gitops_ml.storage.base import Storage


@dataclasses.dataclass(kw_only=True)
class Tools:
    """One command's surroundings; tests build it from their own parts."""

    cwd: Path
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    out: TextIO = dataclasses.field(default_factory=lambda: sys.stdout)
    err: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def say(self, text: str = "") -> None:
        """Print a line of result."""
        print(text, file=self.out)

    def note(self, text: str) -> None:
        """Print a line of progress or advice, beside the result."""
        print(text, file=self.err, flush=True)

    def close(self) -> None:
        """Say what went wrong while reading, once, and end what was connected."""
        if (results := self.__dict__.get("results")) is not None:
            for warning in results.warnings:
                self.note(f"warning: {warning}")
        if (repository := self.__dict__.get("repository")) is not None:
            repository.close()

    @functools.cached_property
    def repository(self) -> "Repository":
        """The repository around the working directory."""
        from gitops_ml.git import Repository

        return Repository.find(self.cwd, self.environ)

    @functools.cached_property
    def project(self) -> "Project":
        """The settings of ``gitops-ml.yaml`` in the work tree; defaults when there is none."""
        from gitops_ml.project import load_project

        return load_project(self.repository.top)

    @functools.cached_property
    def results(self) -> "Results":
        """Records, attempts and reports known here and on the ledger."""
        from gitops_ml.ledger import Results

        ledger = self.project.ledger
        return Results(self.repository, remote=ledger.remote, branch=ledger.branch)

    @functools.cached_property
    def storage(self) -> "Storage":
        """Where the project keeps what is too large for git, and meets far machines."""
        from gitops_ml.errors import UserError
        from gitops_ml.storage import opened
        from gitops_ml.storage.base import StorageError

        place = self.project.storage or str(self.repository.state / "storage")
        try:
            return opened(place, self.repository.top, self.environ)
        except StorageError as error:
            raise UserError(f"gitops-ml.yaml: {error}") from error

    @functools.cached_property
    def repository_name(self) -> str:
        """What a forge calls this repository, such as ``acme/digits``; without a remote its folder's name."""
        url = self.repository.remote_url(self.project.ledger.remote)
        # https://host/acme/digits.git, ssh://git@host:22/acme/digits, git@host:acme/digits.git
        found = re.fullmatch(r"(?:\w+://[^/]+/|[^/:]+:)(.+?)(?:\.git)?/*", url or "")
        return found[1].strip("/") if found else self.repository.top.name

    @functools.cached_property
    def default_branch(self) -> str:
        """The branch that specs and commands mean where they name none.

        The CI says it, or the clone was told; else it is ``main``, or ``master`` where there is that alone.
        """
        from gitops_ml import ci

        remote = self.project.ledger.remote
        if (said := ci.default_branch(self.environ)) is not None:
            return said
        told = self.repository.default_branch(remote)
        here = [name for name in ("main", "master") if self.repository.has_branch(name, remote)]
        # A clone from before its `master` was renamed is not told of that.
        if told is not None and told != "master" and self.repository.has_branch(told, remote):
            return told
        return here[0] if here else "main"

    @functools.cached_property
    def interpreter(self) -> Mapping[str, Any]:
        """What runs a training whose spec names no environment, as the key document holds it."""
        return {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "platform": f"{sys.platform}-{os.uname().machine}",
            "packages": installed_packages(sys.path),
        }

    @functools.cached_property
    def _backends(self) -> dict[str, "Backend"]:
        return {}

    def backend(self, name: str) -> "Backend":
        """Connect the backend of that name, once."""
        if name not in self._backends:
            from gitops_ml import plugins
            from gitops_ml.backends.base import Context

            context = Context(
                state=self.repository.state,
                settings=self.project.backends.get(name, {}),
                environ=self.environ,
                now=self.now,
                repository=self.repository_name,
                storage_uri=self.project.storage,
                storage=lambda: self.storage,
            )
            self._backends[name] = plugins.load("backend", name)(context)
        return self._backends[name]

    def forge(self, name: str) -> "Forge":
        """Connect the forge of that name."""
        from gitops_ml import plugins

        forge: Forge = plugins.load("forge", name)(self.repository, self.environ)
        return forge


def installed_packages(path: Sequence[str]) -> list[str]:
    """Return ``name==version`` of what is installed on an import path, sorted, without gitops-ml itself.

    The names of the metadata folders say it all; reading each folder's METADATA would take 50 times as long.
    """
    found = {}
    for folder in reversed(path):
        try:
            names = [entry.name for entry in os.scandir(folder or ".")]
        except OSError:
            continue
        for name in names:
            if match := re.fullmatch(r"(.+?)-([^-]+)(?:-py[0-9.]+)?\.(?:dist|egg)-info", name):
                found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    found.pop("gitops-ml", None)
    return sorted(f"{name}=={version}" for name, version in found.items())

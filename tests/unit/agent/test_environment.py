"""Environments: found, built once by digest, and refused in words."""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gitops_ml.agent.environment import EnvironmentFailure, find_python
from gitops_ml.backends.base import Context, JobState, JobStatus
from gitops_ml.backends.local import LocalBackend
from gitops_ml.bundles import bundle
from gitops_ml.planning import Trial
from gitops_ml.spec import Environment
from tests.fakes.packages import wheel
from tests.fakes.trials import Objects, trial, until


def test_find_python__none__is_our_own() -> None:
    assert find_python(None, {}) == Path(sys.executable)
    assert find_python(f"{sys.version_info.major}.{sys.version_info.minor}", {}) == Path(sys.executable)


def test_find_python__on_path__is_found_by_its_answer(tmp_path: Path) -> None:
    _fake_python(tmp_path / "python3.99", "3.99.1")

    assert find_python("3.99", {"PATH": str(tmp_path)}) == tmp_path / "python3.99"
    assert find_python("3.99.1", {"PATH": str(tmp_path)}) == tmp_path / "python3.99"


def test_find_python__shim_that_refuses__the_next_is_taken(tmp_path: Path) -> None:
    shim, real = tmp_path / "shims", tmp_path / "pyenv/versions/3.99.0/bin"
    shim.mkdir()
    real.mkdir(parents=True)
    (shim / "python3.99").write_text("#!/bin/sh\nexit 127\n")
    (shim / "python3.99").chmod(0o755)
    _fake_python(real / "python3.99", "3.99.0")

    assert find_python("3.99", {"PATH": str(shim), "PYENV_ROOT": str(tmp_path / "pyenv")}) == real / "python3.99"


def test_find_python__absent__says_what_there_is(tmp_path: Path) -> None:
    _fake_python(tmp_path / "python3", "3.98.0")
    found = ", ".join(sorted([platform.python_version(), "3.98.0"]))

    with pytest.raises(EnvironmentFailure) as failure:
        find_python("3.99", {"PATH": str(tmp_path), "HOME": str(tmp_path)})

    assert str(failure.value) == (
        f"environment.python: Python 3.99 is not on this machine (found: {found}); "
        "install it, so that `python3.99` is on PATH, or name one that is there"
    )


class Site:
    """A local backend whose package index is a folder."""

    def __init__(self, folder: Path) -> None:
        self.wheel = wheel(folder)
        self.objects = Objects()
        environ = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
        self.backend = LocalBackend(
            Context(state=folder / "state", settings={}, environ=environ, now=lambda: datetime.now(UTC))
        )

    def trial(self, run: str, requirements: str, **fields: object) -> Trial:
        files = [self.objects.file("requirements.lock", requirements)]
        return trial(run, files, environment=Environment(requirements="requirements.lock"), **fields)

    def submit(self, of: Trial) -> None:
        with bundle(of, self.objects.blobs) as made:
            self.backend.submit(of, made)

    def ended(self, of: Trial) -> JobStatus:
        statuses = lambda: self.backend.poll([of.key])[of.key]  # noqa: E731
        return until(lambda: status if (status := statuses()).state.final else None)


def test_environment__two_trials_at_once__build_it_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    requirements = f"tinything==1.0 --hash=sha256:{site.wheel}\n"
    trials = [site.trial("python -c 'import tinything'", requirements, seed=seed) for seed in (0, 1)]
    for of in trials:
        site.submit(of)

    assert [site.ended(of).state for of in trials] == [JobState.SUCCEEDED] * 2
    logs = "\n".join(line for of in trials for line in site.backend.logs(of.key, follow=False))
    assert logs.count("building environment") == 1
    assert len(list((tmp_path / "state/cache/environments").glob("*/complete"))) == 1


def test_environment__another_hash__is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    of = site.trial("true", f"tinything==1.0 --hash=sha256:{'0' * 64}\n")
    site.submit(of)

    status = site.ended(of)

    assert status.state is JobState.FAILED
    assert status.reason.startswith("the environment could not be built (")
    assert not list((tmp_path / "state/cache/environments").glob("*/complete"))


def _fake_python(file: Path, version: str) -> None:
    file.write_text(f"#!/bin/sh\necho {version}\n")
    file.chmod(0o755)

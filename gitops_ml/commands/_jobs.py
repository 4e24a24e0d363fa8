"""Backends as ``gc`` and ``doctor`` name them, and jobs as ``status``, ``logs`` and ``cancel`` do: by a key's beginning
or an experiment's name.
"""

import argparse
import contextlib
import re
from collections.abc import Sequence

from gitops_ml.backends.base import Backend, Job, JobStatus
from gitops_ml.errors import UserError
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass

KEY_CHARS = 12
"""How much of a key is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job, how it stands, and the backend that knows it."""

    job: Job
    status: JobStatus
    backend: Backend
    backend_name: str


def jobs_named(words: Sequence[str], tools: Tools) -> Sequence[Known]:
    """Return the jobs that the words name, see ``named``; of keys as ``status`` shows them no other is read.

    Raises:
        UserError: a word names none.
    """
    if words and all(re.fullmatch(f"[0-9a-f]{{{KEY_CHARS},64}}", word) for word in words):
        with contextlib.suppress(UserError):  # else it is an experiment's name perhaps
            return named(words, [known for word in dict.fromkeys(words) for known in known_jobs(tools, word)])
    return named(words, known_jobs(tools))


def known_jobs(tools: Tools, key: str = "") -> Sequence[Known]:
    """Return the jobs of the backends that this repository uses whose keys begin so, oldest first."""
    found = []
    for name in backend_names(tools):
        backend = tools.backend(name)
        jobs = backend.jobs(key)
        statuses = backend.poll([job.key for job in jobs])
        found += [
            Known(job=job, status=statuses[job.key], backend=backend, backend_name=name)
            for job in jobs
            if job.key in statuses
        ]
    return sorted(found, key=lambda known: (known.job.submitted_at, known.job.key))


def backend_names(tools: Tools) -> Sequence[str]:
    """Return the backends that this repository uses."""
    return list(dict.fromkeys(["local", tools.project.backend, *tools.project.backends]))


def add_look_arguments(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add the options of a command that looks at backends; ``default``: which, in words."""
    parser.add_argument(
        "--backend",
        dest="backends",
        action="append",
        default=[],
        metavar="NAME",
        help=f"look at this one; repeatable (default: {default})",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")


def named(words: Sequence[str], jobs: Sequence[Known]) -> Sequence[Known]:
    """Return the jobs that the words name, each a key's beginning or an experiment; no words: all.

    Raises:
        UserError: a word names none.
    """
    chosen: dict[str, Known] = {}
    for word in words:
        fitting = [k for k in jobs if k.job.experiment == word or (len(word) >= 4 and k.job.key.startswith(word))]
        if not fitting:
            names = ", ".join(sorted({known.job.experiment for known in jobs})) or "none"
            raise UserError(f"no job has the experiment or key `{word}`; experiments with jobs: {names}")
        chosen |= {known.job.key: known for known in fitting}
    return list(chosen.values()) if words else jobs

"""The contract of a backend, and the words for what it reports.

A backend is one file: a class that takes ``(settings, context)`` and satisfies ``Backend``. One contract suite
(``tests/contract/test_backends.py``) runs against every one.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gitops_ml.diagnostics import Check
from gitops_ml.errors import UserError
from gitops_ml.planning import Estimate, Trial
from gitops_ml.records import Hardware, Usage
from gitops_ml.storage.base import Storage
from gitops_ml.values import dataclass


class JobState(enum.StrEnum):
    """Where a job stands. The last seven are final."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    COLLECTING = "collecting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    OVER_BUDGET = "over_budget"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Nothing more will happen by itself."""
        return self not in (JobState.WAITING, JobState.STARTING, JobState.RUNNING, JobState.COLLECTING)


class Machine(enum.StrEnum):
    """What exists for the job in the cloud, apart from how the job stands."""

    NONE = "none"
    LIVE = "live"
    RELEASING = "releasing"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """For what CI asked for an attempt: a head, of a change if it is one's. What a person started has none."""

    head: str
    change: int | None = None
    fork: bool = False
    """The head stands in another repository, and so on no branch of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """One job as the backend knows it now. Times are aware UTC."""

    key: str
    state: JobState
    reason: str = ""
    exit_code: int | None = None
    attempt: int = 1
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cost_usd: float = 0.0
    hardware: Hardware | None = None
    machine: Machine = Machine.NONE
    progress: str = ""
    """The newest line worth showing, such as ``epoch 3/20``."""
    retry_at: datetime | None = None
    """It waits for a machine that nobody has, and from then on submitting it again asks anew."""
    usage: Usage | None = None
    """Of a rented machine."""
    asked: Asked | None = None
    """For what the attempt was started; None: nobody in CI asked for it, or it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it can be named: for ``status``, ``logs`` and ``cancel``, which know no plan."""

    key: str
    experiment: str
    seed: int
    params: Mapping[str, Any]
    submitted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a job needs from here: a tar made of exactly the objects that were keyed, never the workspace.

    Layout: ``code/`` (the files, paths from the repository's root) and ``trial.json`` (the agent's orders, see
    ``gitops_ml.agent.orders``). Never a credential.
    """

    digest: str
    """SHA-256 of the tar; equal content gives an equal tar."""
    open: Callable[[], BinaryIO] = dataclasses.field(repr=False, compare=False)
    variables: tuple[str, ...] = ()
    """Names of the caller's variables that the agent needs to fetch data, as far as they are set. Those among
    ``datasets.CREDENTIALS`` are handed over as secrets are."""
    asked: Asked | None = None
    """For what it is submitted, to be said again by ``poll``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that outlived its deadline, for ``gc``: what it is, since when, and the call that ends it."""

    kind: str
    identity: str
    key: str | None
    since: datetime
    end: Callable[[], None] = dataclasses.field(repr=False, compare=False)


def _no_storage() -> Storage:
    raise UserError("gitops-ml.yaml: this backend needs `storage: s3://bucket/prefix`, which its machines can reach")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every backend gets from its surroundings."""

    state: Path
    """The ``.gitops-ml`` folder."""
    settings: Mapping[str, Any]
    """The backend's own part of ``gitops-ml.yaml``, as its schema accepted it."""
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    """The caller's environment: where secrets are looked up, and little else."""
    now: Callable[[], datetime]
    repository: str = ""
    """Whose jobs these are, such as ``acme/digits``: the scope of what is looked up and swept."""
    storage_uri: str | None = None
    """Where far machines and we exchange objects, as `storage` in ``gitops-ml.yaml`` says it."""
    storage: Callable[[], Storage] = dataclasses.field(default=_no_storage, repr=False)
    """Connects to it, once."""


class Backend(Protocol):
    """Where jobs run. A job is found again by its trial's key, from any process."""

    far: bool
    """Its jobs take nothing of this machine, so that their number is no matter here."""

    def check(self) -> Iterator[Check]:
        """Look at what the backend needs, for ``doctor``."""

    def estimate(self, trial: Trial, *, live: bool = False) -> Estimate:
        """Return what the trial may cost. Offline, unless today's prices are asked for with ``live``."""

    def submit(self, trial: Trial, bundle: Bundle) -> JobStatus:
        """Start the job, or return the status of the one that is there. Same key twice: one job.

        A job whose last attempt is final and did not succeed is started again, as the next attempt. One that waits
        for a machine is helped on.
        """

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        """Return the jobs' states in one call; a key that is not known here is absent."""

    def jobs(self, key: str = "") -> Sequence[Job]:
        """Return the jobs of this repository that the backend still knows and whose keys begin so, oldest first."""

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        """Yield the newest attempt's log lines without their ends; ``follow`` goes on until the job is final."""

    def collect(self, key: str, into: Path) -> None:
        """Bring the declared outputs of a final job into the folder, paths relative to the workdir. Repeatable."""

    def cancel(self, key: str) -> None:
        """End the job; one that is over already is no error."""

    def leftovers(self, now: datetime) -> Iterator[Leftover]:
        """Find what outlived its deadline."""

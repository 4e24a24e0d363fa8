"""The contract of a forge: where changes (pull or merge requests) are reviewed."""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError
from gitops_ml.values import dataclass


class CannotPublishError(ServiceError):
    """The forge refused a write that the user may do without: the text names the missing permission."""


class Permission(enum.IntEnum):
    """What a user may do in the repository, in rising order."""

    NONE = 0
    READ = 1
    WRITE = 2
    MAINTAIN = 3
    ADMIN = 4


class State(enum.StrEnum):
    """State of a commit status."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A commit status as it stands now."""

    state: State
    text: str
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A pull or merge request."""

    number: int
    head: str
    """The commit that was pushed."""
    head_ref: str
    base_ref: str
    fork: bool
    open: bool
    draft: bool
    title: str
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture for the comment, drawn by whoever needs it.

    ``ledger_path``: where it stands on the ledger, once the report is pushed.
    """

    name: str
    alt: str
    svg: Callable[[], bytes] = dataclasses.field(repr=False, compare=False)
    png: Callable[[], bytes] = dataclasses.field(repr=False, compare=False)
    version: str = ""
    """Hexadecimal, the same for what was drawn from the same data: so it is seen, undrawn, that it is there already."""
    ledger_path: str | None = None
    ledger_commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommentRef:
    """The comment as it stands now, and what was done.

    ``action``: ``created``, ``updated``, ``unchanged``, ``outdated`` (a newer run's text stands) or ``closed`` (the
    change is closed, nothing was written).
    """

    url: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a comment of ours reports on, and which run wrote it (0: not known)."""

    commit: str
    run_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftByJob:
    """What another job of this CI run has left with the forge."""

    status: str
    """How it ended, in the forge's word."""
    archive: Path | None
    """A zip, as whoever had that job's token made it; None: there is none."""
    expired: bool = False
    """There was one, and it was kept so long."""


class Forge(Protocol):
    """GitHub, GitLab, or ``local``."""

    max_comment_bytes: int
    """A body over this is refused by the forge."""

    def check(self, *, ledger_branch: str = "gitops-ml/reports") -> Iterator[Check]:
        """Look at token, permissions and settings, for ``doctor``. Changes nothing."""

    def change(self, number: int) -> Change:
        """Return one change."""

    def change_for(self, commit: str) -> Change | None:
        """Return the open change whose head is the commit."""

    def open_changes(self) -> Iterator[Change]:
        """Yield all open changes."""

    def permission(self, user: str) -> Permission:
        """Return what the user may do, by the repository's own answer."""

    def publish_image(self, image: Image, *, how: str = "auto") -> str | None:
        """Put the image where the comment can show it and return its URL; None: not possible here.

        ``how``: ``commit`` (link to the ledger), ``upload``, or ``auto`` (the best that works).
        """

    def page_url(self, commit: str, path: str) -> str | None:
        """Return where people read a file of the repository at a commit; None: nowhere."""

    def upsert_comment(self, number: int, *, marker: str, body: str, commit: str | None = None) -> CommentRef:
        """Leave exactly one comment of ours with this marker, holding ``body``.

        ``commit`` is what the body reports on: a text of an older commit or run never replaces a newer one.

        Raises:
            CannotPublishError: the forge refuses; nothing was written.
        """

    def told(self, number: int, *, marker: str) -> Told | None:
        """Return what our comment with this marker says that it reports on; None: there is none, or it does not say."""

    def set_status(self, commit: str, *, context: str, state: State, text: str, url: str | None) -> None:
        """Set the commit's status."""

    def statuses(self, commit: str) -> Mapping[str, Standing]:
        """Return the newest status of each context of a commit."""

    def run_is_over(self, url: str) -> bool | None:
        """Return whether the CI run that a status links to is over; None: the link names none of this repository."""


@runtime_checkable
class KeepsArtifacts(Protocol):
    """A forge that gives what jobs have left, to a job that cannot have it from its runner."""

    def left_by_job(self, name: str, folder: Path, *, limit_bytes: int) -> LeftByJob:
        """Bring the archive of the run's newest job of that name into the folder.

        Raises:
            UserError: this is no job of a run, or the run has no job of that name.
            ServiceError: the archive cannot be had, or is larger than the limit.
        """

"""The few git commands that we use, all in a private bare repository beside the user's.

The private repository (``.gitops-ml/git``) has the user's object store as its alternate, so everything can be read,
and everything that we write, fetch or deepen stays out of the user's work tree, index, HEAD, refs and config.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.planning import Tree


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is checked out: ``commit`` None in a repository without commits, ``branch`` None when detached."""

    commit: str | None
    branch: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class RejectedError(Exception):
    """The remote did not take the push because the branch moved."""

    message: str


class Repository:
    """The user's repository, read through the private one."""

    top: Path
    state: Path
    """The ``.gitops-ml`` folder; it ignores itself."""

    def __init__(self, top: Path, environ: Mapping[str, str]) -> None:
        raise NotImplementedError

    @classmethod
    def find(cls, start: Path, environ: Mapping[str, str]) -> "Repository":
        """Return the repository that holds the folder.

        Raises:
            UserError: there is none, or git is missing or too old.
        """
        raise NotImplementedError

    # Questions

    def head(self) -> Head:
        """Return what is checked out."""
        raise NotImplementedError

    def resolve(self, revision: str) -> str | None:
        """Return the commit that the revision names in the user's repository; None: it names none."""
        raise NotImplementedError

    def resolve_ref(self, ref: str, remote: str) -> str | None:
        """Return the commit of a baseline ref: the remote-tracking branch, then the local one, then any revision."""
        raise NotImplementedError

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the best common ancestor; a shallow clone is deepened by the commit graph alone if need be."""
        raise NotImplementedError

    def first_parent(self, commit: str) -> str | None:
        """Return the commit's first parent; None for a root."""
        raise NotImplementedError

    def first_parents(self, commit: str) -> Iterator[str]:
        """Yield the commit and its first-parent ancestors, newest first."""
        raise NotImplementedError

    def behind(self, commit: str, tip: str) -> int | None:
        """Return how many commits of the tip are not in the commit's history; None: not known."""
        raise NotImplementedError

    def tree(self, commit: str, label: str) -> Tree:
        """Return the commit's whole tree, submodules as their commits."""
        raise NotImplementedError

    def work_tree(self, selected: Sequence[str] = ()) -> Tree | None:
        """Return the uncommitted state as a tree in the private store; None: nothing differs from HEAD.

        It holds tracked changes, and those untracked unignored files that a glob of ``selected`` matches.
        """
        raise NotImplementedError

    def blobs(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (object id, bytes) in the order asked, through one ``cat-file --batch``."""
        raise NotImplementedError

    def remote_url(self, remote: str) -> str | None:
        """Return where the user's remote points; None: there is no such remote."""
        raise NotImplementedError

    # Acts, on the private repository and on remotes alone

    def fetch(self, remote: str, refspec: str) -> str | None:
        """Fetch one ref into the private repository and return its commit; None: the remote has no such ref."""
        raise NotImplementedError

    def write_commit(self, files: Mapping[str, bytes], *, parent: str | None, message: str) -> str:
        """Write a commit whose tree is the parent's with the files added or replaced, and return its id."""
        raise NotImplementedError

    def push(self, remote: str, commit: str, ref: str, *, expected: str | None) -> None:
        """Move the remote's ref to the commit, only if it still is at ``expected`` (None: does not exist).

        Raises:
            RejectedError: it moved.
            ServiceError: refused for another reason, or not reachable.
        """
        raise NotImplementedError

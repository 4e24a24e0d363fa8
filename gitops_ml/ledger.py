"""The ledger branch and the results kept here until they are pushed: read many, append without loss.

Both hold the same tree of files (design: the ledger), so everything is read from both, the ledger first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.git import Repository
from gitops_ml.records import Attempt, Record


def record_path(key: str) -> str:
    """Return where a record stands: ``records/<k0k1>/<key>/record.json``."""
    return f"records/{key[:2]}/{key}/record.json"


def series_path(key: str) -> str:
    """Return where a record's series stand."""
    return f"records/{key[:2]}/{key}/series.csv"


def attempt_path(key: str, number: int) -> str:
    """Return where an attempt that did not succeed stands."""
    return f"attempts/{key[:2]}/{key}/{number}.json"


def report_path(experiment: str, commit: str, plan: str) -> str:
    """Return the folder of a report."""
    return f"reports/{experiment}/{commit[:12]}-{plan[:8]}"


class Results:
    """Records, attempts and reports, from the ledger branch and from ``.gitops-ml/results``."""

    def __init__(self, repository: Repository, *, remote: str, branch: str) -> None:
        raise NotImplementedError

    def refresh(self) -> None:
        """Fetch the ledger branch once; a remote that cannot be reached is a warning in ``warnings``, not an error."""
        raise NotImplementedError

    @property
    def warnings(self) -> Sequence[str]:
        """What went wrong while reading, for the user."""
        raise NotImplementedError

    def keys(self) -> frozenset[str]:
        """Return the keys that have a record."""
        raise NotImplementedError

    def records(self, keys: Iterable[str]) -> Mapping[str, Record]:
        """Return the records of those keys that have one. A broken record is left out and named in ``warnings``."""
        raise NotImplementedError

    def all_records(self) -> Iterator[Record]:
        """Yield every record, in order of keys; series are not read."""
        raise NotImplementedError

    def attempts(self, keys: Iterable[str]) -> Mapping[str, Sequence[Attempt]]:
        """Return the attempts that did not succeed, by key, oldest first."""
        raise NotImplementedError

    def report_files(self, folder: str) -> Mapping[str, bytes] | None:
        """Return the files of one report by their path below ``folder``; None: there is no such report."""
        raise NotImplementedError

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep files here until they are pushed; each whole or not at all, a record that is there stays."""
        raise NotImplementedError

    def push(self, message: str, commits: Sequence[str] = ()) -> "Pushed":
        """Append everything kept here to the ledger branch in one commit, and free it here when it is there.

        ``commits`` are pushed too, as ``refs/gitops-ml/commits/<sha>``, so that they can be found after a squash.
        """
        raise NotImplementedError


class Pushed:
    """What a push did: the ledger's commit, the paths added, and the record keys that were there before."""

    commit: str
    added: Sequence[str]
    present: Sequence[str]


def folder_of_state(state: Path) -> Path:
    """Return where results are kept until they are pushed."""
    return state / "results"

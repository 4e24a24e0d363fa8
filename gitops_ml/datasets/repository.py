"""Data in the repository: a path from the workdir. Its files are part of the bundle."""

import hashlib
from pathlib import Path

from gitops_ml.datasets.base import DatasetError


class RepositoryDataset:
    """Finds the data where the bundle was unpacked; what the bundle's digest covers needs no second look."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:  # noqa: ARG002 it is here already
        """Return where the data stands; a file is verified against a ``sha256:`` version.

        Raises:
            DatasetError: missing, or different from what was pinned.
        """
        path = self._workdir / uri
        if not path.exists():
            raise DatasetError(f"{uri} is not in the bundle")
        if version is not None and version.startswith("sha256:") and path.is_file():
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            found = f"sha256:{digest.hexdigest()}"
            if found != version:
                raise DatasetError(f"{uri} is {found}, but the spec pins {version}")
        return path.absolute()

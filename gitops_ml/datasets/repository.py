"""Data in the repository: a path from the workdir. Its files are part of the bundle, which has a digest of its own."""

from collections.abc import Mapping
from pathlib import Path

from gitops_ml.datasets.base import DatasetError, Outside, changed, digest_of, manifest


class RepositoryDataset:
    """Finds the data where the bundle was unpacked; what the bundle's digest covers needs no second look."""

    def __init__(self, outside: Outside, _source: Mapping[str, str]) -> None:
        self._workdir = outside.workdir

    def resolve(self, uri: str, *, like: str = "") -> str:  # noqa: ARG002 there is one form
        """Return the digest of the file, or of all files in the folder."""
        path = self._found(uri)
        if path.is_file():
            return digest_of(path, "sha256")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return manifest(
            (file.relative_to(path).as_posix(), file.stat().st_size, digest_of(file, "sha256")) for file in files
        )

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:  # noqa: ARG002 it is here already
        """Return where the data stands; verified if a version is given."""
        path = self._found(uri)
        if version is not None and (found := self.resolve(uri)) != version:
            raise changed(uri, found, version)
        return path.absolute()

    def _found(self, uri: str) -> Path:
        path = self._workdir / uri
        if not path.exists():
            raise DatasetError(f"{uri} is not in the bundle")
        return path

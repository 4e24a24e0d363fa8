"""Where code, logs, checkpoints and large outputs go: one file per kind, behind ``base``."""

from collections.abc import Mapping
from pathlib import Path

from gitops_ml.storage.base import Storage, StorageError


def opened(place: str, top: Path, environ: Mapping[str, str]) -> Storage:  # noqa: ARG001 for kinds that log in
    """Return the storage at a place, as ``gitops-ml.yaml`` names it: a folder, from ``top``, or a URI.

    Raises:
        StorageError: it is no place that we can use.
    """
    if "://" in place:
        raise StorageError(f"storage: {place}: only folders are supported yet")
    from gitops_ml.storage.folder import FolderStorage

    return FolderStorage(top / Path(place).expanduser())

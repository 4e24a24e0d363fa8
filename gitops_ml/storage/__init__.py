"""Where code, logs, checkpoints and large outputs go: one file per kind, behind ``base``."""

from collections.abc import Mapping
from pathlib import Path

from gitops_ml.storage.base import Storage, StorageError


def opened(place: str, top: Path, environ: Mapping[str, str]) -> Storage:
    """Return the storage at a place, as ``gitops-ml.yaml`` names it: a folder, from ``top``, or a URI.

    Nothing is asked of it yet.

    Raises:
        StorageError: it is no place that we can use.
    """
    if place.startswith("s3://"):
        from gitops_ml.storage.s3 import S3Storage

        return S3Storage(place, environ)
    if "://" in place:
        raise StorageError(f"storage: {place}: only folders and s3://bucket/prefix are supported")
    from gitops_ml.storage.folder import FolderStorage

    return FolderStorage(top / Path(place).expanduser())

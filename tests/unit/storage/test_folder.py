"""A folder as storage: what only a folder can do wrong."""

from pathlib import Path

import pytest

from gitops_ml.storage.base import StorageError
from gitops_ml.storage.folder import FolderStorage


def test_put__not_writable__says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="file"):
        FolderStorage(tmp_path / "file" / "below").put("a", b"")

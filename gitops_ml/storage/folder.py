"""A storage in a folder of this machine, or of a network drive. No options; ``storage: path/to/folder``."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gitops_ml.storage.base import TEMPORARY, StorageError, parts


class FolderStorage:
    """Objects are files below ``root``; a name is a relative path with forward slashes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes) -> None:
        """Write the object, whole or not at all."""
        target = self._path(name)
        with self._temporary(target) as temporary:
            temporary.write_bytes(data)
            temporary.replace(target)

    def put_file(self, name: str, file: Path) -> None:
        """Write the file's content as the object, whole or not at all."""
        target = self._path(name)
        with self._temporary(target) as temporary:
            shutil.copyfile(file, temporary)
            temporary.replace(target)

    def create(self, name: str, data: bytes) -> bool:
        """Write the object unless it exists; False: it was there."""
        target = self._path(name)
        with self._temporary(target) as temporary:
            temporary.write_bytes(data)
            try:
                # A link is made only if the name is free, with the content already in place.
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def get(self, name: str) -> bytes | None:
        """Return the object; None: there is none."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def get_file(self, name: str, file: Path) -> bool:
        """Bring the object into the file, whole or not at all; False: there is none."""
        source = self._path(name)
        if not source.is_file():
            return False
        with self._temporary(file) as temporary:
            shutil.copyfile(source, temporary)
            temporary.replace(file)
        return True

    def names(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that start with the prefix and sort after ``after``, sorted."""
        start = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self._root
        found = (
            Path(folder, file).relative_to(self._root).as_posix()
            for folder, _, files in os.walk(start)
            for file in files
            if not file.startswith(TEMPORARY)
        )
        yield from sorted(name for name in found if name.startswith(prefix) and name > after)

    def written_at(self, name: str) -> float | None:
        """Return when the object was last written, in Unix seconds; None: there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path = self._path(name)
            return path.stat().st_mtime if path.is_file() else None
        return None

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._root.joinpath(*parts(name))

    @contextlib.contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        """Yield a new file beside the target; it is gone afterwards, and any failure is a ``StorageError``."""
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY)
            os.close(descriptor)
            yield Path(temporary)
        except OSError as error:
            raise StorageError(f"{target}: {error.strerror or error}") from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

"""Packages from the storage: what a lock file asks for comes from the index once, and from then on from there.

    environments/DIGEST.json        which files a lock file needs, for one Python on one kind of machine
    environments/files/SHA256       a wheel; shared by all lock files that name it

Nothing of it is believed: pip checks every file against the lock file's hashes when it installs, wherever it is from.
"""

import hashlib
import json
import platform
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from gitops_ml.agent.environment import pip_for, version_of
from gitops_ml.agent.orders import Orders, OrdersError, from_json
from gitops_ml.agent.unpack import sha256
from gitops_ml.storage.base import Storage

_AT_ONCE = 8
_MAX_TEXT_BYTES = 4 * 2**20


class Wheels:
    """The files for one lock file, on their way between index, machine and storage."""

    def __init__(self, storage: Storage, folder: Path, requirements: Path, python: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._requirements = requirements
        self._python = python
        identity = [
            version_of(python),
            platform.system(),
            platform.machine(),
            requirements.read_text(errors="surrogateescape"),
        ]
        self.digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._name = f"environments/{self.digest}.json"

    @property
    def variables(self) -> Mapping[str, str]:
        """What makes pip take the files that are here, and ask nobody."""
        return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self._folder)}

    def fetch(self) -> bool:
        """Bring the files here from the storage; False: not all of them are there.

        Raises:
            StorageError: it refused.
        """
        files = self._listed()
        if files is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)

        def bring(item: tuple[str, str]) -> bool:
            name, digest = item
            file = self._folder / name
            return self._storage.get_file(f"environments/files/{digest}", file) and sha256(file) == digest

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            whole = all(pool.map(bring, files.items()))
        if not whole:
            shutil.rmtree(self._folder)
        return whole

    def download(self, environ: Mapping[str, str], run: Callable[[Sequence[str], Mapping[str, str]], bool]) -> bool:
        """Bring the files here from the index; False: pip did not, or some of them have to be built.

        Args:
            environ: for pip; says where the index is.
            run: runs a command and says whether it succeeded.
        """
        pip = pip_for(self._python)
        if pip is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            *pip, "download", "--require-hashes", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check",
            "--quiet", "--dest", str(self._folder), "--requirement", str(self._requirements),
        ]  # fmt: skip
        done = run(command, environ)
        if not done:
            shutil.rmtree(self._folder, ignore_errors=True)
        return done

    def keep(self) -> None:
        """Put the files into the storage, the list last.

        Raises:
            StorageError: it refused; the next machine downloads them once more.
        """
        digests = {file.name: sha256(file) for file in sorted(self._folder.iterdir())}
        there = set(self._storage.names("environments/files/"))

        def send(item: tuple[str, str]) -> None:
            name, digest = item
            if f"environments/files/{digest}" not in there:
                self._storage.put_file(f"environments/files/{digest}", self._folder / name)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(send, digests.items()))
        self._storage.put(self._name, json.dumps({"format": 1, "files": digests}, sort_keys=True).encode())

    def _listed(self) -> Mapping[str, str] | None:
        """Return name -> digest; None: no such list, or not one of ours."""
        try:
            files = json.loads(self._storage.get(self._name) or b"null")["files"]
            good = all(PurePosixPath(name).name == name and name.endswith(".whl") for name in files)
            return {str(name): str(digest) for name, digest in files.items()} if good else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def requirements_of(bundle: Path, into: Path) -> tuple[Orders, Path] | None:
    """Return a bundle's orders and its lock file, written to ``into``; None: no lock file, or a broken bundle."""
    try:
        with tarfile.open(bundle) as tar:
            orders = from_json(_member(tar, "trial.json"))
            if orders.requirements is None:
                return None
            name = PurePosixPath("code", orders.workdir, orders.requirements).as_posix()
            into.write_bytes(_member(tar, name))
    except (tarfile.TarError, KeyError, OSError, OrdersError):
        return None
    return orders, into


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.getmember(name)
    source = tar.extractfile(member)
    if source is None or member.size > _MAX_TEXT_BYTES:
        raise KeyError(name)
    with source:
        return source.read()

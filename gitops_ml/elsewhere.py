"""What a repository's own objects do not hold: files that Git LFS keeps, and the files of submodules."""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gitops_ml.agent.cache import DataCache, limit_from
from gitops_ml.datasets import lfs
from gitops_ml.datasets.base import DatasetError, Outside, digest_of
from gitops_ml.errors import UserError
from gitops_ml.git import Repository, state_folder
from gitops_ml.planning import TreeFile
from gitops_ml.pointers import LfsPointer, lfs_pointer
from gitops_ml.records import Version


class Elsewhere:
    """Finds it in the user's clone, else asks the LFS store; what came from there is kept for the next time."""

    def __init__(
        self,
        repository: Repository,
        environ: Mapping[str, str],
        *,
        remote: str = "origin",
        wait: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._repository = repository
        self._remote = remote
        self.environ = environ
        self._wait = wait
        self._say = say

    def lfs_store(self, version: Version) -> str:
        """Return the address of the LFS store as that version has it; empty: there is none."""
        repository = self._repository
        named = repository.setting("lfs.url") or repository.setting_at(version.tree, ".lfsconfig", "lfs.url") or ""
        if re.match("https?://", named):
            return named
        own = repository.setting(f"remote.{self._remote}.lfsurl")
        return own or store_address(repository.remote_url(self._remote) or "")

    @contextlib.contextmanager
    def lfs_file(self, path: str, pointer: LfsPointer, version: Version) -> Iterator[Path]:
        """Yield a file with the content that a pointer stands for.

        Raises:
            UserError: it is neither here nor in the store.
        """
        for kept in lfs.objects(self._repository.top, pointer.oid):
            if kept.is_file() and digest_of(kept, "sha256") == f"sha256:{pointer.oid}":
                yield kept
                return
        source = {"oid": pointer.oid, "size": str(pointer.size_bytes), "url": self.lfs_store(version)}
        scratch = self._repository.state / "tmp"
        state_folder(self._repository.state)
        scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            try:
                cache = DataCache(
                    self._repository.state / "cache",
                    limit_bytes=limit_from(self.environ),
                    wait=self._wait,
                    say=self._say,
                )
                outside = Outside(environ=self.environ, cache=cache, wait=self._wait, say=self._say)
                found = lfs.LfsDataset(outside, source).fetch(path, None, Path(folder))
                cache.trim()
            except DatasetError as error:
                raise UserError(str(error)) from error
            yield found

    def submodule(self, path: str, commit: str) -> Iterator[tuple[TreeFile, bytes | Path]]:
        """Yield the files of a submodule and of those in it, paths from its own root, with their content.

        Raises:
            UserError: its commit is not in this clone.
        """
        for file, content, store in self._repository.submodule(path, commit):
            pointer = lfs_pointer(content) if file.mode != "120000" else None
            if pointer is None:
                yield file, content
                continue
            kept = store / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
            if not kept.is_file():
                raise UserError(
                    f"{path}/{file.path} is kept by Git LFS, and this clone of the submodule does not have it: "
                    f"git -C {path} lfs pull"
                )
            yield file, kept


def store_address(remote: str) -> str:
    """Return where Git LFS keeps the files of a remote that says nothing else; empty: it is not known.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md; over SSH it asks the server,
    which forges answer with the address of their HTTPS side.
    """
    over_ssh = re.fullmatch(r"ssh://(?:[^@/]+@)?([\w.-]+)(?::[0-9]+)?/(.+?)(?:\.git)?/*", remote)
    if found := over_ssh or re.fullmatch(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+?)(?:\.git)?/*", remote):
        return f"https://{found[1]}/{found[2]}.git/info/lfs"
    if found := re.fullmatch(r"(https?://.+?)(?:\.git)?/*", remote):
        return f"{found[1]}.git/info/lfs"
    return f"file://{remote}" if remote.startswith("/") else remote if remote.startswith("file://") else ""

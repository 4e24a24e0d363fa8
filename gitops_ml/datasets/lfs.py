"""Data that Git LFS keeps: the repository holds a pointer with the SHA-256, the file lies in the LFS store.

    data: [{name: train, uri: data/train.bin}]        # no version: the commit pins the pointer

The caller reads the pointer and says where the store is (``lfs.url`` in git's settings, ``.lfsconfig``, or the remote).
Looked at first is the user's clone on this machine (``.git/lfs/objects``); else the store's batch API is asked.
Credentials come from the environment alone, and each goes only to the forge that it is for: GITHUB_TOKEN or GH_TOKEN to
GITHUB_SERVER_URL (github.com), CI_JOB_TOKEN or GITLAB_TOKEN to CI_SERVER_URL (gitlab.com).
"""

import base64
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.datasets.base import DatasetError, Outside, Wanted, changed, file_name
from gitops_ml.datasets.local import copied, git_folder
from gitops_ml.datasets.web import Web

_MEDIA = "application/vnd.git-lfs+json"


class LfsDataset:
    """One file behind a pointer. ``source``: ``oid``, ``size`` and ``url``, the store's address."""

    def __init__(self, outside: Outside, source: Mapping[str, str]) -> None:
        self._outside = outside
        self._cache = outside.cache
        self._web = Web(outside)
        self._oid = source.get("oid", "")
        self._size = int(source.get("size", "0"))
        self._url = source.get("url", "").rstrip("/")

    def resolve(self, uri: str, *, like: str = "") -> str:  # noqa: ARG002 the pointer says it
        """Return what the pointer says."""
        return f"sha256:{self._oid}"

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the file, verified against its pointer."""
        if version not in (None, found := self.resolve(uri)):
            raise changed(uri, found, str(version))
        target = into / file_name(uri)
        self._cache.place(Wanted(name=uri, digest=found, size_bytes=self._size), target, lambda f: self.get(uri, f))
        return target

    def get(self, uri: str, file: Path) -> None:
        """Write the file's content, from this machine or from the store.

        Raises:
            DatasetError: it is in neither, or the store refuses it.
        """
        if any(copied(kept, file) for kept in objects(self._outside.clone, self._oid)):
            return
        if self._url.startswith("file://"):  # a remote on this machine, bare or not
            remote = Path(urllib.parse.unquote(urllib.parse.urlsplit(self._url).path))
            path = f"lfs/objects/{self._oid[:2]}/{self._oid[2:4]}/{self._oid}"
            if copied(remote / path, file) or copied(remote / ".git" / path, file):
                return
            raise DatasetError(f"{uri}: Git LFS: {remote} does not have it: git lfs push")
        if not self._url:
            raise DatasetError(
                f"{uri}: Git LFS keeps it, this clone does not have it, and no remote says where the store is: "
                "git lfs pull"
            )
        private = _credentials(self._url, self._outside.environ)
        question = {
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": self._oid, "size": self._size}],
        }
        try:
            answer, _ = self._web.document(f"{self._url}/objects/batch", private=private, body=question, media=_MEDIA)
        except DatasetError as error:
            raise type(error)(f"{uri}: Git LFS: {error}") from error
        href, headers = self._action(uri, answer)
        if _same_host(href, self._url):
            headers = {**private, **headers}
        self._web.download(href, file, size_bytes=self._size, private=headers)

    def _action(self, uri: str, answer: Any) -> tuple[str, Mapping[str, str]]:
        """Return where the store keeps the file, and the headers to ask with."""
        try:
            (entry,) = (one for one in answer["objects"] if one["oid"] == self._oid)
            if "error" in entry:
                code = int(entry["error"]["code"])
                said = "the store does not have it: git lfs push" if code == 404 else f"the store refuses it ({code})"
                raise DatasetError(f"{uri}: Git LFS: {said}")
            action = entry["actions"]["download"]
            return str(action["href"]), {str(k): str(v) for k, v in action.get("header", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DatasetError(f"{uri}: the Git LFS store answers with something else than its API says") from None


def objects(clone: Path | None, oid: str) -> Iterator[Path]:
    """Yield where a clone on this machine may have a file: git's own store, and ours for what was never committed."""
    if clone is not None:
        for store in (git_folder(clone), clone / ".gitops-ml" / "git"):
            yield store / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def _same_host(one: str, other: str) -> bool:
    return urllib.parse.urlsplit(one)[:2] == urllib.parse.urlsplit(other)[:2]


def _credentials(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the header that logs in, if the store is that of a forge for which the environment has a token."""
    where = urllib.parse.urlsplit(url)
    for server, default, names in (
        (
            "GITHUB_SERVER_URL",
            "https://github.com",
            (("GITHUB_TOKEN", "x-access-token"), ("GH_TOKEN", "x-access-token")),
        ),
        ("CI_SERVER_URL", "https://gitlab.com", (("CI_JOB_TOKEN", "gitlab-ci-token"), ("GITLAB_TOKEN", "oauth2"))),
    ):
        if where[:2] != urllib.parse.urlsplit(environ.get(server) or default)[:2]:
            continue
        for name, user in names:
            if token := environ.get(name):
                return {"Authorization": f"Basic {base64.b64encode(f'{user}:{token}'.encode()).decode()}"}
    return {}

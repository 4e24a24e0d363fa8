"""Data on the Hugging Face Hub: a file, a folder or a whole repository of a dataset or a model.

    data:
      - name: train
        uri: hf://datasets/stanfordnlp/imdb/plain_text/train-00000-of-00001.parquet
        version: e6281661ce1c48d982bc483cf8a173c1bbeb5d31+sha256:9f2c...
      - {name: base, uri: "hf://openai/gpt2@main", version: 607a30d783dfa663caf39e06633721c8d4cfcd7e}

`hf://datasets/ORG/NAME[@REVISION][/PATH]`, `hf://ORG/MODEL[@REVISION][/PATH]`; without a revision `main` is meant, and
`gitops-ml lock` writes the commit that it stands at. Each file is checked against the digest that the Hub's listing of
that commit has for it; what stands behind the ``+`` is checked too: a file's digest, or one over all files. Plain
HTTPS, to HF_ENDPOINT if that is set; HF_TOKEN, if it is set, goes to that host alone.
"""

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.datasets.base import DatasetError, Outside, Wanted, all_at_once, below, changed, file_name, manifest
from gitops_ml.datasets.web import Web
from gitops_ml.pins import Pin, pin_from

_URI = re.compile(r"hf://(?P<kind>datasets/)?(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")
_PAGES = 10_000


class HuggingFaceDataset:
    """A dataset or a model of the Hub."""

    def __init__(self, outside: Outside, _source: Mapping[str, str]) -> None:
        self._cache = outside.cache
        self._web = Web(outside)
        self._endpoint = (outside.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        token = outside.environ.get("HF_TOKEN")
        self._private = {"Authorization": f"Bearer {token}"} if token else {}

    def resolve(self, uri: str, *, like: str = "") -> str:
        """Return the commit of the revision, and the digest of what the URI names there."""
        place = _Place(uri)
        commit = self._commit(uri, place)
        if like and not pin_from(like).digest:
            return commit
        return str(Pin(place=commit, digest=_digest(place, self._files(uri, place, commit))))

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the file, or all files of the folder, each verified against the listing."""
        place, pin = _Place(uri), pin_from(version or "")
        commit = pin.place or self._commit(uri, place)
        files = list(self._files(uri, place, commit))
        if pin.digest and (found := _digest(place, files)) != pin.digest:
            raise changed(uri, found, pin.digest)
        if [path for path, _, _ in files] == [place.path]:
            target = into / file_name(place.path)
            self._bring(place, commit, files[0], target)
            return target
        folder = into / file_name(place.path or place.name)
        folder.mkdir(parents=True, exist_ok=True)
        start = f"{place.path}/" if place.path else ""

        def bring(file: tuple[str, int, str]) -> None:
            self._bring(place, commit, file, below(folder, file[0].removeprefix(start)))

        all_at_once(bring, files)
        return folder

    def _bring(self, place: "_Place", commit: str, file: tuple[str, int, str], target: Path) -> None:
        path, size, digest = file
        url = f"{self._endpoint}/{place.repository}/resolve/{commit}/{urllib.parse.quote(path)}"
        wanted = Wanted(name=f"{place.shown}/{path}", digest=digest, size_bytes=size)
        self._cache.place(
            wanted, target, lambda part: self._web.download(url, part, size_bytes=size, private=self._private)
        )

    def _commit(self, uri: str, place: "_Place") -> str:
        url = f"{self._endpoint}/api/{place.api}/revision/{urllib.parse.quote(place.revision, safe='')}"
        found = self._asked(uri, url)[0]
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
            raise DatasetError(f"{uri}: the Hub does not say which commit `{place.revision}` is")
        return commit

    def _files(self, uri: str, place: "_Place", commit: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, digest) of the file, or of all files in the folder."""
        api = f"{self._endpoint}/api/{place.api}"
        if place.path:
            named = self._asked(uri, f"{api}/paths-info/{commit}", {"paths": [place.path], "expand": False})[0]
            entries = [one for one in _entries(uri, named) if one.get("path") == place.path]
            if not entries:
                raise DatasetError(f"{uri}: there is no `{place.path}` at {commit[:12]}")
            if entries[0].get("type") == "file":
                yield _file(uri, entries[0])
                return
        url = f"{api}/tree/{commit}/{urllib.parse.quote(place.path)}".rstrip("/") + "?recursive=true&expand=false"
        for _ in range(_PAGES):
            page, headers = self._asked(uri, url)
            yield from (_file(uri, one) for one in _entries(uri, page) if one.get("type") == "file")
            onward = re.search(r'<([^>]+)>;\s*rel="?next', headers.get("link", ""))
            if onward is None:
                return
            url = urllib.parse.urljoin(url, onward[1])
            if not url.startswith(f"{self._endpoint}/"):
                raise DatasetError(f"{uri}: the Hub's listing goes on at another host")

    def _asked(self, uri: str, url: str, body: Any = None) -> tuple[Any, Mapping[str, str]]:
        try:
            return self._web.document(url, private=self._private, body=body)
        except DatasetError as error:
            raise type(error)(f"{uri}: {error}") from error


class _Place:
    """A URI in its parts."""

    def __init__(self, uri: str) -> None:
        parts = _URI.fullmatch(uri)
        if parts is None:
            raise DatasetError(f"{uri}: write it as hf://datasets/ORG/NAME[@REVISION][/PATH] or hf://ORG/MODEL...")
        self.name = parts["name"]
        self.path = (parts["path"] or "").strip("/")
        self.revision = urllib.parse.unquote(parts["revision"] or "main")
        kind = "datasets" if parts["kind"] else "models"
        self.api = f"{kind}/{self.name}"
        self.repository = f"datasets/{self.name}" if parts["kind"] else self.name
        self.shown = f"hf://{self.repository}"


def _digest(place: _Place, files: Iterator[tuple[str, int, str]] | list[tuple[str, int, str]]) -> str:
    """Return the digest of the one file, or the manifest's of all."""
    listed = list(files)
    if not listed:
        raise DatasetError(f"{place.shown}: there is no file in `{place.path}`")
    if [path for path, _, _ in listed] == [place.path]:
        return listed[0][2]
    return manifest(listed)


def _entries(uri: str, found: Any) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DatasetError(f"{uri}: the Hub answers with something that is no listing")
    return found


def _file(uri: str, entry: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return (path, size, digest); large files have a SHA-256, small ones git's id."""
    large = entry.get("lfs")
    digest = f"sha256:{large.get('oid')}" if isinstance(large, dict) else f"git:{entry.get('oid')}"
    path, size = entry.get("path"), entry.get("size")
    if not isinstance(path, str) or not isinstance(size, int) or not re.fullmatch(r"\w+:[0-9a-f]{40,64}", digest):
        raise DatasetError(f"{uri}: the Hub's listing has an entry without path, size or digest")
    return path, size, digest

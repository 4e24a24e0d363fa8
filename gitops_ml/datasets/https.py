"""Data at an https:// address: one file, pinned by the SHA-256 of its content.

    data:
      - name: test
        uri: https://example.org/digits/test.csv.gz
        version: sha256:9f2c...            # `gitops-ml lock` writes it

Nothing is sent but the request: no credential goes to an address that a spec names.
"""

from collections.abc import Mapping
from pathlib import Path

from gitops_ml.datasets.base import Outside, Wanted, file_name
from gitops_ml.datasets.web import Web, shown


class HttpsDataset:
    """One file behind a URL."""

    def __init__(self, outside: Outside, _source: Mapping[str, str]) -> None:
        self._cache = outside.cache
        self._web = Web(outside)

    def resolve(self, uri: str, *, like: str = "") -> str:  # noqa: ARG002 there is one form
        """Return the digest of what the URL holds now, all of which is read."""
        return self._cache.learn(shown(uri), lambda file: self._web.download(uri, file))

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the file, verified."""
        target = into / file_name(uri)
        wanted = Wanted(name=shown(uri), digest=version or "", identity=uri)
        self._cache.place(wanted, target, lambda file: self._web.download(uri, file))
        return target

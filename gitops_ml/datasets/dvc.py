"""Data that DVC keeps: the repository holds its MD5 (``data.csv.dvc``, or ``dvc.lock``), DVC's remote the file.

    data: [{name: train, uri: data/train.csv}]        # beside data/train.csv.dvc; no version: the commit pins it

A file, or a folder (``.dir``). The caller reads DVC's own files and says which remote there is (``.dvc/config``): a
folder of this machine, s3:// or https://. Looked at first is the DVC cache of the user's clone on this machine. DVC
itself is not needed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitops_ml.datasets.base import DatasetError, Outside, Wanted, all_at_once, below, changed, file_name
from gitops_ml.datasets.local import copied
from gitops_ml.datasets.s3 import S3Dataset
from gitops_ml.datasets.web import Web

_LISTING_BYTES = 256 << 20


class DvcDataset:
    """A file or folder by its MD5.

    ``source``: ``md5`` (with ``.dir`` for a folder), ``layout`` (``files/md5``, or empty as DVC before 3.0 had it),
    ``remote`` (where, may lack), ``endpoint`` and ``region`` for S3.
    """

    def __init__(self, outside: Outside, source: Mapping[str, str]) -> None:
        self._outside = outside
        self._cache = outside.cache
        self._md5 = source.get("md5", "")
        self._layout = source.get("layout", "")
        self._remote = source.get("remote", "").rstrip("/")
        self._web = Web(outside)
        # One for all files: a client takes longer to make than a small file to fetch.
        self._s3 = S3Dataset(outside, source if self._remote.startswith("s3://") else {})

    def resolve(self, uri: str, *, like: str = "") -> str:  # noqa: ARG002 DVC's file says it
        """Return what DVC's file says."""
        return f"md5:{self._md5}"

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the file, or all files of the folder, verified against DVC's digests."""
        if version not in (None, found := self.resolve(uri)):
            raise changed(uri, found, str(version))
        target = into / file_name(uri)
        if not self._md5.endswith(".dir"):
            self._bring(uri, self._md5, target)
            return target
        listing = into / f".{target.name}.dir.json"
        self._bring(uri, self._md5, listing)
        files = list(_listed(uri, listing))
        target.mkdir(parents=True, exist_ok=True)
        all_at_once(lambda file: self._bring(f"{uri}/{file[0]}", file[1], below(target, file[0])), files)
        return target

    def _bring(self, name: str, md5: str, target: Path) -> None:
        # The listing of a folder is no text to DVC, whatever its version.
        old = not self._layout and not md5.endswith(".dir")
        digest = f"{'md5-dos2unix' if old else 'md5'}:{md5.removesuffix('.dir')}"
        try:
            self._cache.place(Wanted(name=name, digest=digest), target, lambda file: self._get(md5, file))
        except DatasetError as error:
            said = str(error)
            raise type(error)(said if said.startswith(f"{name} ") else f"{name}: DVC: {said}") from error

    def _get(self, md5: str, file: Path) -> None:
        path = "/".join(filter(None, (self._layout, md5[:2], md5[2:])))
        if self._outside.clone is not None and copied(self._outside.clone / ".dvc" / "cache" / path, file):
            return
        remote = self._remote
        if not remote:
            raise DatasetError(".dvc/config names no remote to get it from: dvc remote add")
        place = f"{remote}/{path}"
        if remote.startswith("s3://"):
            self._s3.download(place, file, None)
        elif remote.startswith(("https://", "http://")):
            self._web.download(place, file)
        elif "://" in remote:
            raise DatasetError(f"the remote {remote} cannot be read; a folder, s3:// or https:// can")
        elif not Path(remote).is_absolute() and self._outside.clone is None:
            raise DatasetError(f"the remote {remote} is a folder beside the repository, which is not on this machine")
        elif not copied((self._outside.clone or Path()) / place, file):
            raise DatasetError(f"the remote does not have it ({place}): dvc push")


def _listed(uri: str, listing: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, MD5) of the files of a folder, as DVC lists them."""
    try:
        if listing.stat().st_size > _LISTING_BYTES:
            raise DatasetError(f"{uri}: DVC's list of its files is longer than {_LISTING_BYTES} bytes")
        for entry in json.loads(listing.read_bytes()):
            path, md5 = entry["relpath"], entry["md5"]
            if not isinstance(path, str) or not re.fullmatch("[0-9a-f]{32}", md5):
                raise ValueError(path)
            yield path, md5
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DatasetError(f"{uri}: DVC's list of its files is broken") from None

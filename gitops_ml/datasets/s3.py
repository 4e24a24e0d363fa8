"""Data in S3 and what speaks its protocol: an object, or with a ``/`` at the end all objects below a prefix.

    data:
      - {name: train, uri: s3://acme-data/digits/train/, version: manifest:77ab...}
      - {name: test, uri: s3://acme-data/digits/test.csv, version: sha256:9f2c..., role: eval}

`gitops-ml lock` writes the version: of an object its version id where the bucket keeps versions, with the SHA-256
behind a ``+`` where S3 knows it, and the SHA-256 alone elsewhere; of a prefix the digest over sorted
[path, size, ETag]. Needs boto3. Credentials are boto3's: the environment, a role, a profile; without any, requests are
not signed, as public buckets want it. ``AWS_ENDPOINT_URL`` leads to another server.
"""

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml.datasets.base import (
    DatasetError,
    Outside,
    UnreachableError,
    Wanted,
    all_at_once,
    below,
    changed,
    file_name,
    manifest,
)
from gitops_ml.datasets.web import refuse_reserved
from gitops_ml.pins import Pin, pin_from

_SMALL_BYTES = 8 << 20
"""From here on boto3 reads several parts at once."""
_TRIES = 5


class S3Dataset:
    """Objects of a bucket."""

    def __init__(self, outside: Outside, source: Mapping[str, str]) -> None:
        self._outside = outside
        self._cache = outside.cache
        self._environ = dict(outside.environ)
        if endpoint := source.get("endpoint"):
            # It stands in the repository, where anybody may have written it.
            refuse_reserved(endpoint, outside.environ)
            self._environ["AWS_ENDPOINT_URL_S3"] = endpoint
        if region := source.get("region"):
            self._environ["AWS_REGION"] = region
        self._made: Any = None
        self._making = threading.Lock()

    def resolve(self, uri: str, *, like: str = "") -> str:
        """Return the object's version id, SHA-256 or both; the manifest's digest of a prefix."""
        bucket, key = _parts(uri)
        if key.endswith("/") or not key:
            return manifest(self._listed(uri))
        head = self._asked(uri, "head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        place, digest = _version_id(head), _sha256(head)
        pinned = pin_from(like)
        if like:
            place = place if pinned.place else ""
        if (not digest and not place) or (pinned.digest and not digest):
            digest = self._cache.learn(uri, lambda file: self.download(uri, file, head.get("VersionId")))
        if like and not pinned.digest:
            digest = ""
        return str(Pin(place=place, digest=digest))

    def fetch(self, uri: str, version: str | None, into: Path) -> Path:
        """Bring the object, or all objects below the prefix into a folder."""
        pin = pin_from(version or "")
        if uri.endswith("/"):
            return self._fetch_all(uri, version or "", into)
        target = into / file_name(uri)
        wanted = Wanted(name=uri, digest=pin.digest, identity=f"{uri} version {pin.place}")
        self._cache.place(wanted, target, lambda file: self.download(uri, file, pin.place or None))
        return target

    def _fetch_all(self, uri: str, version: str, into: Path) -> Path:
        entries = list(self._listed(uri))
        if version and (found := manifest(entries)) != version:
            raise changed(uri, found, version)
        folder = into / file_name(uri)
        folder.mkdir(parents=True, exist_ok=True)

        def bring(entry: tuple[str, int, str]) -> None:
            path, size, tag = entry
            one = uri + path
            wanted = Wanted(name=one, identity=f"{one} {tag}", size_bytes=size)
            get = self._download_small if size <= _SMALL_BYTES else self._download_large
            self._cache.place(wanted, below(folder, path), lambda file: get(one, file, tag))

        all_at_once(bring, entries)
        return folder

    def download(self, uri: str, file: Path, version_id: str | None) -> None:
        """Write the object into the file.

        Raises:
            DatasetError: missing, refused, or not reachable.
        """
        bucket, key = _parts(uri)
        which = {"VersionId": version_id} if version_id else {}
        # boto3 reads large objects in parts, several at once, and repeats what was torn.
        self._asked(uri, "download_file", bucket, key, str(file), ExtraArgs=which, Callback=self._ticking())

    def _download_large(self, uri: str, file: Path, tag: str) -> None:
        """Write the object, which must have the ``etag:`` still when all of it is here."""
        self.download(uri, file, None)
        self._judge(uri, tag)

    def _download_small(self, uri: str, file: Path, tag: str) -> None:
        """Write the object, which must have the ``etag:``, by one request; of many files that is what takes time."""
        bucket, key = _parts(uri)
        for number in range(1, _TRIES + 1):
            try:
                answer = self._asked(uri, "get_object", Bucket=bucket, Key=key, IfMatch=tag.removeprefix("etag:"))
                content = self._whole(uri, answer)
            except UnreachableError:  # the answer began, and was torn
                if number == _TRIES:
                    raise
                self._outside.wait(2.0**number)
            except DatasetError:
                self._judge(uri, tag)
                raise
            else:
                file.write_bytes(content)
                return

    def _whole(self, uri: str, answer: Mapping[str, Any]) -> bytes:
        from botocore.exceptions import BotoCoreError

        self._outside.wait(0)
        try:
            return bytes(answer["Body"].read())
        except (BotoCoreError, OSError) as error:
            raise UnreachableError(f"{uri}: {error}") from error

    def _judge(self, uri: str, tag: str) -> None:
        """Refuse an object that has another ETag by now."""
        bucket, key = _parts(uri)
        if (now := _tag(self._asked(uri, "head_object", Bucket=bucket, Key=key))) != tag:
            raise changed(uri, now, tag)

    def _ticking(self) -> Callable[[int], None]:
        return lambda _bytes: self._outside.wait(0)

    def _listed(self, uri: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, digest) of all objects below the prefix."""
        bucket, prefix = _parts(uri)
        more: dict[str, str] = {}
        found = False
        while True:
            page = self._asked(uri, "list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            for one in page.get("Contents", ()):
                path = one["Key"][len(prefix) :]
                if path and not path.endswith("/"):  # what the console makes for an empty folder
                    found = True
                    yield path, int(one["Size"]), _tag(one)
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        if not found:
            raise DatasetError(f"{uri}: there is no object below it")

    def _asked(self, uri: str, operation: str, *args: Any, **kwargs: Any) -> Any:
        client = self._client()
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(client, operation)(*args, **kwargs)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise DatasetError(f"{uri}: {_WORDS.get(code, f'S3 refuses it ({code})')}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise UnreachableError(f"{uri}: {error}") from error

    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                try:
                    from gitops_ml import aws
                except ImportError:
                    raise DatasetError("data in S3 needs boto3: pip install 'gitops-ml[aws]'") from None
                try:
                    self._made = aws.client("s3", self._environ, anonymous=True)
                except ImportError:
                    raise DatasetError("data in S3 needs boto3: pip install 'gitops-ml[aws]'") from None
            return self._made


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _version_id(head: Mapping[str, Any]) -> str:
    found = str(head.get("VersionId") or "")
    return "" if found == "null" else found


def _sha256(head: Mapping[str, Any]) -> str:
    """Return the SHA-256 that S3 keeps of the whole object; of one made of parts it keeps another thing."""
    text = str(head.get("ChecksumSHA256") or "")
    if not text or "-" in text or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return ""
    return f"sha256:{base64.b64decode(text).hex()}"


def _tag(found: Mapping[str, Any]) -> str:
    return f"etag:{str(found['ETag']).strip(chr(34))}"


_WORDS = {
    "404": "there is no such object; to name all below a prefix, end it with `/`",
    "NoSuchKey": "there is no such object",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchVersion": "that version of it is gone",
    "403": "access denied; do the credentials here allow to read it?",
    "AccessDenied": "access denied; do the credentials here allow to read it?",
    "400": "S3 refuses the request (400); is the version id right, and do the credentials still hold?",
}

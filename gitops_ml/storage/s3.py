"""A storage in an S3 bucket. Needs ``pip install 'gitops-ml[aws]'`` and credentials that boto3 finds.

    storage: s3://bucket/prefix
    storage: s3://bucket/prefix?owner=123456789012     # refuse a bucket that belongs to another account

The role needs s3:GetObject, s3:PutObject and s3:DeleteObject on ``bucket/prefix/*``, and s3:ListBucket on the bucket
for that prefix: without it S3 says "denied" of what is not there. Leases need a store that keeps to
``If-None-Match``; one that does not is refused.
"""

import contextlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gitops_ml import aws
from gitops_ml.storage.base import TEMPORARY, FileError, StorageError, parts

LARGE_BYTES = 32 * 2**20
"""From here on an object travels in several parts at a time."""

_ACTIONS = {
    "put": "s3:PutObject",
    "get": "s3:GetObject and s3:ListBucket",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
}
_DENIED = frozenset({"AccessDenied", "403", "AllAccessDisabled"})
_ABSENT = frozenset({"NoSuchKey", "404"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_SKEWED = "RequestTimeTooSkewed"
_TAKEN = frozenset({"PreconditionFailed", "412"})
_T = TypeVar("_T")


class S3Storage:
    """Objects below ``s3://bucket/prefix``. Connects when first asked for something."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        """Take the place and the environment to find credentials in.

        Raises:
            StorageError: it is no such place.
        """
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/[^?#]*)?(?:\?owner=(\d{12}))?", uri)
        if found is None:
            raise StorageError(f"storage: {uri} is no s3://bucket/prefix, with ?owner=ACCOUNT or without")
        self._bucket = found[1]
        prefix = (found[2] or "").strip("/")
        self._prefix = "/".join(parts(prefix)) + "/" if prefix else ""
        self._owner: dict[str, str] = {"ExpectedBucketOwner": found[3]} if found[3] else {}
        self._environ = environ
        self._client: Any = None
        self._connecting = threading.Lock()
        self._keeps_conditions = False

    def put(self, name: str, data: bytes) -> None:
        """Write the object, whole or not at all."""
        key = self._key(name)
        self._ask("put", name, lambda s3: s3.put_object(Bucket=self._bucket, Key=key, Body=data, **self._owner))

    def put_file(self, name: str, file: Path) -> None:
        """Write the file's content as the object, whole or not at all."""
        key = self._key(name)

        def send(s3: Any) -> None:
            if file.stat().st_size >= LARGE_BYTES:
                s3.upload_file(str(file), self._bucket, key, ExtraArgs=self._owner)
                return
            with file.open("rb") as body:
                s3.put_object(Bucket=self._bucket, Key=key, Body=body, **self._owner)

        self._ask("put", name, send)

    def create(self, name: str, data: bytes) -> bool:
        """Write the object unless it exists; False: it was there.

        Raises:
            StorageError: also when this store would have overwritten it.
        """
        key = self._key(name)
        self._prove_conditions()
        return self._create(name, key, data)

    def get(self, name: str) -> bytes | None:
        """Return the object; None: there is none."""
        key = self._key(name)

        def fetch(s3: Any) -> bytes:
            answer = s3.get_object(Bucket=self._bucket, Key=key, **self._owner)
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
            return data

        return self._ask("get", name, fetch, absent=None)

    def get_file(self, name: str, file: Path) -> bool:
        """Bring the object into the file, whole or not at all; False: there is none."""
        key = self._key(name)

        def fetch(s3: Any) -> bool:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, prefix=TEMPORARY, delete=False) as target:
                temporary = Path(target.name)
                try:
                    answer = s3.get_object(Bucket=self._bucket, Key=key, **self._owner)
                    with contextlib.closing(answer["Body"]) as body:
                        large = answer["ContentLength"] >= LARGE_BYTES
                        if not large:
                            for chunk in body.iter_chunks(1 << 20):
                                target.write(chunk)
                    target.close()
                    if large:
                        s3.download_file(self._bucket, key, str(temporary), ExtraArgs=self._owner)
                    temporary.replace(file)
                finally:
                    temporary.unlink(missing_ok=True)
            return True

        return self._ask("get", name, fetch, absent=False) or False

    def names(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that start with the prefix and sort after ``after``, sorted."""
        start = {"StartAfter": self._prefix + after} if after else {}
        while True:
            answer = self._ask(
                "list",
                prefix,
                lambda s3, start=start: s3.list_objects_v2(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=self._prefix + prefix, **start, **self._owner
                ),
            )
            assert answer is not None
            for entry in answer.get("Contents", ()):
                yield entry["Key"][len(self._prefix) :]
            if not answer.get("IsTruncated"):
                return
            start = {"ContinuationToken": answer["NextContinuationToken"]}

    def written_at(self, name: str) -> float | None:
        """Return when the object was last written, in Unix seconds by S3's clock; None: there is none."""
        key = self._key(name)

        def look(s3: Any) -> float | None:
            # A listing asks for no further permission, and tells what is not there from what is denied.
            answer = s3.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1, **self._owner)
            found = next(iter(answer.get("Contents", ())), None)
            return None if found is None or found["Key"] != key else found["LastModified"].timestamp()

        return self._ask("list", name, look)

    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error."""
        key = self._key(name)
        self._ask("delete", name, lambda s3: s3.delete_object(Bucket=self._bucket, Key=key, **self._owner))

    def _key(self, name: str) -> str:
        parts(name)
        return self._prefix + name

    def _create(self, name: str, key: str, data: bytes) -> bool:
        def send(s3: Any) -> bool:
            from botocore.exceptions import ClientError

            for _ in range(5):
                try:
                    s3.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*", **self._owner)
                except ClientError as error:
                    code = error.response.get("Error", {}).get("Code", "")
                    if code == "ConditionalRequestConflict":  # another such request was under way
                        continue
                    if code not in _TAKEN:
                        raise
                    # A request whose answer was lost is sent again, and then finds what it wrote itself.
                    repeated = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                    return repeated and self.get(name) == data
                return True
            raise StorageError(f"{self._shown(name)}: others kept writing it at the same time; try again")

        return self._ask("put", name, send) or False

    def _prove_conditions(self) -> None:
        """See that the store refuses to overwrite, once, before anything depends on it."""
        if self._keeps_conditions:
            return
        name = "conditional-writes"
        key = self._key(name)
        # The first may be the one that makes it. The second must be refused.
        if self._create(name, key, b"") and self._create(name, key, b""):
            raise StorageError(
                f"{self._shown(name)}: this store ignores If-None-Match, so that two could hold one lease; "
                "use AWS S3, or a store that keeps to conditional writes"
            )
        self._keeps_conditions = True

    def _ask(self, what: str, name: str, call: Callable[[Any], _T], absent: _T | None = None) -> _T | None:
        """Make a call, and once more where a new connection or the right time may help; ``absent``: its 404."""
        from boto3.exceptions import S3UploadFailedError

        for last in (False, True):
            try:
                return call(self._connected(renew=last))
            except S3UploadFailedError as failed:
                error: BaseException = failed.__context__ or failed
            except Exception as failed:  # noqa: BLE001 whatever it is, `_translated` knows it or passes it on
                error = failed
            code = _code(error)
            if what == "get" and code in _ABSENT:
                return absent
            if not last and code == _SKEWED and aws.correct_clock(_date(error)):
                continue
            if last or code not in _EXPIRED:
                translated = self._translated(what, name, error)
                if translated is None:
                    raise error
                raise translated from error
        raise AssertionError

    def _connected(self, *, renew: bool = False) -> Any:
        with self._connecting:
            if self._client is None or renew:
                try:
                    self._client = aws.client("s3", self._environ)
                except ImportError as error:
                    raise StorageError(
                        f"s3://{self._bucket} needs boto3; install it with `pip install 'gitops-ml[aws]'`"
                    ) from error
            return self._client

    def _shown(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"

    def _translated(self, what: str, name: str, error: BaseException) -> StorageError | None:
        """Return the error for whoever can mend it; None: it is not the store's."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

        code = _code(error)
        said = _said(error)
        # botocore's own errors and those of sockets are OSErrors too.
        ours = isinstance(error, OSError) and not isinstance(error, BotoCoreError | ConnectionError | TimeoutError)
        if ours and isinstance(error, OSError) and error.errno is not None:
            file = f"{error.filename}: " if error.filename else ""
            return FileError(f"{self._shown(name)}: {file}{error.strerror}")
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            text = "no credentials for AWS were found; in CI configure the role, here log in"
        elif code in _DENIED:
            owner = f", and see that it belongs to account {self._owner['ExpectedBucketOwner']}" if self._owner else ""
            text = f"denied; allow {_ACTIONS[what]} to this role{owner}{said}"
        elif code == "NoSuchBucket":
            text = "there is no such bucket; mend `storage` in gitops-ml.yaml, or make it (docs/aws.md)"
        elif code in _EXPIRED:
            text = "the credentials have expired; log in again, or let CI assume its role anew"
        elif code or isinstance(error, BotoCoreError | Boto3Error | OSError):
            text = f"{what} failed{said or f': {error}'}"
        else:
            return None
        return StorageError(f"{self._shown(name)}: {text}", lasting=code in _EXPIRED | _DENIED)


def _code(error: BaseException) -> str:
    """Return S3's own code of an error; empty: it did not come from S3."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _said(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    details = response.get("Error", {})
    message = re.sub(r"[^ -~]+", " ", str(details.get("Message", "")))[:300]
    return f" ({details.get('Code')}: {message})"


def _date(error: BaseException) -> str:
    response = getattr(error, "response", None) or {}
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("date", ""))

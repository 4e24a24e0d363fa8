"""S3 when it refuses: what is said, what is tried again, and what is never taken for granted."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from wsgiref.types import WSGIEnvironment

import pytest

from gitops_ml import aws
from gitops_ml.storage import opened
from gitops_ml.storage.base import FileError, StorageError
from gitops_ml.storage.s3 import S3Storage
from tests.fakes.s3 import BUCKET, S3, Refusal, serving


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with serving() as running:
        yield running


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    server.requests.clear()
    yield server
    server.faults.clear()
    server.date = None


def storage(s3: S3, place: str = f"s3://{BUCKET}/p", **environ: str) -> S3Storage:
    return S3Storage(place, {**s3.environ, **environ})


def always(status: int, code: str) -> Refusal:
    return lambda _: (status, code, {})


def once(status: int, code: str) -> Refusal:
    left = [(status, code, {})]
    return lambda _: left.pop() if left else None


def said(act: object, *arguments: object) -> str:
    with pytest.raises(StorageError) as caught:
        act(*arguments)  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://b", "storage: s3://b is no s3://bucket/prefix, with ?owner=ACCOUNT or without"),
        (
            "s3://bucket/p?owner=1",
            "storage: s3://bucket/p?owner=1 is no s3://bucket/prefix, with ?owner=ACCOUNT or without",
        ),
        ("s3://bucket/a//b", "'a//b' is no name of an object: it is a relative path without empty or dot parts"),
        ("gs://bucket/p", "storage: gs://bucket/p: only folders and s3://bucket/prefix are supported"),
    ],
)
def test_opened__no_such_place__is_refused(tmp_path: Path, place: str, message: str) -> None:
    assert said(opened, place, tmp_path, {}) == message


def test_opened__bucket_alone__has_no_prefix(s3: S3, tmp_path: Path) -> None:
    opened(f"s3://{BUCKET}", tmp_path, s3.environ).put("top", b"x")
    opened(f"s3://{BUCKET}/below/", tmp_path, s3.environ).put("top", b"y")

    assert opened(f"s3://{BUCKET}/", tmp_path, s3.environ).get("below/top") == b"y"
    assert storage(s3, f"s3://{BUCKET}").get("top") == b"x"


@pytest.mark.parametrize(
    ("call", "arguments", "action"),
    [
        ("put", ("a", b""), "s3:PutObject"),
        ("get", ("a",), "s3:GetObject and s3:ListBucket"),
        ("get_file", ("a", Path("/nowhere")), "s3:GetObject and s3:ListBucket"),
        ("create", ("a", b""), "s3:PutObject"),
        ("delete", ("a",), "s3:DeleteObject"),
    ],
)
def test_call__denied__names_object_and_permission(
    s3: S3, call: str, arguments: tuple[object, ...], action: str
) -> None:
    s3.faults.append(always(403, "AccessDenied"))
    name = "conditional-writes" if call == "create" else "a"

    assert said(getattr(storage(s3), call), *arguments) == (
        f"s3://training/p/{name}: denied; allow {action} to this role (AccessDenied: as told)"
    )


def test_names__denied__names_the_permission(s3: S3) -> None:
    s3.faults.append(always(403, "AccessDenied"))

    assert said(list, storage(s3).names("logs/")) == (
        "s3://training/p/logs/: denied; allow s3:ListBucket to this role (AccessDenied: as told)"
    )


def test_get__bucket_that_is_not_there__says_so(s3: S3) -> None:
    assert said(storage(s3, "s3://other-bucket/p").get, "a") == (
        "s3://other-bucket/p/a: there is no such bucket; mend `storage` in gitops-ml.yaml, or make it (docs/aws.md)"
    )


def test_get__bucket_of_another_account__is_refused(s3: S3) -> None:
    def strict(request: WSGIEnvironment) -> tuple[int, str, Mapping[str, str]] | None:
        owner = request.get("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER")
        return None if owner in (None, "111122223333") else (403, "AccessDenied", {})

    s3.faults.append(strict)
    ours = storage(s3, f"s3://{BUCKET}/p?owner=111122223333")
    theirs = storage(s3, f"s3://{BUCKET}/p?owner=999999999999")
    ours.put("owned", b"x")

    assert ours.get("owned") == b"x"
    for act in (theirs.get, theirs.delete):
        assert "see that it belongs to account 999999999999 (AccessDenied: as told)" in said(act, "owned")
    assert "belongs to account 999999999999" in said(list, theirs.names(""))


def test_get__nobody_there__says_so() -> None:
    nobody = S3Storage("s3://training/p", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x",
                                           "AWS_SECRET_ACCESS_KEY": "y"})  # fmt: skip

    assert said(nobody.get, "a") == (
        's3://training/p/a: get failed: Could not connect to the endpoint URL: "http://127.0.0.1:9/training/p/a"'
    )


def test_put__throttled_once__is_sent_again(s3: S3) -> None:
    s3.faults.append(once(503, "SlowDown"))

    storage(s3).put("slow", b"x")

    assert [method for method, _ in s3.requests] == ["PUT", "PUT"]
    assert storage(s3).get("slow") == b"x"


def test_put__credentials_expired__are_looked_for_anew_once(s3: S3) -> None:
    s3.faults.append(once(400, "ExpiredToken"))
    kept = storage(s3)

    kept.put("fresh", b"x")
    s3.faults.append(always(400, "ExpiredToken"))

    assert said(kept.get, "fresh") == (
        "s3://training/p/fresh: the credentials have expired; log in again, or let CI assume its role anew"
    )


def test_put__clock_is_wrong__signs_with_the_right_time(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.auth

    monkeypatch.setattr(botocore.auth, "get_current_datetime", botocore.auth.get_current_datetime)
    assert aws.clock_offset_s() == 0
    s3.date = "Mon, 06 Jan 2031 10:00:00 GMT"
    s3.faults.append(lambda r: None if r["HTTP_X_AMZ_DATE"].startswith("2031") else (403, "RequestTimeTooSkewed", {}))

    storage(s3).put("late", b"x")

    assert storage(s3).get("late") == b"x"
    assert aws.clock_offset_s() > 3600


def test_create__store_that_overwrites__is_refused(s3: S3) -> None:
    def careless(request: WSGIEnvironment) -> None:
        request.pop("HTTP_IF_NONE_MATCH", None)

    s3.faults.append(careless)

    assert said(storage(s3, f"s3://{BUCKET}/careless").create, "lease", b"x") == (
        "s3://training/careless/conditional-writes: this store ignores If-None-Match, so that two could hold one "
        "lease; use AWS S3, or a store that keeps to conditional writes"
    )
    assert storage(s3, f"s3://{BUCKET}/careless").get("lease") is None


def test_create__answer_lost_after_the_write__is_ours(s3: S3) -> None:
    kept = storage(s3)
    assert kept.create("first", b"")
    failing = ["lease"]

    def lose(request: WSGIEnvironment) -> tuple[int, str, Mapping[str, str]] | None:
        if failing and request["PATH_INFO"].endswith(failing[0]):
            failing.clear()
            storage(s3).put("lease", b"mine")  # what the request did before its answer was lost
            return 500, "InternalError", {}
        return None

    s3.faults.append(lose)

    assert kept.create("lease", b"mine")
    assert not kept.create("lease", b"mine")


def test_create__somebody_else_was_first_after_a_lost_answer__is_theirs(s3: S3) -> None:
    kept = storage(s3)
    assert kept.create("second", b"")
    failing = ["theirs"]

    def lose(request: WSGIEnvironment) -> tuple[int, str, Mapping[str, str]] | None:
        if failing and request["PATH_INFO"].endswith(failing[0]):
            failing.clear()
            storage(s3).put("theirs", b"theirs")
            return 500, "InternalError", {}
        return None

    s3.faults.append(lose)

    assert not kept.create("theirs", b"mine")


def test_create__conflict_with_another_request__asks_again(s3: S3) -> None:
    kept = storage(s3)
    assert kept.create("third", b"")
    s3.faults.append(once(409, "ConditionalRequestConflict"))

    assert kept.create("contended", b"x")


def test_get_file__torn_in_the_middle__leaves_nothing(s3: S3, tmp_path: Path) -> None:
    storage(s3).put("torn", b"x" * 1000)
    s3.tears = True
    try:
        message = said(storage(s3).get_file, "torn", tmp_path / "copy")
    finally:
        s3.tears = False

    assert message.startswith("s3://training/p/torn: get failed: ")
    assert list(tmp_path.iterdir()) == []


def test_get_file__disk_full__is_no_fault_of_the_storage(s3: S3) -> None:
    storage(s3).put("large", b"x")

    with pytest.raises(FileError) as caught:
        storage(s3).get_file("large", Path("/dev/full/copy"))

    assert str(caught.value) == "s3://training/p/large: /dev/full: File exists"


def test_storage__not_used__imports_no_boto3(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, pathlib; from gitops_ml.storage import opened; "
        "opened('s3://bucket/p', pathlib.Path('.'), {}); print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "False\n"


def test_storage__secret_key__is_in_no_error_and_no_repr(s3: S3) -> None:
    s3.faults.append(always(403, "SignatureDoesNotMatch"))
    kept = storage(s3, AWS_SECRET_ACCESS_KEY="canary-3f9a")

    assert "canary" not in said(kept.get, "a") + repr(kept)

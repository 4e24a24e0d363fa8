"""Pointers of Git LFS and DVC, as those write them, and as somebody else might."""

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.errors import UserError
from gitops_ml.pointers import DvcOut, LfsPointer, dvc_files, dvc_out, dvc_remote, lfs_pointer
from tests.fakes.files import pointer

DVC = Path(__file__).parents[1] / "fixtures/datasets/dvc"


def test_lfs_pointer__as_git_lfs_writes_it__is_read() -> None:
    found = lfs_pointer(pointer(b"content").encode())

    assert found == LfsPointer(oid=hashlib.sha256(b"content").hexdigest(), size_bytes=7)


def test_lfs_pointer__with_an_extension__is_read() -> None:
    text = (
        f"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:{'1' * 64}\noid sha256:{'2' * 64}\nsize 12345\n"
    )

    assert lfs_pointer(text.encode()) == LfsPointer(oid="2" * 64, size_bytes=12345)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version https://git-lfs.github.com/spec/v1\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 63}\nsize 1\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize -1\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\nmore\n",
        f"version https://git-lfs.github.com/spec/v2\noid sha256:{'0' * 64}\nsize 1\n",
    ],
)
def test_lfs_pointer__anything_else__is_a_file_like_any_other(text: str) -> None:
    assert lfs_pointer(text.encode()) is None


@pytest.mark.parametrize(
    ("file", "path", "out"),
    [
        ("data/x.csv.dvc", "data/x.csv", DvcOut(md5="e5ebd4c02cefbe7955977c67ada242b7", layout="files/md5")),
        ("data/raw.dvc", "data/raw", DvcOut(md5="b775076fd9de1d51eeb23581de58f6a4.dir", layout="files/md5")),
        ("dvc.lock", "gen", DvcOut(md5="b706caeb37102ed52ca6ecd7cb3574f6.dir", layout="files/md5")),
        ("dvc.lock", "single.txt", DvcOut(md5="26ab0db90d72e28ad0ba1e22ee510510", layout="files/md5")),
        ("dvc.lock", "other.txt", None),
    ],
)
def test_dvc_out__as_dvc_writes_it__is_read(file: str, path: str, out: DvcOut | None) -> None:
    assert dvc_out((DVC / "repository" / file).read_bytes(), file, path) == out


def test_dvc_out__as_dvc_2_wrote_it__has_the_old_layout() -> None:
    text = "outs:\n- md5: 0123456789abcdef0123456789abcdef\n  size: 3\n  path: x.csv\n  remote: other\n"

    assert dvc_out(text.encode(), "data/x.csv.dvc", "data/x.csv") == DvcOut(
        md5="0123456789abcdef0123456789abcdef", layout="", remote="other"
    )


def test_dvc_out__digest_of_digits_alone__stays_a_digest() -> None:
    text = "outs:\n- md5: 00000000000000000000000000001e10\n  path: x\n  hash: md5\n"

    found = dvc_out(text.encode(), "x.dvc", "x")

    assert found is not None
    assert found.md5 == "00000000000000000000000000001e10"


def test_dvc_out__kept_by_versions_of_a_bucket__says_what_to_do() -> None:
    text = "outs:\n- path: x\n  files:\n  - relpath: a\n    cloud: {store: {version_id: v}}\n"

    with pytest.raises(UserError) as refused:
        dvc_out(text.encode(), "x.dvc", "x")

    assert str(refused.value) == (
        "x.dvc: DVC keeps x by the versions of a cloud's bucket, which only DVC can read; name its s3:// URI instead"
    )


@given(st.one_of(st.binary(max_size=200), st.text("outs:-{}[] \nmd5pathx", max_size=80).map(str.encode)))
def test_dvc_out__any_bytes__raises_nothing_else(content: bytes) -> None:
    with contextlib.suppress(UserError):
        dvc_out(content, "x.dvc", "x")


def test_dvc_remote__default_one__is_relative_to_its_file() -> None:
    config = (DVC / "repository/.dvc/config").read_bytes()

    assert dvc_remote(config, ".dvc/config", None) == {"remote": "../store"}
    assert dvc_remote(config, "sub/.dvc/config", None) == {"remote": "store"}
    assert dvc_remote(config, ".dvc/config", "other") == {}


def test_dvc_remote__in_s3__endpoint_and_region() -> None:
    config = (
        b"['remote \"cloud\"']\n    url = s3://acme/dvc\n    endpointurl = https://minio.example\n    region = eu\n"
        b"    secret_access_key = s3cret\n"
    )

    assert dvc_remote(config, ".dvc/config", "cloud") == {
        "remote": "s3://acme/dvc",
        "endpoint": "https://minio.example",
        "region": "eu",
    }


def test_dvc_remote__broken__names_the_file() -> None:
    with pytest.raises(UserError, match=r"^\.dvc/config is broken: "):
        dvc_remote(b"url = nowhere\n", ".dvc/config", None)


def test_dvc_files__nested_path__nearest_first() -> None:
    assert dvc_files("a/b/x") == ["a/b/x.dvc", "a/b/dvc.lock", "a/dvc.lock", "dvc.lock"]

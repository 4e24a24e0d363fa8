"""What pins data: its two parts, what a key holds of it, and what is accepted for which kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.pins import Pin, content, pin_from, problem

SHA = f"sha256:{'0123456789abcdef' * 4}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("version", "pin"),
    [
        (SHA, Pin(digest=SHA)),
        ("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo", None),
        (f"3/L4kq+JlcpX+{SHA}", Pin(place="3/L4kq+JlcpX", digest=SHA)),
        (f"{COMMIT}+git:{COMMIT}", Pin(place=COMMIT, digest=f"git:{COMMIT}")),
        (f"md5:{'0' * 32}.dir", Pin(digest=f"md5:{'0' * 32}.dir")),
        ("sha256:0123", None),
        (f"+{SHA}", None),
    ],
)
def test_pin_from__a_version__has_its_parts(version: str, pin: Pin | None) -> None:
    assert pin_from(version) == (pin or Pin(place=version))
    assert str(pin_from(version)) == version


@given(st.text(min_size=1, max_size=60))
def test_pin_from__any_text__comes_back(version: str) -> None:
    assert str(pin_from(version)) == version


def test_content__place_and_digest__is_the_digest_alone() -> None:
    assert content(f"{COMMIT}+{SHA}") == content(SHA) == SHA
    assert content(COMMIT) == COMMIT


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("https://example.org/x", SHA),
        ("s3://b/k", SHA),
        ("s3://b/k", "v1"),
        ("s3://b/k", f"v1+{SHA}"),
        ("s3://b/k/", SHA.replace("sha256", "manifest")),
        ("hf://a/b", COMMIT),
        ("hf://a/b", f"{COMMIT}+{SHA}"),
    ],
)
def test_problem__what_lock_writes__none(uri: str, version: str) -> None:
    assert problem(uri, version) is None


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("https://example.org/x", "v1"),
        ("https://example.org/x", f"v1+{SHA}"),
        ("https://example.org/x", f"md5:{'0' * 32}"),
        ("s3://b/k", "sha256:0123"),
        ("s3://b/k", SHA.replace("sha256", "manifest")),
        ("s3://b/k/", SHA),
        ("s3://b/k/", "v1"),
        ("hf://a/b", SHA),
        ("hf://a/b", "main"),
        ("hf://a/b", f"main+{SHA}"),
    ],
)
def test_problem__anything_else__is_said(uri: str, version: str) -> None:
    assert "pinned by" in (problem(uri, version) or "")

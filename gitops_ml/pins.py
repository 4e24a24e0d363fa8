"""What pins data outside the repository, as ``data.version`` writes it. Read by the core and on the training machine.

Either a digest of the content, or which version it is where it lies, or both with a ``+`` between them:

    sha256:9f2c...                        the content; one file
    manifest:77ab...                      the content; all files below a folder or prefix, by path, size and digest
    3sL4kqtJlcpXroDTDmJ                   S3's version of one object
    0f3a5b...40 digits                    Hugging Face's revision: a commit of its repository
    0f3a5b...+sha256:9f2c...              both: taken from there, and checked against the digest
"""

import dataclasses
import re

_DIGEST = r"(?:sha256|manifest):[0-9a-f]{64}|git:(?:[0-9a-f]{40}|[0-9a-f]{64})|md5:[0-9a-f]{32}(?:\.dir)?"
_BOTH = re.compile(rf"(?P<place>.+)\+(?P<digest>{_DIGEST})")


@dataclasses.dataclass(frozen=True)
class Pin:
    """A pin in its two parts, of which one may be empty."""

    place: str = ""
    """Which version it is where it lies."""
    digest: str = ""
    """``sha256:``, ``manifest:``, ``git:`` (a blob's id) or ``md5:`` of the content."""

    def __str__(self) -> str:
        return "+".join(filter(None, (self.place, self.digest)))


def pin_from(version: str) -> Pin:
    """Return the parts of a version."""
    if re.fullmatch(_DIGEST, version):
        return Pin(digest=version)
    both = _BOTH.fullmatch(version)
    return Pin(place=both["place"], digest=both["digest"]) if both else Pin(place=version)


def content(version: str) -> str:
    """Return what a trial's key holds of a version: the digest of the content, if the version has one."""
    return pin_from(version).digest or version


def problem(uri: str, version: str) -> str | None:
    """Say what is wrong with a version for that kind of URI, and what is accepted; None: nothing."""
    pin = pin_from(version)
    scheme = uri.partition("://")[0]
    form = pin.digest.partition(":")[0]
    folder = uri.endswith("/")
    if scheme == "https":
        return None if not pin.place and form == "sha256" else "https:// data is pinned by `sha256:` and 64 digits"
    if scheme == "s3" and folder:
        return None if not pin.place and form == "manifest" else "an S3 prefix is pinned by `manifest:` and 64 digits"
    if scheme == "s3":
        accepted = form in ("", "sha256") and not re.match("(sha256|manifest|git|md5):", pin.place)
        return None if accepted else "an S3 object is pinned by `sha256:` and 64 digits, or by its version id"
    if scheme == "hf" and not re.fullmatch("[0-9a-f]{40}", pin.place):
        return "hf:// data is pinned by its revision, the 40 digits of a commit, with or without `+` and a digest"
    return None

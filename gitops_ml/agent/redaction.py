"""Keep secrets out of logs: their values, whole or across two writes, never reach a file."""

import base64
import re
import urllib.parse
from collections.abc import Iterable

MARK = b"***"
_MIN_LENGTH = 4
"""A shorter value would blank out half the log; it protects nothing."""

# Tokens whose form gives them away, whoever printed them: GitHub, GitLab, AWS, Hugging Face, Slack, PyPI, private keys.
_TOKENS = re.compile(
    rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|gl[a-z]{2,6}-[A-Za-z0-9_-]{20,}"
    rb"|(?:AKIA|ASIA)[A-Z0-9]{16}|hf_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|pypi-[A-Za-z0-9_-]{32,}"
    rb"|(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


class Redactor:
    """Replaces secrets in a stream of bytes, also where one is cut by the end of a chunk."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms))) if self._forms else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what may be shown now; what may be the start of a secret is held back."""
        if self._pattern is None:
            return data
        text = self._pattern.sub(MARK, self._held + data)
        held = max((_overlap(text, form) for form in self._forms), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        rest, self._held = self._held, b""
        return rest


def redacted(text: bytes, secrets: Iterable[str] = ()) -> bytes:
    """Return the text without the secrets' values and without anything that has the form of a known token."""
    redactor = Redactor(secrets)
    return _TOKENS.sub(MARK, redactor.feed(text) + redactor.flush())


def _forms(secret: str) -> set[bytes]:
    plain = secret.encode(errors="surrogateescape")
    if len(plain) < _MIN_LENGTH:
        return set()
    return {plain, urllib.parse.quote(plain, safe="").encode(), base64.b64encode(plain)}


def _overlap(text: bytes, form: bytes) -> int:
    """Return the length of the longest end of the text with which the form begins."""
    longest = min(len(text), len(form) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(form[:n])), 0)

"""Servers that hold data: plain files with ranges, the Hugging Face Hub's API, a Git LFS store."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tests.fakes.server import Answer, Call, Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100
"""Files from this size on are large ones to the fake Hub: listed with a SHA-256."""


class FileServer(Server):
    """Files by their path, read as a web server hands them out; ``redirects`` by path come first."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.ranges = True
        self.token = ""
        """What ``Authorization`` must hold; empty: nothing."""

    def handle(self, call: Call) -> Answer:
        if call.path in self.redirects:
            return Answer(status=302, headers={"Location": self.redirects[call.path]})
        if self.token and call.headers.get("authorization") != self.token:
            return Answer(status=401)
        content = self.files.get(unquote(call.path))
        return Answer(status=404) if content is None else self.served(call, content)

    def served(self, call: Call, content: bytes) -> Answer:
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        asked = re.fullmatch("bytes=([0-9]+)-", call.headers.get("range", ""))
        if asked is None or not self.ranges or call.headers.get("if-range", tag) != tag:
            return Answer(body=content, headers={"ETag": tag})
        start = int(asked[1])
        if start >= len(content):
            return Answer(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(status=206, body=content[start:], headers={"ETag": tag, "Content-Range": span})


class Hub(FileServer):
    """One dataset, ``acme/digits``: ``listed`` is what its commits say, ``files`` what is handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.commit = COMMIT
        self.listed: dict[str, bytes] = {}
        self.page = 2
        self.elsewhere = ""
        """Where large files are kept: a redirect leads there."""

    def put(self, files: Mapping[str, bytes]) -> None:
        """Commit the files."""
        self.listed = dict(files)
        self.files = {f"/datasets/acme/digits/resolve/{self.commit}/{path}": data for path, data in files.items()}

    def handle(self, call: Call) -> Answer:
        api = "/api/datasets/acme/digits"
        if self.token and call.headers.get("authorization") != self.token:
            return Answer(status=401)
        if call.path == f"{api}/revision/main":
            return Answer(body={"sha": self.commit})
        if call.path.startswith(f"{api}/revision/"):
            return Answer(status=404)
        if call.path == f"{api}/paths-info/{self.commit}":
            return Answer(body=[entry for path in call.json()["paths"] for entry in self._info(path)])
        if call.path.startswith(f"{api}/tree/{self.commit}"):
            folder = unquote(call.path.removeprefix(f"{api}/tree/{self.commit}")).strip("/")
            entries = [self._entry(path) for path in sorted(self.listed) if path.startswith(f"{folder}/".lstrip("/"))]
            start = int(call.query.get("cursor", "0"))
            more = f"{self.url}{call.path}?recursive=true&cursor={start + self.page}"
            link = {"Link": f'<{more}>; rel="next"'} if start + self.page < len(entries) else {}
            return Answer(body=entries[start : start + self.page], headers=link)
        if self.elsewhere and call.path in self.files:
            return Answer(status=302, headers={"Location": f"{self.elsewhere}{call.path}"})
        return super().handle(call)

    def _info(self, path: str) -> list[dict[str, Any]]:
        if path in self.listed:
            return [self._entry(path)]
        below = any(one.startswith(f"{path}/") for one in self.listed)
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0}] if below else []

    def _entry(self, path: str) -> dict[str, Any]:
        data = self.listed[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if len(data) >= LARGE_BYTES:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry


class LfsStore(FileServer):
    """A Git LFS store at ``/acme/digits.git/info/lfs``."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, str] = {}
        """What an action says to send along."""

    @property
    def store(self) -> str:
        return f"{self.url}/acme/digits.git/info/lfs"

    def put(self, data: bytes) -> str:
        """Keep the content, and return its pointer."""
        oid = hashlib.sha256(data).hexdigest()
        self.files[f"/objects/{oid}"] = data
        return pointer(data)

    def handle(self, call: Call) -> Answer:
        if call.path != "/acme/digits.git/info/lfs/objects/batch":
            return self.served(call, self.files[call.path]) if call.path in self.files else Answer(status=404)
        if self.token and call.headers.get("authorization") != self.token:
            return Answer(status=401)
        asked = call.json()
        media = "application/vnd.git-lfs+json"
        if (asked["operation"], call.headers["accept"], call.headers["content-type"]) != ("download", media, media):
            return Answer(status=422)
        objects = []
        for one in asked["objects"]:
            href = f"/objects/{one['oid']}"
            if href in self.files:
                action = {"href": self.url + href, "header": self.headers, "expires_in": 900}
                objects.append({**one, "authenticated": True, "actions": {"download": action}})
            else:
                objects.append({**one, "error": {"code": 404, "message": "Object does not exist"}})
        return Answer(body={"transfer": "basic", "objects": objects, "hash_algo": "sha256"})


def pointer(data: bytes) -> str:
    """Return the pointer that Git LFS puts in the place of a file."""
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"


def basic(user: str, password: str) -> str:
    """Return the header's value for a user."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

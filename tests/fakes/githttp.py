"""A real git server on loopback: ``git http-backend`` behind a token, as forges have it.

Repositories are bare folders below ``root``; their pre-receive hooks run, so protected branches are real refusals.
"""

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.server import Answer, Call, Server


class GitServer(Server):
    """Serves ``root``; everybody needs the token, as the password of any user name. The ``reader`` may not push."""

    def __init__(self, root: Path, token: str = "ghs_canary0", *, reader: str | None = None) -> None:
        super().__init__()
        self.root = root
        self.token = token
        self.reader = reader

    @contextmanager
    def running(self) -> Iterator["GitServer"]:
        with super().running():
            yield self

    def header(self) -> str:
        """Return the header that a checkout action leaves in ``http.<server>/.extraheader``."""
        return "AUTHORIZATION: basic " + base64.b64encode(f"x-access-token:{self.token}".encode()).decode()

    def _may(self, call: Call) -> bool:
        kind, _, encoded = call.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded).decode().split(":", 1)[1:]
        except ValueError:
            return False
        pushes = "git-receive-pack" in (call.path.rpartition("/")[2], call.query.get("service"))
        return kind.lower() == "basic" and (given == [self.token] or (given == [self.reader] and not pushes))

    def handle(self, call: Call) -> Answer:
        if not self._may(call):
            return Answer(status=401, body=b"", headers={"WWW-Authenticate": 'Basic realm="git"'})
        query = "&".join(f"{name}={value}" for name, value in call.query.items())
        done = subprocess.run(
            ["git", "-c", "http.receivepack=true", "http-backend"],
            input=call.body,
            capture_output=True,
            timeout=60,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REMOTE_USER": "bot",
                "REQUEST_METHOD": call.method,
                "PATH_INFO": call.path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": call.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(call.body)),
                "HTTP_CONTENT_ENCODING": call.headers.get("content-encoding", ""),
                "GIT_PROTOCOL": call.headers.get("git-protocol", ""),
                "GIT_CONFIG_NOSYSTEM": "1",
            },
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200 OK").split()[0])
        return Answer(status=status, body=body, headers=headers)

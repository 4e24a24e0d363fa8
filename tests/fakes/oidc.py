"""The part of GitHub's runner that gives identity tokens, on loopback.

As https://docs.github.com/en/actions/reference/security/oidc says: `GET $ACTIONS_ID_TOKEN_REQUEST_URL&audience=...`
with the job's bearer answers `{"value": JWT}`.
"""

import base64
import json
from pathlib import Path

from gitops_ml.commands import _ci_identity as identity
from tests.fakes.server import Answer, Call, Server

BEARER = "canary-bearer"


class TokenServer(Server):
    """Each token is another."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def handle(self, call: Call) -> Answer:
        if call.headers.get("authorization") != f"bearer {BEARER}":
            return Answer(status=401)
        self.given += 1
        said = {"sub": "repo:acme/vision:environment:gitops-ml", "aud": call.query["audience"], "n": self.given}
        body = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
        return Answer(body={"value": f"e30.{body}.c2ln", "count": 1})

    def environ(self, file: Path | None = None) -> dict[str, str]:
        found = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
        }
        return found | ({identity.FILE: str(file)} if file else {})

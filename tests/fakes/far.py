"""A far machine in this process or beside it: a job in a storage, as a backend leaves it, and what a machine asks."""

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gitops_ml.agent import objects
from gitops_ml.agent.courier import Courier, Pace, Surroundings
from gitops_ml.agent.imds import Imds
from gitops_ml.agent.objects import Lease
from gitops_ml.bundles import bundle
from gitops_ml.planning import Trial
from gitops_ml.storage.base import Storage
from tests.fakes.server import Loopback
from tests.fakes.trials import Objects

QUICK = Pace(
    beat=(0.05, 0.05),
    log=(0.05, 0.05),
    watch=(0.02, 0.02),
    gpu=(0.05, 0.05),
    checkpoint=(0.05, 0.05),
    retry=(0.01, 0.05),
)


def lease_of(trial: Trial, digest: str, number: int = 1, **fields: Any) -> Lease:
    """Return a lease as a backend makes it."""
    given = {"grace_s": 5.0, "lifetime_min": 10, "agent": "0" * 64, **fields}
    return Lease(
        key=trial.key,
        number=number,
        repository="acme/digits",
        created_at=1e9,
        owner="test",
        bundle=digest,
        wait_until=1e9 + 600,
        expires_at=1e9 + 1200,
        **given,
    )


def submit(storage: Storage, trial: Trial, held: Objects | None = None, number: int = 1, **fields: Any) -> Lease:
    """Leave a job in the storage, as a backend does."""
    with bundle(trial, (held or Objects()).blobs) as made:
        lease = lease_of(trial, made.digest, number, **fields)
        with made.open() as source:
            storage.put(objects.bundle(made.digest), source.read())
    storage.put(objects.attempt(trial.key, number, "lease.json"), objects.to_json(lease))
    return lease


class Attempt:
    """What an attempt left in the storage."""

    def __init__(self, storage: Storage, key: str, number: int = 1) -> None:
        self._storage = storage
        self._key = key
        self._number = number

    def get(self, part: str) -> bytes | None:
        return self._storage.get(objects.attempt(self._key, self._number, part))

    @property
    def result(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.get("result.json") or b"null")
        return data

    @property
    def log(self) -> str:
        prefix = objects.attempt(self._key, self._number, "logs/")
        text = b""
        for name in self._storage.names(prefix):
            assert int(name.removeprefix(prefix)) == len(text), "a gap in the log"
            text += self._storage.get(name) or b""
        return text.decode()


class Running:
    """A courier at work in a thread."""

    def __init__(self, storage: Storage, lease: Lease, around: Surroundings) -> None:
        self.courier = Courier(storage, lease.key, lease.number, around)
        self.attempt = Attempt(storage, lease.key, lease.number)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.code = self.courier.run()

    def end(self, seconds: float = 60) -> dict[str, Any]:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the courier is still at work"
        return self.attempt.result


def around(folder: Path, environ: Mapping[str, str], **fields: Any) -> Surroundings:
    folder.mkdir(parents=True, exist_ok=True)
    return Surroundings(**{"environ": environ, "work": folder, "pace": QUICK, **fields})


class MetadataService:
    """Version 2 of the metadata service of one pretended machine."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {
            "instance-id": "i-0123456789abcdef0",
            "instance-type": "g6.xlarge",
            "placement/availability-zone": "us-east-1b",
            "ami-id": "ami-0123456789abcdef0",
            "instance-life-cycle": "spot",
            "iam/security-credentials/": "gitops-ml-worker",
            "iam/security-credentials/gitops-ml-worker": json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": "ASIAEXAMPLE",
                    "SecretAccessKey": "example",
                    "Token": "session",
                    "Expiration": "2099-01-01T00:00:00Z",
                }
            ),
        }
        self.token = "token-1"
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                good = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
                self._answer(200 if good else 400, service.token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") != service.token:
                    self._answer(401, "")
                    return
                found = service.values.get(self.path.removeprefix("/latest/meta-data/"))
                self._answer(404 if found is None else 200, found or "")

            def _answer(self, code: int, text: str) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self._server = Loopback(Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url}
        self.imds = Imds(self.environ)

    def take_away(self) -> None:
        """Give notice, as two minutes before a spot machine is reclaimed."""
        self.values["spot/instance-action"] = '{"action": "terminate", "time": "2026-11-26T22:00:00Z"}'

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def metadata_service() -> Iterator[MetadataService]:
    service = MetadataService()
    try:
        yield service
    finally:
        service.close()

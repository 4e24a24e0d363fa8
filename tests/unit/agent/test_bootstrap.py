"""User data: small, the same for the same lease, and really run here against S3 and metadata on loopback."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from wsgiref.types import WSGIEnvironment

import pytest

from gitops_ml.agent import archive
from gitops_ml.agent.bootstrap import MAX_BYTES, user_data
from gitops_ml.storage import opened
from tests.fakes.far import Attempt, MetadataService, lease_of, metadata_service, submit
from tests.fakes.s3 import BUCKET, S3, serving
from tests.fakes.trials import WRITES, trial, until

PLACE = f"s3://{BUCKET}/acme/digits"
LONG = f"s3://{'b' * 63}/training/of/acme/digits?owner=123456789012"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service() as service:
        yield service


class Machine:
    """Runs user data as cloud-init does, but that ``shutdown`` only takes notes."""

    def __init__(self, folder: Path, s3: S3, metadata: MetadataService) -> None:
        (folder / "bin").mkdir()
        self._notes = folder / "shutdowns"
        shim = folder / "bin/shutdown"
        shim.write_text(f'#!/bin/sh\necho "$*" >>{self._notes}\n')
        shim.chmod(0o755)
        (folder / "tmp").mkdir()
        self._folder = folder
        # No keys: what it signs with comes from its role.
        self._environ = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "TMPDIR": str(folder / "tmp"),
            "AWS_ENDPOINT_URL": s3.url,
            **metadata.environ,
        }

    def start(self, script: str) -> subprocess.Popen[str]:
        """Start the script."""
        file = self._folder / "user-data"
        file.write_text(script)
        return subprocess.Popen(
            ["sh", str(file)],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def boot(self, script: str) -> str:
        """Run the script and return what it printed."""
        return self.start(script).communicate(timeout=120)[0]

    @property
    def shutdowns(self) -> list[str]:
        return self._notes.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, s3: S3, metadata: MetadataService) -> Iterator[Machine]:
    yield Machine(tmp_path, s3, metadata)
    s3.faults.clear()
    s3.date = None


def test_user_data__longest_names__is_small_and_the_same_again() -> None:
    lease = lease_of(trial(), "b" * 64, number=123, lifetime_min=12345)

    script = user_data(lease, LONG, "ap-southeast-2")

    assert len(script.encode()) < MAX_BYTES
    assert script.startswith("#!/bin/sh\nshutdown -h +12345\n")
    assert script.endswith("\nshutdown -h now\n")
    assert user_data(lease, LONG, "ap-southeast-2") == script


@pytest.mark.parametrize("place", ["storage", "s3://b/p#x", "s3://B/p", f"s3://b/{'p' * 300}"])
def test_user_data__no_bucket_that_fits__is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="s3://"):
        user_data(lease_of(trial(), "b" * 64), place, "us-east-1")


def test_user_data__run__trains_and_ends_the_machine(machine: Machine, s3: S3, tmp_path: Path) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    agent = archive.built()
    agent.upload(storage)
    of = trial(f"echo hello; {WRITES}")
    lease = submit(storage, of, agent=agent.digest, lifetime_min=7)

    said = machine.boot(user_data(lease, PLACE, "us-east-1"))

    attempt = Attempt(storage, of.key)
    assert machine.shutdowns == ["-h +7", "-h now"], said
    assert attempt.result is not None, said
    assert attempt.result["outcome"] == "succeeded"
    assert attempt.result["machine"] == {
        "id": "i-0123456789abcdef0",
        "type": "g6.xlarge",
        "zone": "us-east-1b",
        "image": "ami-0123456789abcdef0",
        "market": "spot",
    }
    assert attempt.log == "hello\n"
    print(attempt.result["timings_s"])


def test_user_data__run_with_a_wrong_clock_and_region__is_corrected(machine: Machine, s3: S3, tmp_path: Path) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    program = _zip_that_says("hello")
    digest = hashlib.sha256(program).hexdigest()
    storage.put(f"agents/{digest}.zip", program)

    def strict(request: WSGIEnvironment) -> tuple[int, str, dict[str, str]] | None:
        signed = request.get("HTTP_AUTHORIZATION", "")
        if "/eu-west-1/" not in signed:
            return 400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-1"}
        if not request["HTTP_X_AMZ_DATE"].startswith("2031"):
            return 403, "RequestTimeTooSkewed", {}
        return None

    s3.faults.append(strict)
    s3.date = "Mon, 06 Jan 2031 10:00:00 GMT"

    said = machine.boot(user_data(lease_of(trial(), "b" * 64, agent=digest), PLACE, "us-east-1"))

    assert said.endswith("hello\n"), said


def test_user_data__clock_an_hour_off__trains_and_tells_the_right_time(
    machine: Machine, s3: S3, tmp_path: Path
) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    agent = archive.built()
    agent.upload(storage)
    of = trial(f"echo late; {WRITES}")
    lease = submit(storage, of, agent=agent.digest)
    right = time.time() + 3600

    def strict(request: WSGIEnvironment) -> tuple[int, str, dict[str, str]] | None:
        signed = datetime.strptime(request["HTTP_X_AMZ_DATE"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return None if abs(signed.timestamp() - right) < 900 else (403, "RequestTimeTooSkewed", {})

    s3.faults.append(strict)
    s3.date = formatdate(right, usegmt=True)
    said = machine.boot(user_data(lease, PLACE, "us-east-1"))
    s3.faults.clear()

    result = Attempt(storage, of.key).result
    assert result is not None, said
    assert result["outcome"] == "succeeded"
    assert abs(result["training_started_at"] - right) < 300
    assert abs(result["ended_at"] - right) < 300


def test_user_data__credentials_expire_while_training__are_taken_anew(
    machine: Machine, s3: S3, metadata: MetadataService, tmp_path: Path
) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    agent = archive.built()
    agent.upload(storage)
    os.mkfifo(tmp_path / "gate")
    of = trial(f"echo ready; cat {tmp_path}/gate; {WRITES}")
    attempt = Attempt(storage, of.key)
    script = machine.start(user_data(submit(storage, of, agent=agent.digest), PLACE, "us-east-1"))
    until(lambda: attempt.log == "ready\n")

    def strict(request: WSGIEnvironment) -> tuple[int, str, dict[str, str]] | None:
        return (400, "ExpiredToken", {}) if request.get("HTTP_X_AMZ_SECURITY_TOKEN") == "session" else None

    s3.faults.append(strict)
    role = "iam/security-credentials/gitops-ml-worker"
    metadata.values[role] = metadata.values[role].replace('"session"', '"session-2"')
    (tmp_path / "gate").write_text("go\n")
    said, _ = script.communicate(timeout=60)

    assert attempt.result is not None, said
    assert (attempt.result["outcome"], attempt.result["notes"]) == ("succeeded", [])
    assert attempt.log == "ready\ngo\n"


def test_user_data__machine_goes_down__is_preempted_with_what_it_saved(
    machine: Machine, s3: S3, tmp_path: Path
) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    agent = archive.built()
    agent.upload(storage)
    of = trial("echo 7 >ckpt/step; echo ready; exec tail -f /dev/null", checkpoints="ckpt")
    attempt = Attempt(storage, of.key)
    script = machine.start(user_data(submit(storage, of, agent=agent.digest), PLACE, "us-east-1"))
    until(lambda: attempt.log == "ready\n")

    # The shell waits; the process below it is what systemd ends first, or at the same time.
    os.kill(int(Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()[0]), signal.SIGTERM)
    said, _ = script.communicate(timeout=60)

    assert attempt.result is not None, said
    assert (attempt.result["outcome"], attempt.result["reason"]) == ("preempted", "the machine was shut down")
    assert len(list(storage.names(f"jobs/{of.key}/checkpoints/manifests/"))) == 1
    assert machine.shutdowns == ["-h +10", "-h now"]


def test_user_data__agent_of_another_digest__says_so_and_ends(machine: Machine, s3: S3, tmp_path: Path) -> None:
    storage = opened(PLACE, tmp_path, s3.environ)
    storage.put(f"agents/{'d' * 64}.zip", _zip_that_says("never"))
    lease = lease_of(trial("exit 1"), "b" * 64, agent="d" * 64)

    said = machine.boot(user_data(lease, PLACE, "us-east-1"))

    boot = json.loads(Attempt(storage, lease.key).get("boot.json") or b"null")
    assert boot == {"reason": "ValueError('agent: another digest')"}, said
    assert "never" not in said
    assert machine.shutdowns == ["-h +10", "-h now"]


def _zip_that_says(word: str) -> bytes:
    import io
    import zipfile

    spool = io.BytesIO()
    with zipfile.ZipFile(spool, "w") as packed:
        packed.writestr("__main__.py", f"print({word!r})")
    return spool.getvalue()

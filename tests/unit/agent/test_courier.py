"""One attempt on a far machine, with a folder as storage."""

import os
from pathlib import Path

import pytest

from gitops_ml.agent import objects
from gitops_ml.storage.base import Storage
from gitops_ml.storage.folder import FolderStorage
from tests.fakes.far import Attempt, Running, around, submit
from tests.fakes.trials import WRITES, Objects, trial

ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "storage")


def test_run__training_that_succeeds__leaves_log_outputs_and_result(storage: Storage, tmp_path: Path) -> None:
    held = Objects()
    of = trial(f"cat hello; {WRITES}", [held.file("hello", "world\n")])
    lease = submit(storage, of, held)

    result = Running(storage, lease, around(tmp_path / "work", ENVIRON)).end()

    attempt = Attempt(storage, of.key)
    assert (result["outcome"], result["reason"], result["exit_code"]) == ("succeeded", "", 0)
    assert attempt.log == "world\n"
    assert result["log_bytes"] == 6
    assert attempt.get("outputs/out/metrics.json") == b'{"accuracy": 0.5}\n'
    assert [entry["path"] for entry in result["files"]] == ["out/metrics.json"]
    beat = objects.heartbeat_from(attempt.get("heartbeat.json") or b"")
    assert beat.beat >= 1

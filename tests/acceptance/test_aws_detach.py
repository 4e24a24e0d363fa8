"""Trainings that CI left on the fake AWS: nobody watches them, and the schedule ends them or lets them go on."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.errors import ExitCode
from gitops_ml.tools import Tools
from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import PROJECT, PYTHON, SPEC, TRAIN
from tests.fakes.ci_jobs import HOME, Result, World, pull_payload
from tests.fakes.github import FakeGitHub
from tests.fakes.repositories import git
from tests.fakes.trials import until

POLICY = "policy: {backends: [aws-ec2], auto_run_below: 20 USD}\n"


class Place:
    """A change on the fake GitHub that trains on the fake AWS, a clone for every job."""

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        self.gate = folder / "gate"
        self.cloud = cloud
        project = PROJECT.format(bucket=cloud.bucket, types="g5.xlarge", more="").lstrip()
        files = {"experiment.yaml": self.spec(0.2), "train.py": TRAIN.lstrip(), "gitops-ml.yaml": project + POLICY}
        self.world = World(folder, {**files, ".gitignore": ".gitops-ml/\nout/\n"})
        self.fake = FakeGitHub()
        self.runs = 50
        self.push(0.1)

    def spec(self, rate: float) -> str:
        text = SPEC.format(
            name="digits",
            gate=self.gate,
            python=PYTHON,
            lr=rate,
            seeds="0",
            resources="gpu: {type: [A10G]}, spot: prefer",
            budget="max_duration: 10m, max_wait: 5m",
            environment="",
        )
        return text.lstrip() + "baseline: {missing: warn}\n"

    def push(self, rate: float) -> str:
        self.head = self.fake.pulls[7].head = self.world.push({"experiment.yaml": self.spec(rate)})
        return self.head

    def ci(self, *options: str, command: str = "ci", later: timedelta = timedelta(), run: int | None = None) -> Result:
        """Run a job to its end, perhaps with a clock that is ahead."""
        self.runs += 1
        environ = {
            **self.cloud.environ,
            "GITHUB_API_URL": self.fake.url,
            "GITHUB_REPOSITORY": self.fake.repository,
            "GITHUB_TOKEN": "ghs_canary0",
            "GITHUB_RUN_ID": str(run or self.runs),
        }

        def tools(**given: Any) -> Tools:
            return Tools(**given, now=lambda: datetime.now(UTC) + later)

        self.world.tools = tools  # type: ignore[assignment]
        event = "pull_request" if command == "ci" else "schedule"
        payload = pull_payload(self.head) if command == "ci" else {"repository": HOME}
        done = self.world.ci(event, payload, "--forge", "github", *options, command=command, **environ)
        self.fake.runs[run or self.runs] = "completed"
        return done

    def reconcile(self, **given: Any) -> Result:
        done = self.ci(command="reconcile", **given)
        assert done.code == ExitCode.OK, done.err
        return done

    def attempts(self) -> list[tuple[str, int, bool]]:
        paths = sorted(path for path in self.world.ledger() if path.startswith("attempts/"))
        found = [json.loads(git(self.world.remote, "show", f"gitops-ml/reports:{path}")) for path in paths]
        return [(one["outcome"], one["origin"]["change"], one["cost_usd"] > 0) for one in found]

    def records(self) -> list[str]:
        return [path for path in self.world.ledger() if path.endswith("record.json")]

    def wait_for_a_checkpoint(self) -> None:
        until(lambda: any("/checkpoints/manifests/" in name for name in self.cloud.names("acme/digits/jobs")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Cloud(tmp_path / "machines") as cloud:
        there = Place(tmp_path, cloud)
        with there.fake.running():
            yield there
        assert cloud.violations == []


def test_left_spot_training__taken_away__goes_on_by_the_schedule_until_it_is_done(place):
    left = place.ci("--detach", "always")
    assert (left.code, left.outputs["going-on"]) == (ExitCode.OK, "1"), left.err
    place.wait_for_a_checkpoint()
    (first,) = place.cloud.instances()
    place.cloud.notice(first.identity, seconds=20)
    until(lambda: not place.cloud.live())

    again = place.reconcile()
    assert "change 7: 1 trial at work" in again.out, again.out + again.err
    assert [one.tags["gitops-ml:attempt"] for one in place.cloud.instances()] == ["1", "2"]
    assert place.attempts() == [("preempted", 7, True)]

    place.gate.touch()
    until(lambda: not place.cloud.live())
    assert "change 7: 1 trial collected, and published" in place.reconcile().out
    assert (len(place.records()), len(place.cloud.instances())) == (1, 2)
    logs = [data for name, data in place.cloud.objects("acme/digits/jobs").items() if "/2/logs/" in name]
    assert b"from epoch " in b"".join(logs)
    assert b"from epoch 0" not in b"".join(logs)


@pytest.mark.parametrize("later", [timedelta(minutes=3), timedelta(hours=1)])
def test_left_training__that_found_no_machine__is_asked_for_again_by_the_schedule(place, later):
    place.gate.touch()
    place.cloud.no_capacity()
    left = place.ci("--detach", "always")
    assert (left.code, left.outputs["going-on"], place.cloud.instances()) == (ExitCode.OK, "1", []), left.err

    place.cloud.clear_faults()
    again = place.reconcile(later=later)
    assert "change 7: 1 trial at work" in again.out, again.out + again.err
    assert len(place.cloud.instances()) == 1
    until(lambda: not place.cloud.live())
    assert "change 7: 1 trial collected, and published" in place.reconcile(later=later).out


def test_left_training__of_an_older_head__ends_with_its_machine_and_its_cost_is_kept(place):
    place.ci("--detach", "always")
    place.wait_for_a_checkpoint()
    place.push(0.3)
    done = place.reconcile()

    assert "nobody wants it since change 7 has moved or is closed" in done.out
    assert (place.cloud.live(), place.attempts()) == ([], [("cancelled", 7, True)])
    told = place.ci("--detach", "always")
    (comment,) = place.fake.comments
    assert "1 training that this change does not want any more was ended, which cost 0." in comment.body, told.err
    place.fake.pulls[7].state = "closed"
    place.reconcile()
    assert (place.cloud.live(), place.attempts()) == ([], [("cancelled", 7, True)] * 2)


def test_left_training__that_a_person_started__is_left_alone(place):
    place.ci("--detach", "always")
    (running,) = place.cloud.live()
    for name, data in place.cloud.objects("acme/digits/jobs").items():
        if name.endswith("lease.json"):
            lease = {**json.loads(data), "asked": {}}
            place.cloud.client("s3").put_object(Bucket=place.cloud.bucket, Key=name, Body=json.dumps(lease).encode())
    place.push(0.3)
    place.reconcile()

    assert [one.identity for one in place.cloud.live()] == [running.identity]

"""``gitops-ml reconcile``: whatever CI jobs were killed, one more look leaves records, comments and statuses right."""

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.backends.base import Leftover
from gitops_ml.commands._jobs import known_jobs
from gitops_ml.errors import ExitCode, ServiceError
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import BETTER, HOME, SPEC, TRAIN, Result, World, pull_payload
from tests.fakes.github import FakeGitHub, Pull
from tests.fakes.repositories import ENVIRON, git
from tests.fakes.trials import until

FILES = {"experiment.yaml": SPEC, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"}
RUN_URL = "https://github.example/acme/vision/actions/runs/"


class Place:
    """A change on the fake GitHub, and a machine that keeps its jobs, as a cloud does."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, FILES)
        self.fake = FakeGitHub()
        self.head = self.fake.pulls[7].head = self.push({"experiment.yaml": BETTER})
        self.machine = folder / "machine"

    def push(self, files: dict[str, str], branch: str = "wider") -> str:
        return self.world.push(files, branch)

    def environ(self, run: int) -> dict[str, str]:
        return {
            "GITHUB_API_URL": self.fake.url,
            "GITHUB_REPOSITORY": self.fake.repository,
            "GITHUB_TOKEN": "ghs_canary0",
            "GITHUB_RUN_ID": str(run),
        }

    def ci(self, *options: str, run: int = 50) -> Result:
        """Run the change's own CI job."""
        return self.world.ci(
            "pull_request", pull_payload(self.head), "--forge", "github", *options, **self.environ(run)
        )

    def reconcile(self, *options: str, keep: str | None = "machine", run: int = 900) -> Result:
        words = ("--forge", "github", *options)
        return self.world.ci(
            "schedule", {"repository": HOME}, *words, keep=keep, command="reconcile", **self.environ(run)
        )

    def detach(self) -> None:
        """Start the change's trainings from a process that ends at once."""
        git(self.world.folder, "clone", "-q", "-b", "wider", self.world.remote.as_uri(), str(self.machine))
        tools = Tools(cwd=self.machine, environ=ENVIRON, out=io.StringIO(), err=io.StringIO())
        assert main(["run", "--detach", "--jobs", "9"], tools) in (ExitCode.OK, ExitCode.TRIAL_FAILED)

    def wait(self) -> None:
        """Wait until all jobs of the machine are over."""
        tools = Tools(cwd=self.machine, environ=ENVIRON)
        until(lambda: all(known.status.state.final for known in known_jobs(tools)))
        tools.close()

    def states(self) -> list[tuple[str, str]]:
        return [(one["state"], one["description"]) for one in self.fake.statuses if one["sha"] == self.head]

    def records(self) -> int:
        return len([path for path in self.world.ledger() if path.endswith("record.json")])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path)
    with there.fake.running():
        yield there


# Jobs whose CI job is gone


def test_reconcile__jobs_that_ended_alone__are_collected_reported_and_commented_once(place):
    place.detach()
    place.wait()
    done = place.reconcile()

    assert done.code == ExitCode.OK, done.err
    assert "change 7: 6 trials collected, and published" in done.out
    assert place.records() == 6
    paths = [path for path in place.world.ledger() if path.endswith("record.json")]
    records = [json.loads(git(place.world.remote, "show", f"gitops-ml/reports:{path}")) for path in paths]
    assert {one["attempt"]["origin"]["kind"] for one in records} == {"ci"}
    assert {one["attempt"]["origin"].get("change") for one in records} <= {7, None}
    assert any(path.startswith(f"reports/digits/{place.head[:12]}") for path in place.world.ledger())
    (comment,) = place.fake.comments
    assert "digits: better" in comment.body
    assert [state for state, _ in place.states()] == ["success"]

    before = git(place.world.remote, "rev-parse", "gitops-ml/reports")
    again = place.reconcile(run=901)
    assert "change 7: up to date" in again.out
    assert (len(place.fake.comments), len(place.states())) == (1, 1)
    assert git(place.world.remote, "rev-parse", "gitops-ml/reports") == before


def test_reconcile__jobs_at_work__are_left_alone(place):
    place.head = place.fake.pulls[7].head = place.push({"train.py": "import time\ntime.sleep(60)\n"})
    place.detach()
    try:
        done = place.reconcile()
        # What it is compared with may be over already.
        assert re.search("^change 7: [3-6] trials at work$", done.out, re.MULTILINE), done.out + done.err
        assert (place.states(), place.fake.comments) == ([], [])
    finally:
        tools = Tools(cwd=place.machine, environ=ENVIRON)
        for known in known_jobs(tools):
            known.backend.cancel(known.job.key)
        tools.close()


def test_reconcile__jobs_that_failed_alone__are_published_once_and_not_tried_again(place):
    place.head = place.fake.pulls[7].head = place.push({"train.py": "import sys\nsys.exit('out of luck')\n"})
    place.detach()
    place.wait()
    first = place.reconcile()
    second = place.reconcile(run=901)

    assert first.code == ExitCode.OK, first.err
    assert [state for state, _ in place.states()] == ["failure"]
    assert "out of luck" in place.fake.comments[0].body
    assert len([path for path in place.world.ledger() if path.startswith("attempts/")]) == 3
    assert "change 7: 3 trials without a record" in second.out


def test_reconcile__two_jobs__the_cloud_and_the_forge_are_never_in_one(place):
    place.detach()
    place.wait()
    raw = place.world.folder / "raw"
    collected = place.reconcile("--job", "collect", "--out", str(raw))
    assert (collected.code, place.world.ledger(), place.fake.statuses) == (ExitCode.OK, [], []), collected.err

    options = ("--job", "publish", "--from", str(raw), "--digest")
    file = next(raw.glob("outputs/*/metrics.json"))
    honest = file.read_text()
    file.write_text('{"accuracy": 1}')
    refused = place.reconcile(*options, collected.outputs["digest"], keep=None)
    assert (refused.code, place.world.ledger()) == (ExitCode.DENIED, [])

    file.write_text(honest)
    done = place.reconcile(*options, collected.outputs["digest"], keep=None)
    assert done.code == ExitCode.OK, done.err
    assert (place.records(), [state for state, _ in place.states()]) == (6, ["success"])


def test_reconcile__half_that_may_not_ask_the_forge__finds_the_change_by_its_branch(place):
    place.detach()
    place.wait()
    place.push({"unrelated": "1"}, "stale")
    place.fake.tokens["ghs_canary0"].valid = False
    raw = place.world.folder / "raw"
    collected = place.reconcile("--job", "collect", "--out", str(raw))
    assert collected.code == ExitCode.OK, collected.err
    assert "branches are looked at instead of changes: cannot list the open pull requests" in collected.err

    place.fake.tokens["ghs_canary0"].valid = True
    options = ("--job", "publish", "--from", str(raw), "--digest", collected.outputs["digest"])
    assert "change 7: 6 trials collected, and published" in place.reconcile(*options, keep=None).out


def test_reconcile__nothing_has_ended__the_half_that_collects_asks_nobody(place):
    collected = place.reconcile("--job", "collect", "--out", str(place.world.folder / "raw"), keep=None)

    assert (collected.code, place.fake.calls) == (ExitCode.OK, []), collected.err


def test_reconcile__two_jobs_with_one_at_work__say_so_to_the_half_that_cannot_ask(place):
    place.head = place.fake.pulls[7].head = place.push({"train.py": "import time\ntime.sleep(60)\n"})
    place.detach()
    raw = place.world.folder / "raw"
    try:
        collected = place.reconcile("--job", "collect", "--out", str(raw))
        options = ("--job", "publish", "--from", str(raw), "--digest", collected.outputs["digest"])
        said = place.reconcile(*options, keep=None).out
        assert re.search("^change 7: [3-6] trials at work$", said, re.MULTILINE), said
    finally:
        tools = Tools(cwd=place.machine, environ=ENVIRON)
        for known in known_jobs(tools):
            known.backend.cancel(known.job.key)
        tools.close()


# CI jobs that were killed


def test_reconcile__pending_of_a_run_that_was_killed__becomes_an_error_and_of_a_live_one_stays(place):
    place.ci("--job", "pending", run=51)
    assert [state for state, _ in place.states()] == ["pending"]
    assert place.fake.statuses[0]["target_url"] == f"{RUN_URL}51"

    place.fake.runs[51] = "in_progress"
    assert "change 7: its run goes on" in place.reconcile(keep=None).out
    assert len(place.states()) == 1

    place.fake.runs[51] = "completed"
    done = place.reconcile(keep=None)
    assert "change 7: 6 trials without a record, which no run trains any more" in done.out
    assert place.states()[1:] == [("error", "ended without a result; the run's log says why")]
    place.reconcile(keep=None)
    assert len(place.states()) == 2
    assert place.fake.comments == []


def test_reconcile__run_killed_between_the_ledger_and_the_forge__is_published(place):
    place.fake.tokens["ghs_canary0"].may = frozenset({"push"})
    killed = place.ci()
    assert (killed.trained, place.records()) == (6, 6)
    place.fake.tokens["ghs_canary0"].may = frozenset({"actions", "push", "pull-requests", "statuses"})
    done = place.reconcile(keep=None)

    assert "change 7: published" in done.out, done.err
    assert [state for state, _ in place.states()] == ["success"]
    assert "digits: better" in place.fake.comments[0].body
    assert "change 7: up to date" in place.reconcile(keep=None, run=901).out


def test_reconcile__waiting_for_an_approval__stays_pending(place):
    place.push({"experiment.yaml": SPEC + "triggers: {change: plan}\n"}, "main")
    place.ci(run=51)
    assert place.states() == [("pending", "planned, not trained")]
    place.reconcile(keep=None)

    assert len(place.states()) == 1


# One place and the others


def test_reconcile__change_with_a_broken_spec__does_not_keep_the_others(place):
    broken = place.push({"experiment.yaml": "nonsense: 1\n"}, "broken")
    place.fake.pulls[9] = Pull(number=9, head=broken, head_ref="broken")
    place.ci()
    place.fake.comments.clear()
    done = place.reconcile(keep=None)

    assert done.code == ExitCode.OK
    assert "change 9: experiment.yaml:1:1: " in done.out
    assert "change 7: published" in done.out


def test_reconcile__fork__gets_neither_comment_nor_status(place):
    place.ci()
    place.fake.comments.clear()
    place.fake.statuses.clear()
    place.fake.pulls[7].head_repository = "mallory/vision"

    assert "change 7: nothing to do" in place.reconcile(keep=None).out
    assert (place.fake.comments, place.fake.statuses) == ([], [])


def test_reconcile__default_branch_without_records__says_so_and_trains_nothing(place):
    done = place.reconcile(keep=None)

    assert "branch main: 3 trials without a record" in done.out
    assert place.world.ledger() == []


def test_reconcile__forge_refuses_everything__the_records_are_kept(place):
    place.detach()
    place.wait()
    place.fake.tokens["ghs_canary0"].may = frozenset()
    done = place.reconcile()

    assert place.records() == 6
    assert "the comment could not be posted" in done.err


# Leftovers


@dataclasses.dataclass
class _Sweeping(Tools):
    ended: list[str] = dataclasses.field(default_factory=list)

    def backend(self, name: str) -> Any:
        return _Littered(super().backend(name), self.ended)


class _Littered:
    def __init__(self, backend: Any, ended: list[str]) -> None:
        self._backend = backend
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def leftovers(self, now: datetime) -> Iterator[Leftover]:
        def refuse() -> None:
            raise ServiceError("not now")

        ends = {"i-1\x1b[31m": refuse, "i-2": lambda: self._ended.append("i-2")}
        for identity, end in ends.items():
            yield Leftover(kind="machine", identity=identity, key=None, since=datetime(2026, 1, 2, tzinfo=UTC), end=end)


def test_reconcile__leftovers__are_ended_one_by_one(place):
    ended: list[str] = []
    place.world.tools = lambda **given: _Sweeping(**given, ended=ended)
    done = place.reconcile(keep=None)

    assert (done.code, ended) == (ExitCode.SERVICE, ["i-2"])
    assert "ended machine i-2, overdue since 2026-01-02 00:00 UTC" in done.out
    assert "could not end machine i-1" in done.err
    assert ": not now\n" in done.err
    assert "\x1b" not in done.err
    publishing = place.reconcile("--job", "publish", keep=None)
    assert (publishing.code, ended) == (ExitCode.OK, ["i-2"]), "the half without the cloud sweeps nothing"


# How it is called


def test_reconcile__no_ci_and_no_forge__is_refused(tmp_path):
    world = World(tmp_path, FILES)
    err = io.StringIO()

    assert main(["reconcile"], Tools(cwd=world.work, environ=ENVIRON, out=io.StringIO(), err=err)) == ExitCode.USAGE
    assert err.getvalue() == (
        "this is no CI that gitops-ml knows; name the forge with `--forge`. On your own machine `gitops-ml run` "
        "collects what has ended\n"
    )


def test_ci__schedule__is_the_same(place):
    place.detach()
    place.wait()
    environ = place.environ(900)
    done = place.world.ci("schedule", {"repository": HOME}, "--forge", "github", keep="machine", **environ)

    assert done.code == ExitCode.OK, done.err
    assert "change 7: 6 trials collected, and published" in done.out


class _Clouded(Tools):
    project = Project(backends={"aws-ec2": {}})


@pytest.mark.parametrize(("tools", "wanted"), [(Tools, "false"), (_Clouded, "true")])
def test_ci__schedule_in_jobs__the_second_is_asked_for_only_where_there_is_a_cloud(place, tools, wanted):
    place.world.tools = tools
    options = ("--forge", "github", "--job", "plan")
    plan = place.world.ci("schedule", {"repository": HOME}, *options, **place.environ(900))

    assert (plan.code, plan.outputs["run"]) == (ExitCode.OK, wanted), plan.err

"""``gitops-ml ci --detach``: the job ends before its trainings do, and ``reconcile`` brings what they leave."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.commands._jobs import known_jobs
from gitops_ml.errors import ExitCode
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import HOME, SPEC, TRAIN, Result, World, pull_payload
from tests.fakes.github import FakeGitHub
from tests.fakes.repositories import ENVIRON
from tests.fakes.trials import until

RUN_URL = "https://github.example/acme/vision/actions/runs/"
GATED = TRAIN + "\nwhile not os.path.exists(GATE):\n    __import__('threading').Event().wait(0.05)\n"
LONG = SPEC + "budget: {max_duration: 7h}\n"


class _Far:
    """A backend whose jobs are said to be elsewhere; they are at work beside the runners' clones."""

    far = True

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _FarTools(Tools):
    def backend(self, name: str) -> Any:
        return _Far(super().backend(name))


class Place:
    """A change on the fake GitHub whose trainings wait for a gate; one machine stands for the cloud's."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        train = GATED.replace("GATE", repr(str(self.gate)))
        self.world = World(folder, {"experiment.yaml": LONG, "train.py": train, ".gitignore": ".gitops-ml/\n"})
        self.world.tools = _FarTools
        self.fake = FakeGitHub()
        self.raw = folder / "raw"
        self.head = self.fake.pulls[7].head = self.world.push({"experiment.yaml": LONG.replace("lr: 0.2", "lr: 0.1")})

    def ci(self, *options: str, run: int = 50, command: str = "ci", keep: str | None = "machine") -> Result:
        environ = {
            "GITHUB_API_URL": self.fake.url,
            "GITHUB_REPOSITORY": self.fake.repository,
            "GITHUB_TOKEN": "ghs_canary0",
            "GITHUB_RUN_ID": str(run),
        }
        event = "pull_request" if command == "ci" else "schedule"
        payload = pull_payload(self.head) if command == "ci" else {"repository": HOME}
        words = ("--forge", "github", *options)
        return self.world.ci(event, payload, *words, keep=keep, command=command, **environ)

    def open_gate(self) -> None:
        self.gate.touch()
        tools = Tools(cwd=self.world.folder / "machine", environ=ENVIRON)
        until(lambda: all(known.status.state.final for known in known_jobs(tools)))
        tools.close()

    def states(self) -> list[tuple[str, str, str]]:
        mine = [one for one in self.fake.statuses if one["sha"] == self.head]
        return [(one["state"], one["description"], one["target_url"]) for one in mine]

    def records(self) -> int:
        return len([path for path in self.world.ledger() if path.endswith("record.json")])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path)
    with there.fake.running():
        yield there
    there.open_gate()


def test_detach__always_in_one_job__pending_and_one_comment_then_reconcile_has_the_last_word(place):
    left = place.ci("--detach", "always")
    said = "6 trials at work on local"

    assert (left.code, left.outputs["going-on"], left.outputs["verdict"]) == (ExitCode.OK, "6", "training"), left.err
    assert place.states()[-1] == ("pending", said, f"{RUN_URL}50")
    (comment,) = place.fake.comments
    assert f"- <code>digits</code>: {said}, first results by <code>gitops&#45;ml reconcile</code>\n" in comment.body
    assert f"[the run that started them]({RUN_URL}50)" in comment.body

    place.fake.runs[50] = "completed"
    assert re.search("^change 7: 6 trials at work$", place.ci(command="reconcile", run=900).out, re.MULTILINE)
    assert place.states()[-1][0] == "pending"

    place.open_gate()
    done = place.ci(command="reconcile", run=901)
    assert "change 7: 6 trials collected, and published" in done.out, done.err
    assert [one[0] for one in place.states()][-1] == "success"
    (comment,) = place.fake.comments
    assert "digits: better" in comment.body
    assert "at work" not in comment.body
    assert place.records() == 6

    assert "change 7: up to date" in place.ci(command="reconcile", run=902).out
    assert (len(place.fake.comments), place.records()) == (1, 6)


def test_detach__longer_than_the_job_may_take__is_the_default_in_three_jobs(place):
    plan = str(place.world.folder / "plan")
    assert place.ci("--job", "plan", "--out", plan).outputs["run"] == "true"
    run = place.ci("--job", "run", "--plan", plan, "--out", str(place.raw))
    assert (run.code, run.outputs["going-on"], run.outputs["verdict"]) == (ExitCode.OK, "6", "training"), run.err

    options = ("--job", "publish", "--from", str(place.raw), "--digest", run.outputs["digest"])
    told = place.ci(*options, keep=None)
    assert (told.code, told.outputs["verdict"]) == (ExitCode.OK, "training"), told.err
    assert place.states()[-1] == ("pending", "6 trials at work on local", f"{RUN_URL}50")
    assert len(place.fake.comments) == 1

    place.ci(*options, "--cancelled", keep=None)
    assert place.states()[-1][0] == "pending", "whatever became of the job, its trainings go on"

    place.open_gate()
    assert place.ci(command="reconcile", run=901).code == ExitCode.OK
    assert place.states()[-1][0] == "success"
    assert (len(place.fake.comments), place.records()) == (1, 6)


@pytest.mark.parametrize("options", [("--detach", "never"), ("--job-limit", "600")])
def test_detach__not_asked_for_or_short_enough__the_job_stays(place, options):
    place.gate.touch()
    done = place.ci(*options)

    assert (done.code, done.trained, "going-on" in done.outputs) == (ExitCode.OK, 6, False), done.err


def test_detach__local_backend__is_told_and_stays(place):
    place.world.tools = Tools
    place.gate.touch()
    done = place.ci("--detach", "always")

    assert (done.trained, "going-on" in done.outputs) == (6, False)
    assert "`digits` trains on this very machine, so this job stays until it is over\n" in done.err

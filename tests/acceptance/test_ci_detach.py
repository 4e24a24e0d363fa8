"""``gitops-ml ci --detach``: the job ends before its trainings do, and ``reconcile`` brings what they leave."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.commands._jobs import known_jobs
from gitops_ml.errors import ExitCode
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import HOME, SPEC, TRAIN, Result, World, comment_payload, pull_payload
from tests.fakes.github import FakeGitHub, Pull
from tests.fakes.repositories import ENVIRON, git
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
        if keep and (self.world.folder / keep).exists():
            git(self.world.folder / keep, "fetch", "-q")
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


# What nobody wants any more


def at_work(place: Place) -> list[tuple[str, int]]:
    """Return params and seeds of the jobs at work."""
    tools = Tools(cwd=place.world.folder / "machine", environ=ENVIRON)
    found = [known.job for known in known_jobs(tools) if not known.status.state.final]
    tools.close()
    return sorted((job.params["lr"], job.seed) for job in found)


def cancelled(place: Place) -> list[tuple[int, str, str]]:
    """Return change, commit and reason of what stands on the ledger as cancelled."""
    paths = [path for path in place.world.ledger() if path.startswith("attempts/")]
    found = [json.loads(git(place.world.remote, "show", f"gitops-ml/reports:{path}")) for path in paths]
    assert all(one["outcome"] == "cancelled" for one in found)
    return [(one["origin"]["change"], one["commit"], one["reason"]) for one in found]


OF_MAIN = [(0.2, seed) for seed in range(3)]
OF_THE_CHANGE = [(0.1, seed) for seed in range(3)]


def push_again(place: Place, rate: float = 0.3) -> str:
    before, place.head = place.head, place.world.push({"experiment.yaml": LONG.replace("lr: 0.2", f"lr: {rate}")})
    place.fake.pulls[7].head = place.head
    return before


def test_unwanted__new_head__reconcile_ends_the_old_one_and_says_so(place):
    place.ci("--detach", "always")
    assert at_work(place) == OF_THE_CHANGE + OF_MAIN
    place.world.push({"experiment.yaml": LONG + "triggers: {change: plan}\n"}, "main")  # so that it waits to be asked
    before = push_again(place)
    place.fake.runs[50] = "completed"
    done = place.ci(command="reconcile", run=900)

    assert done.code == ExitCode.OK, done.err
    ended = re.findall(
        r"^ended digits seed \d \(\w{12}\): nobody wants it since change 7 has moved", done.out, re.MULTILINE
    )
    assert (len(ended), at_work(place)) == (3, OF_MAIN)
    assert cancelled(place) == [(7, before, "cancelled (SIGTERM)")] * 3
    place.open_gate()
    told = place.ci(command="reconcile", run=901)
    (comment,) = place.fake.comments
    line = "- 3 trainings that this change does not want any more were ended, which cost 0.00 USD\n"
    assert line in comment.body, told.out + told.err
    assert place.ci(command="reconcile", run=902).out.count("ended") == 0
    assert len(cancelled(place)) == 3


def test_unwanted__new_head__its_own_job_ends_the_old_one_before_it_trains(place):
    place.ci("--detach", "always")
    push_again(place)
    again = place.ci("--detach", "always", run=51)

    assert "3 trainings of an earlier head ended" in again.out, again.err
    assert at_work(place) == OF_MAIN + [(0.3, seed) for seed in range(3)]
    place.fake.runs |= {50: "completed", 51: "completed"}
    place.ci(command="reconcile", run=900)
    assert len(cancelled(place)) == 3
    place.open_gate()
    place.ci(command="reconcile", run=901)
    (comment,) = place.fake.comments
    assert "3 trainings that this change does not want any more were ended" in comment.body


def test_unwanted__new_head_with_the_same_content__goes_on_and_is_attached_to(place):
    place.ci("--detach", "always")
    place.head = place.fake.pulls[7].head = place.world.push({"README.md": "words\n"})
    again = place.ci("--detach", "always", run=51)
    place.ci(command="reconcile", run=900)

    assert "earlier head" not in again.out
    assert again.outputs["going-on"] == "6", again.err
    assert at_work(place) == OF_THE_CHANGE + OF_MAIN


def test_unwanted__old_run_that_is_started_again__ends_nothing_of_the_newest_head(place):
    place.ci("--detach", "always")
    old = push_again(place)
    place.ci("--detach", "always", run=51)
    newest, place.head = place.head, old
    again = place.ci("--detach", "always", run=50)

    assert again.code == ExitCode.OK, again.err
    assert set(at_work(place)) >= {(0.3, seed) for seed in range(3)}
    place.head = newest


@pytest.mark.parametrize("command", ["ci", "reconcile"])
def test_unwanted__wanted_again_while_all_were_planned__goes_on(place, command):
    place.ci("--detach", "always")
    push_again(place)
    answer = place.fake.handle

    def push_once_listed(call):
        listed = answer(call)
        if re.fullmatch("/repos/[^/]+/[^/]+/pulls", call.path):
            place.fake.handle = answer
            push_again(place, 0.1)
            git(place.world.work, "push", "-q", "origin", "HEAD:refs/pull/7/head")
        return listed

    place.fake.handle = push_once_listed
    done = place.ci("--detach", "always", run=51) if command == "ci" else place.ci(command=command, run=900)

    assert place.fake.handle is answer
    assert (done.code, "was not ended" in done.err, "nothing of" in done.err) == (ExitCode.OK, False, False), done.err
    assert set(at_work(place)) >= {*OF_THE_CHANGE, *OF_MAIN}


def test_unwanted__half_that_may_not_ask_the_forge__ends_what_no_branch_wants(place):
    place.ci("--detach", "always")
    push_again(place)
    place.fake.tokens["ghs_canary0"].valid = False
    done = place.ci("--job", "collect", "--out", str(place.raw), command="reconcile", run=900)

    assert done.code == ExitCode.OK, done.err
    assert at_work(place) == OF_MAIN


@pytest.mark.parametrize("also", ["nobody", "main", "another change"])
def test_unwanted__closed_change__is_ended_unless_somebody_else_wants_it(place, also):
    place.ci("--detach", "always")
    place.fake.pulls[7].state = "closed"
    if also == "main":
        place.world.merge()
    if also == "another change":
        other = place.world.push({"experiment.yaml": LONG.replace("lr: 0.2", "lr: 0.1"), "other": ""}, "other")
        place.fake.pulls[9] = Pull(number=9, head=other, head_ref="other")
    done = place.ci(command="reconcile", run=900)

    assert done.code == ExitCode.OK, done.err
    assert at_work(place) == (OF_MAIN if also == "nobody" else OF_THE_CHANGE + OF_MAIN)
    assert cancelled(place) == ([(7, place.head, "cancelled (SIGTERM)")] * 3 if also == "nobody" else [])


def test_unwanted__in_two_halves__the_one_with_the_cloud_ends_and_the_other_keeps(place):
    place.ci("--detach", "always")
    before = push_again(place)
    collected = place.ci("--job", "collect", "--out", str(place.raw), command="reconcile", run=900)
    assert (collected.code, at_work(place), cancelled(place)) == (ExitCode.OK, OF_MAIN, []), collected.err

    options = ("--job", "publish", "--from", str(place.raw), "--digest", collected.outputs["digest"])
    for run in (900, 901):
        told = place.ci(*options, command="reconcile", run=run, keep=None)
        assert told.code == ExitCode.OK, told.err
        assert cancelled(place) == [(7, before, "cancelled (SIGTERM)")] * 3


@pytest.mark.parametrize("halves", [1, 2])
def test_unwanted__but_ended_well_before_anybody_looked__is_kept_as_it_is_paid_for(place, halves):
    place.ci("--detach", "always")
    push_again(place)
    place.open_gate()
    if halves == 1:
        done = place.ci(command="reconcile", run=900)
    else:
        collected = place.ci("--job", "collect", "--out", str(place.raw), command="reconcile", run=900)
        options = ("--job", "publish", "--from", str(place.raw), "--digest", collected.outputs["digest"])
        done = place.ci(*options, command="reconcile", run=900, keep=None)

    assert done.code == ExitCode.OK, done.err
    assert place.records() == 6
    paths = [path for path in place.world.ledger() if path.endswith("record.json")]
    records = [json.loads(git(place.world.remote, "show", f"gitops-ml/reports:{path}")) for path in paths]
    assert {one["attempt"]["origin"].get("change") for one in records if one["params"]["lr"] == 0.1} == {7}
    assert " at " not in place.ci(command="reconcile", run=901).out.replace("at work", "")


def test_unwanted__forge_does_not_answer__nothing_is_ended(place):
    place.ci("--detach", "always")
    push_again(place)
    place.fake.tokens["ghs_canary0"].valid = False
    done = place.ci(command="reconcile", run=900)

    assert done.code == ExitCode.SERVICE
    assert at_work(place) == OF_THE_CHANGE + OF_MAIN


def test_unwanted__change_whose_spec_is_broken_now__wants_nothing(place):
    place.ci("--detach", "always")
    place.head = place.fake.pulls[7].head = place.world.push({"experiment.yaml": "nonsense: 1\n"})
    place.ci(command="reconcile", run=900)

    assert at_work(place) == OF_MAIN


@pytest.mark.parametrize("job", ["all", "run"])
def test_unwanted__cancel_command__ends_what_was_left_at_work_at_any_head(place, job):
    place.ci("--detach", "always")
    push_again(place)
    environ = {
        "GITHUB_API_URL": place.fake.url,
        "GITHUB_REPOSITORY": place.fake.repository,
        "GITHUB_TOKEN": "ghs_canary0",
        "GITHUB_RUN_ID": "52",
    }
    git(place.world.folder / "machine", "fetch", "-q")
    words = ("--forge", "github", "--job", job)
    asked = comment_payload("/gitops-ml cancel", "stranger")
    refused = place.world.ci("issue_comment", asked, *words, keep="machine", **environ)
    assert (refused.code, len(at_work(place))) == (ExitCode.DENIED, 6)

    asked = comment_payload("/gitops-ml cancel", "rob")
    done = place.world.ci("issue_comment", asked, *words, keep="machine", **environ)
    assert "3 trainings ended" in done.out, done.err
    assert (done.code, at_work(place)) == (ExitCode.OK, OF_MAIN)

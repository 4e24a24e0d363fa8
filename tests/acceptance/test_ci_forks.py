"""A hostile change from a fork: first the half without credentials, then the half that publishes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.errors import ExitCode
from tests.fakes.ci_jobs import HOME, SPEC, TRAIN, Result, World, pull_payload
from tests.fakes.github import FakeGitHub, Pull, Token
from tests.fakes.repositories import git

CANARY = "canary-5ab1e"
BRANCH = "x;$(touch${IFS}pwned)`touch${IFS}pwned`@everyone"
METRIC = "</details><img src=//evil.example>@everyone ::set-output name=verdict::pass"
# Whatever of this were run would leave the canary, or a file, behind.
HOSTILE = f"""
version: 1
name: digits
description: "<script>alert(1)</script> @everyone ::add-mask::x"
run: env > metrics.json; touch "$HOME/pwned"; cat /proc/*/environ > stolen; python3 train.py ${{params.lr}}
code: {{include: [train.py]}}
params: {{lr: 0.9}}
environment: {{env: {{STOLEN: "$GITHUB_TOKEN"}}}}
metrics:
  read: [metrics.json]
  track: [{{name: "{METRIC}", goal: maximize, gate: off}}]
"""
SETTINGS = "policy: {forks: approval, auto_run_below: 1000 USD, secrets: [GITHUB_TOKEN]}\nledger: {branch: mine}\n"


class Fork:
    """The change as GitHub has it: its commits are known here by the pull request's ref alone."""

    def __init__(self, world: World, fake: FakeGitHub) -> None:
        self.world = world
        self.fake = fake
        self.home = world.folder / "home"
        self.home.mkdir()
        world.push({"experiment.yaml": HOSTILE, "train.py": "import os\nprint(os.environ)\n"}, BRANCH)
        self.head = world.push({"gitops-ml.yaml": SETTINGS}, BRANCH)
        git(world.work, "push", "-q", "origin", "HEAD:refs/pull/7/head", f":refs/heads/{BRANCH}")
        fake.pulls[7] = Pull(number=7, head=self.head, head_ref=BRANCH, head_repository="evil/vision", author="evil")
        fake.pulls[8] = Pull(number=8)
        fake.tokens["ghs_reads"] = Token(login="github-actions[bot]", bot=True, server=True, may=frozenset())

    def job(self, name: str, payload: dict[str, Any], *options: str, token: str, **more: str) -> Result:
        environ = {"GITHUB_API_URL": self.fake.url, "GITHUB_REPOSITORY": self.fake.repository, "GITHUB_TOKEN": token}
        secrets = {"AWS_SECRET_ACCESS_KEY": CANARY, "HOME": str(self.home), **more}
        return self.world.ci(name, payload, "--forge", "github", *options, **environ, **secrets)

    def untrusted(self, *options: str) -> Result:
        payload = pull_payload(self.head, fork=True)
        payload["pull_request"]["head"]["ref"] = BRANCH
        return self.job("pull_request", payload, *options, token="ghs_reads")

    def trusted(self, *options: str) -> Result:
        run = {"event": "pull_request", "head_sha": self.head, "head_branch": BRANCH, "head_repository": {"id": 2}}
        # A number in the payload is whatever the fork's run says: GitHub leaves the list empty for forks.
        payload = {
            "action": "completed",
            "workflow_run": {**run, "pull_requests": [{"number": 8}]},
            "repository": HOME,
            "sender": {"login": "evil"},
        }
        return self.job("workflow_run", payload, "--job", "publish", *options, token="ghs_canary0")

    def left(self) -> list[Path]:
        """Return the files in which a secret stands, and those that only the fork's code would make."""
        words = (CANARY.encode(), b"ghs_canary0", b"ghs_reads")
        files = [file for file in self.world.folder.rglob("*") if file.is_file() and not file.is_symlink()]
        return [file for file in files if file.name == "pwned" or any(word in file.read_bytes() for word in words)]

    def writes(self) -> list[str]:
        return [f"{call.method} {call.path}" for call in self.fake.calls if call.method in ("POST", "PATCH", "DELETE")]


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Fork]:
    world = World(tmp_path, {"experiment.yaml": SPEC, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"})
    fake = FakeGitHub()
    with fake.running():
        yield Fork(world, fake)


def test_fork__untrusted_half__runs_nothing_and_writes_no_secret_anywhere(fork):
    folder = fork.world.folder
    plan = fork.untrusted("--job", "plan", "--out", str(folder / "plan"))
    assert (plan.code, plan.outputs["run"]) == (ExitCode.OK, "false"), plan.err
    run = fork.untrusted("--job", "run", "--plan", str(folder / "plan"), "--out", str(folder / "raw"))
    whole = fork.untrusted()

    assert (run.trained, whole.trained, fork.world.ledger(), fork.left()) == (0, 0, [], [])
    assert fork.writes() == [call for call in fork.writes() if call == "POST /graphql"]
    for text in (done.out + done.err + done.summary + str(done.outputs) for done in (plan, run, whole)):
        assert CANARY not in text
        assert "ghs_" not in text
        assert not any(line.startswith(("::set-output", "::add-mask")) for line in text.splitlines())


def test_fork__trusted_half__tells_the_change_with_that_head_and_spends_nothing(fork):
    done = fork.trusted()

    assert (done.code, done.trained, fork.world.ledger(), fork.left()) == (ExitCode.OK, 0, [], []), done.err
    (comment,) = fork.fake.comments
    assert (comment.pull, comment.login) == (7, "github-actions[bot]")
    assert "policy trains no change from a fork" in comment.body
    assert {(one["sha"], one["state"]) for one in fork.fake.statuses} == {(fork.head, "failure")}
    for text in (comment.body, done.summary, done.out):
        assert "<img" not in text
        assert "<script" not in text
        assert CANARY not in text
    assert "@everyone" not in comment.body

    assert fork.trusted().code == ExitCode.OK
    assert len(fork.fake.comments) == 1


@pytest.mark.parametrize("how", ["closed", "moved"])
def test_fork__change_closed_or_moved_meanwhile__nothing_is_said(fork, how):
    if how == "closed":
        fork.fake.pulls[7].state = "closed"
    else:
        fork.fake.pulls[7].head = "e" * 40
    done = fork.trusted()

    assert (done.code, done.outputs["verdict"]) == (ExitCode.OK, "nothing")
    assert (fork.fake.comments, fork.fake.statuses) == ([], [])


def test_fork__results_it_brings_itself__are_not_taken(fork):
    raw = fork.world.folder / "raw"
    raw.mkdir()
    (raw / "handover.json").write_text(json.dumps({"schema": "gitops-ml/handover/v1", "records": {}, "failed": []}))
    done = fork.trusted("--from", str(raw), "--digest", "0" * 64)

    assert (done.code, fork.world.ledger(), fork.fake.comments) == (ExitCode.DENIED, [], [])
    assert "so no results are taken" in done.err


def test_fork__spec_that_is_invalid__is_said_in_the_log_without_being_obeyed(fork):
    git(fork.world.work, "switch", "-q", BRANCH)
    fork.head = fork.fake.pulls[7].head = fork.world.push({"experiment.yaml": f"'{METRIC}': 1\n"}, BRANCH)
    git(fork.world.work, "push", "-q", "-f", "origin", "HEAD:refs/pull/7/head")
    done = fork.trusted()

    assert (done.code, done.outputs["verdict"]) == (ExitCode.FINDINGS, "invalid")
    assert not any(line.startswith("::set-output") for line in (done.out + done.err).splitlines())
    assert fork.fake.comments == []

"""``gitops-ml ci`` on what people and clocks ask for: labels, cancels, schedules, ceilings, 40 experiments at once."""

import html
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.commands._jobs import Known, known_jobs
from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import BETTER, HOME, SPEC, TRAIN, PricedTools, Result, World, comment_payload, pull_payload
from tests.fakes.github import FakeGitHub
from tests.fakes.repositories import ENVIRON, git

ASKS = "triggers: {change: plan}\n"
FILES = {"experiment.yaml": SPEC + ASKS, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"}
SMALL = """
version: 1
name: {name}
run: "printf '{{\\"accuracy\\":0.%s}}' ${{params.rate}} > metrics.json"
code: {{include: [code.sh]}}
params: {{rate: {rate}}}
metrics: {{read: [metrics.json], track: [{{name: accuracy, goal: maximize, gate: warn}}]}}
"""


@pytest.fixture
def github(tmp_path: Path) -> Iterator[tuple[World, str, FakeGitHub]]:
    """A change that trains only when asked for."""
    world = World(tmp_path, FILES)
    fake = FakeGitHub()
    head = fake.pulls[7].head = world.push({"experiment.yaml": BETTER + ASKS})
    with fake.running():
        yield world, head, fake


def on_github(world: World, fake: FakeGitHub, payload: dict, name: str = "pull_request") -> Result:
    environ = {"GITHUB_API_URL": fake.url, "GITHUB_REPOSITORY": fake.repository, "GITHUB_TOKEN": "ghs_canary0"}
    return world.ci(name, payload, "--forge", "github", **environ)


def labelled(head: str, by: str, label: str = "gitops-ml/run") -> dict:
    return {**pull_payload(head, "labeled"), "label": {"name": label}, "sender": {"login": by}}


def commits_of_records(world: World) -> set[str]:
    paths = [path for path in world.ledger() if path.endswith("record.json")]
    return {json.loads(git(world.remote, "show", f"gitops-ml/reports:{path}"))["commit"] for path in paths}


# Labels


def test_ci__label_by_a_writer__trains_this_head_and_not_the_next(github):
    world, head, fake = github
    assert on_github(world, fake, labelled(head, "rob", "bug")).trained == 0
    reader = on_github(world, fake, labelled(head, "stranger"))
    assert (reader.code, reader.trained, world.ledger()) == (ExitCode.DENIED, 0, [])
    assert "`stranger` may not approve this" in reader.err

    done = on_github(world, fake, labelled(head, "rob"))
    assert (done.code, done.trained, done.outputs["verdict"]) == (ExitCode.OK, 6, "pass"), done.err
    assert commits_of_records(world) == {head, world.main()}

    # The label is still on the change: it says nothing about what was pushed after it.
    later = fake.pulls[7].head = world.push({"train.py": TRAIN + "# other\n"})
    pushed = on_github(world, fake, pull_payload(later))
    assert (pushed.code, pushed.trained) == (ExitCode.OK, 0)
    assert later not in commits_of_records(world)


def test_ci__stranger_names_the_commit_then_a_writer_does__only_the_writers_trains_it(github):
    world, head, fake = github
    words = comment_payload(f"/gitops-ml run --sha {head}", "stranger")
    refused = on_github(world, fake, words, "issue_comment")
    assert (refused.code, refused.trained, world.ledger()) == (ExitCode.DENIED, 0, [])

    done = on_github(world, fake, comment_payload(f"/gitops-ml run --sha {head}", "rob"), "issue_comment")
    assert (done.code, done.trained) == (ExitCode.OK, 6), done.err
    assert commits_of_records(world) == {head, world.main()}


@pytest.mark.parametrize("words", ["rerun --sha {head}", "rerun", "run", "run --sha " + "e" * 40])
def test_ci__free_training_that_a_stranger_asks_for__is_not_trained_and_says_nothing_else(tmp_path, words):
    world = World(tmp_path, {**FILES, "experiment.yaml": SPEC})
    fake = FakeGitHub()
    head = fake.pulls[7].head = world.push({"experiment.yaml": BETTER})
    with fake.running():
        assert on_github(world, fake, pull_payload(head)).trained == 6
        before = list(fake.statuses), world.ledger(), fake.by("github-actions[bot]")
        asked = comment_payload(f"/gitops-ml {words.format(head=head)}", "stranger")
        refused = on_github(world, fake, asked, "issue_comment")
        comments = fake.by("github-actions[bot]")

    assert (refused.code, refused.trained) == (ExitCode.DENIED, 0)
    assert (list(fake.statuses), world.ledger(), comments[:1]) == before
    assert len(comments) == 2, "the answer, beside the comparison"


# What is still at work


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[World, Tools]]:
    """A change whose training goes on, beside one of the target branch that it is compared with."""
    long = SMALL.format(name="digits", rate=1).replace("run: ", "run: sleep 60 # ")
    files = {"experiment.yaml": long, "code.sh": "", ".gitignore": ".gitops-ml/\n"}
    world = World(tmp_path, files)
    world.push({"experiment.yaml": long.replace("rate: 1", "rate: 2")})
    place = tmp_path / "runner"
    git(tmp_path, "clone", "-q", "-b", "wider", world.remote.as_uri(), str(place))
    tools = Tools(cwd=place, environ={**ENVIRON, "USER": "dana"}, out=io.StringIO(), err=io.StringIO())
    assert main(["run", "--detach"], tools) == ExitCode.OK
    looking = Tools(cwd=place, environ=ENVIRON)
    yield world, looking
    for known in at_work(looking):
        known.backend.cancel(known.job.key)
    looking.close()


def at_work(tools: Tools) -> list[Known]:
    return [known for known in known_jobs(tools) if not known.status.state.final]


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("issue_comment", lambda head: comment_payload("/gitops-ml cancel digits")),
        ("pull_request", lambda head: pull_payload(head, "closed")),
    ],
)
def test_ci__cancel_and_close__end_what_is_of_the_change_alone(live, name, payload):
    world, tools = live
    assert len(at_work(tools)) == 2
    done = world.ci(name, payload(git(world.remote, "rev-parse", "wider")), keep="runner")

    assert done.code == ExitCode.OK, done.err
    assert "1 training ended" in done.out
    (left,) = at_work(tools)
    assert left.job.params == {"rate": 1}, "the target branch's own training goes on"


def test_ci__cancel_by_a_stranger__ends_nothing(live):
    world, tools = live
    done = world.ci("issue_comment", comment_payload("/gitops-ml cancel", "stranger"), keep="runner")

    assert done.code == ExitCode.DENIED
    assert "`stranger` may not cancel: it takes write permission" in done.err
    assert len(at_work(tools)) == 2


@pytest.mark.parametrize("job", ["plan", "publish"])
@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("issue_comment", lambda _: comment_payload("/gitops-ml cancel")),
        ("pull_request", lambda head: pull_payload(head, "closed")),
    ],
)
def test_ci__cancel_and_close_in_jobs_of_their_own__say_so_to_the_one_that_trains(tmp_path, name, payload, job):
    world = World(tmp_path, FILES)
    head = world.push({"experiment.yaml": "no spec"})  # which keeps nobody from closing it
    git(tmp_path, "clone", "-q", "-b", "wider", world.remote.as_uri(), str(tmp_path / "runner"))
    done = world.ci(name, payload(head), "--job", job, keep="runner")

    assert (done.code, done.outputs["end"], done.outputs.get("run")) == (ExitCode.OK, "true", None), done.err
    answer = tmp_path / "runner/.gitops-ml/comment-default.answer.md"
    assert answer.exists() is (job == "publish" and name == "issue_comment")


@pytest.mark.parametrize(
    ("author", "words", "why"),
    [
        ("stranger", "cancel", "`stranger` may not cancel: it takes write permission"),
        ("dana", "cancel digits", "jobs of their own train all experiments of a change: `/gitops-ml cancel` ends all"),
    ],
)
def test_ci__cancel_that_cannot_be__ends_nothing_and_is_answered(tmp_path, author, words, why):
    world = World(tmp_path, FILES)
    world.push({"experiment.yaml": BETTER})
    git(tmp_path, "clone", "-q", "-b", "wider", world.remote.as_uri(), str(tmp_path / "runner"))
    plan, publish = (
        world.ci("issue_comment", comment_payload(f"/gitops-ml {words}", author), "--job", job, keep="runner")
        for job in ("plan", "publish")
    )

    assert (plan.code, plan.outputs.get("end")) == (ExitCode.DENIED, None)
    assert why in plan.err
    answer = (tmp_path / "runner/.gitops-ml/comment-default.answer.md").read_text()
    assert why.replace("`", "") in html.unescape(answer.replace("<code>", "").replace("</code>", ""))
    assert publish.code == ExitCode.DENIED


class _Impatient:
    """A backend during whose first look at started trainings the job is cancelled."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._started = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def submit(self, trial: Any, bundle: Any) -> Any:
        self._started = True
        return self._backend.submit(trial, bundle)

    def poll(self, keys: Any) -> Any:
        if self._started:
            self._started = False
            raise KeyboardInterrupt
        return self._backend.poll(keys)


class _CancelledTools(Tools):
    def backend(self, name: str) -> Any:
        return self.__dict__.setdefault("impatient", _Impatient(super().backend(name)))


def test_ci__job_cancelled_while_it_trains__ends_its_status_and_keeps_what_it_cost(tmp_path):
    world = World(tmp_path, {**FILES, "experiment.yaml": SPEC, "train.py": "import time\ntime.sleep(60)\n"})
    head = world.push({"experiment.yaml": BETTER})
    world.tools = _CancelledTools
    done = world.changed(head)

    assert (done.code, done.outputs["verdict"]) == (ExitCode.INTERRUPTED, "interrupted"), done.err
    assert done.comment == ""
    assert done.statuses[head]["gitops-ml/digits"] == {
        "state": "error",
        "text": "cancelled before there was a result; push again, or comment /gitops-ml run",
        "url": "https://github.example/acme/vision/actions/runs/1001",
    }
    paths = world.ledger()
    assert paths
    assert all(path.startswith("attempts/") for path in paths if path != "README.md"), paths


def test_ci__started_by_hand_on_the_target_branch__trains_what_has_no_record(tmp_path):
    world = World(tmp_path, FILES)
    done = world.ci("workflow_dispatch", {"repository": HOME}, GITHUB_SHA=world.main(), GITHUB_REF_NAME="main")

    assert (done.code, done.trained) == (ExitCode.OK, 3), done.err


# Ceilings


def test_ci__forced_pushes__do_not_reset_what_the_change_has_spent(tmp_path):
    one = SPEC.replace("seeds: [0, 1, 2]", "seeds: [0]")
    policy = "policy: {auto_run_below: 100 USD, max_cost_per_change: 10 USD}\n"
    world = World(tmp_path, {**FILES, "experiment.yaml": one, "gitops-ml.yaml": policy})
    world.tools = PricedTools
    assert world.pushed(world.main()).outputs["cost-usd"] == "4.0000"

    results = []
    for rate in ("0.3", "0.15", "0.1"):
        git(world.work, "branch", "-q", "-f", "wider", "main")
        git(world.work, "switch", "-q", "wider")
        (world.work / "experiment.yaml").write_text(one.replace("lr: 0.2", f"lr: {rate}"))
        git(world.work, "commit", "-q", "-a", "-m", f"rate {rate}")
        git(world.work, "push", "-q", "-f", "origin", "wider")
        results.append(world.changed(git(world.work, "rev-parse", "HEAD")))
        git(world.work, "switch", "-q", "main")

    assert [result.trained for result in results] == [1, 1, 0], results[1].out
    assert results[2].code == ExitCode.DENIED
    assert "with it this change may cost up to 12" in results[2].out


def test_ci__change_that_raises_its_own_budget__is_held_to_the_targets(tmp_path):
    one = SPEC.replace("seeds: [0, 1, 2]", "seeds: [0]")
    policy = "policy: {auto_run_below: 100 USD}\n"
    world = World(tmp_path, {**FILES, "experiment.yaml": one + "budget: {max_cost: 5 USD}\n", "gitops-ml.yaml": policy})
    world.tools = PricedTools
    world.pushed(world.main())
    more = BETTER + "budget: {max_cost: 1000 USD}\n"
    change = world.changed(world.push({"experiment.yaml": more}))

    assert (change.code, change.trained) == (ExitCode.DENIED, 0)
    assert "it may cost up to 12.00 USD, and its `budget.max_cost` is 5.00 USD" in change.out
    assert "`digits`: this change edits `budget`; the target branch's rules decide" in change.out


def test_ci__change_from_an_old_commit_with_a_looser_policy__is_held_to_todays(tmp_path):
    loose = "policy: {auto_run_below: 1000 USD, secrets: [TOKEN]}\n"
    world = World(tmp_path, {**FILES, "experiment.yaml": SPEC, "gitops-ml.yaml": loose})
    world.tools = PricedTools
    git(world.work, "switch", "-q", "-c", "wider")
    git(world.work, "switch", "-q", "main")
    world.push({"gitops-ml.yaml": "policy: {auto_run_below: 1 USD}\n"}, "main")
    head = world.push({"experiment.yaml": BETTER})
    assert loose.strip() == git(world.work, "show", f"{head}:gitops-ml.yaml")
    change = world.changed(head)

    assert (change.code, change.trained, world.ledger()) == (ExitCode.DENIED, 0, []), change.err
    assert "policy trains only plans below 1.00 USD without approval" in change.out
    secret = world.changed(world.push({"experiment.yaml": BETTER + "environment: {secrets: [TOKEN]}\n"}), TOKEN="x")
    assert "policy does not allow the secret `TOKEN`" in secret.out


# 40 experiments


def test_ci__40_experiments__adopted_as_far_as_policy_goes_then_a_change_of_one_trains_one(tmp_path):
    world = World(tmp_path, {"code.sh": "", "gitops-ml.yaml": "policy: {auto_run_below: 13 USD}\n"})
    world.tools = PricedTools
    specs = {f"experiments/e{n:02}.yaml": SMALL.format(name=f"e{n:02}", rate=100 + n) for n in range(40)}
    adopted = world.changed(world.push({**specs, ".gitignore": ".gitops-ml/\n"}))

    assert (adopted.code, adopted.trained) == (ExitCode.DENIED, 3), adopted.err
    left = [n for n in range(40) if f"`e{n:02}` is not trained: " in adopted.out]
    assert left == list(range(3, 40))
    assert "<code>e03</code> is not trained" in adopted.comment
    assert "more, in the job" in adopted.comment

    world.merge()
    world.tools = Tools
    rest = world.pushed(world.main())
    assert (rest.code, rest.trained) == (ExitCode.OK, 37), rest.err
    one = {"experiments/e17.yaml": SMALL.format(name="e17", rate=999)}
    change = world.changed(world.push(one))
    assert (change.code, change.trained) == (ExitCode.OK, 1), change.err
    assert "e17: " in change.comment
    assert not any(f"e{n:02}: " in change.comment for n in range(40) if n != 17)
    assert len([path for path in world.ledger() if path.endswith("record.json")]) == 41

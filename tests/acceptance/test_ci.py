"""``gitops-ml ci`` from the event to the ledger, on real repositories with real trainings on this machine."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import (
    BETTER,
    HOME,
    SPEC,
    TRAIN,
    WORSE,
    PricedTools,
    Result,
    World,
    comment_payload,
    pull_payload,
)
from tests.fakes.github import FakeGitHub
from tests.fakes.repositories import ENVIRON, git


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {"experiment.yaml": SPEC, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"})


def test_ci__change_then_merge__trains_compares_and_promotes_without_training(world):
    first = world.pushed(world.main())
    assert (first.code, first.trained) == (ExitCode.OK, 3), first.err

    head = world.push({"experiment.yaml": BETTER})
    change = world.changed(head)
    assert (change.code, change.trained) == (ExitCode.OK, 3), change.err
    assert change.outputs["verdict"] == "pass"
    assert change.outputs["report-url"].startswith("https://github.example/acme/vision/blob/")
    assert change.statuses[head]["gitops-ml/digits"]["state"] == "success"
    assert "digits: better" in change.comment
    assert "accuracy" in change.summary

    again = world.changed(head)
    assert (again.code, again.trained) == (ExitCode.OK, 0)
    assert again.outputs["verdict"] == "pass"

    before = world.main()
    merged = world.pushed(world.merge(), before=before)
    assert (merged.code, merged.trained) == (ExitCode.OK, 0), merged.err
    assert any(path.startswith(f"reports/digits/{world.main()[:12]}") for path in world.ledger())
    records = [
        json.loads(git(world.remote, "show", f"gitops-ml/reports:{p}")) for p in world.ledger() if "record.json" in p
    ]
    assert {(one["attempt"]["origin"]["kind"], len(records)) for one in records} == {("ci", 6)}


def test_ci__worse_change__fails(world):
    world.pushed(world.main())
    head = world.push({"experiment.yaml": WORSE})
    change = world.changed(head)

    assert (change.code, change.outputs["verdict"]) == (ExitCode.FINDINGS, "fail")
    assert change.statuses[head]["gitops-ml/digits"]["state"] == "failure"


def test_ci__one_run_per_side__is_tested_with_the_noise_of_earlier_runs(tmp_path):
    spec = SPEC.replace("[0, 1, 2]", "[0]")
    many = spec.replace("[0]", str(list(range(12)))).replace("lr: 0.2", "lr: 0.3")
    world = World(tmp_path, {"experiment.yaml": many, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"})
    world.pushed(world.main())
    before = world.main()
    git(world.work, "switch", "-q", "main")
    world.push({"experiment.yaml": spec}, branch="main")
    world.pushed(world.main(), before=before)
    head = world.push({"experiment.yaml": WORSE.replace("[0, 1, 2]", "[0]")})

    change = world.changed(head)
    again = world.changed(head)

    assert (change.code, change.outputs["verdict"]) == (ExitCode.FINDINGS, "fail"), change.err
    told = "noise pooled with earlier runs (11 degrees of freedom)"
    assert (told in change.summary, told in again.summary, again.trained) == (True, True, 0)


def test_ci__training_that_prints_commands__is_not_obeyed(world):
    run = world.pushed(world.main())
    lines = run.err.splitlines()
    stop = next(line for line in lines if line.startswith("::stop-commands::"))
    end = f"::{stop.removeprefix('::stop-commands::')}::"

    assert all(lines.index(stop) < number < lines.index(end) for number, line in enumerate(lines) if "add-mask" in line)


# What a change gains by editing the rules: nothing before it is merged


def test_ci__change_that_loosens_its_own_gate__fails_by_the_targets(world):
    world.pushed(world.main())
    loose = WORSE.replace("goal: maximize, gate: fail, tolerance: 0.001", "goal: maximize, gate: off, tolerance: 5")
    head = world.push({"experiment.yaml": loose + "baseline: {ref: wider, at: tip, missing: warn}\n"})
    change = world.changed(head)

    assert (change.code, change.outputs["verdict"]) == (ExitCode.FINDINGS, "fail")
    assert "`digits`: this change edits `metrics.track`, `baseline`; the target branch's rules decide" in change.out


def test_ci__change_that_renames_the_experiment_in_its_file__fails_by_the_targets_gate(world):
    world.pushed(world.main())
    head = world.push(
        {"experiment.yaml": WORSE.replace("name: digits", "name: fresh").replace("gate: fail", "gate: off")}
    )

    assert world.changed(head).outputs["verdict"] == "fail"


def test_ci__change_that_hides_the_target_spec_behind_other_globs__fails_by_its_gate(world):
    world.pushed(world.main())
    git(world.work, "switch", "-q", "-c", "wider")
    git(world.work, "mv", "experiment.yaml", "elsewhere.yaml")
    loose = WORSE.replace("gate: fail", "gate: off")
    head = world.push({"elsewhere.yaml": loose, "gitops-ml.yaml": "specs: [elsewhere.yaml]\n"})

    assert world.changed(head).outputs["verdict"] == "fail"


def test_ci__change_that_edits_the_policy__is_denied_by_the_targets(world):
    git(world.work, "switch", "-q", "main")
    world.push({"gitops-ml.yaml": "policy: {backends: [slurm]}\n"}, "main")
    head = world.push({"experiment.yaml": BETTER, "gitops-ml.yaml": "policy: {backends: [local]}\n"})
    change = world.changed(head)

    assert (change.code, change.trained, change.outputs["verdict"]) == (ExitCode.DENIED, 0, "denied")
    assert change.statuses[head]["gitops-ml/digits"] == {"state": "failure", "text": "refused by policy", "url": None}
    assert "policy does not allow the backend <code>local</code>" in change.comment
    assert "on the target branch first" in change.comment


def test_ci__change_from_before_the_policy__is_held_to_todays(world):
    git(world.work, "switch", "-q", "-c", "wider")
    git(world.work, "switch", "-q", "main")
    world.push({"gitops-ml.yaml": "policy: {backends: [slurm]}\n"}, "main")
    head = world.push({"experiment.yaml": BETTER})

    assert "gitops-ml.yaml" not in git(world.work, "ls-tree", "--name-only", head).splitlines()
    assert (world.changed(head).code, world.ledger()) == (ExitCode.DENIED, [])


def test_ci__change_to_a_branch_with_a_looser_policy__is_held_to_the_default_branchs(world):
    world.push({"gitops-ml.yaml": "policy: {backends: [slurm]}\n"}, "main")
    world.push({"gitops-ml.yaml": "policy: {backends: [local]}\n"}, "loose")
    head = world.push({"experiment.yaml": BETTER})
    payload = pull_payload(head)
    payload["pull_request"]["base"]["ref"] = "loose"
    change = world.ci("pull_request", payload)

    assert (change.code, change.trained) == (ExitCode.DENIED, 0)
    assert "policy does not allow the backend `local`" in change.out


def test_ci__change_that_moves_ledger_and_storage__writes_where_the_target_says(world):
    world.pushed(world.main())
    head = world.push(
        {"experiment.yaml": BETTER, "gitops-ml.yaml": "ledger: {branch: mine}\nstorage: /tmp/stolen\nbackend: local\n"}
    )
    change = world.changed(head)

    assert change.code == ExitCode.OK
    assert git(world.remote, "for-each-ref", "--format=%(refname)", "refs/heads/mine") == ""
    assert any(path.startswith(f"reports/digits/{head[:12]}") for path in world.ledger())


def test_ci__change_that_names_a_secret__is_denied_even_if_approved(world):
    head = world.push({"experiment.yaml": BETTER + "environment: {secrets: [TOKEN]}\n"})
    change = world.changed(head, "--approved-by-environment", TOKEN="canary-0451")

    assert change.code == ExitCode.DENIED
    assert "policy does not allow the secret `TOKEN`" in change.out
    assert not any("canary" in text for text in (change.out, change.err, change.comment, change.summary))


def test_ci__laptop_record_on_the_ledger__gates_nothing_in_ci(world):
    world.pushed(world.main())
    head = world.push({"experiment.yaml": BETTER})
    laptop = world.folder / "laptop"
    git(world.folder, "clone", "-q", "-b", "wider", world.remote.as_uri(), str(laptop))
    for words in (["run"], ["report", "--push"]):
        tools = Tools(cwd=laptop, environ=dict(ENVIRON), out=io.StringIO(), err=io.StringIO())
        assert main(words, tools) == ExitCode.OK
    change = world.changed(head)

    assert (change.code, change.trained) == (ExitCode.OK, 3)
    assert "its record was not made in CI" in change.summary
    assert world.changed(head).trained == 0


# Events that spend nothing


def test_ci__fork__is_planned_and_nothing_more(world):
    head = world.push({"experiment.yaml": BETTER})
    fork = world.ci("pull_request", pull_payload(head, fork=True))

    assert (fork.code, fork.trained, fork.statuses, fork.comment, world.ledger()) == (0, 0, {}, "", [])


def test_ci__draft__is_planned_in_thecomment_payload(world):
    head = world.push({"experiment.yaml": BETTER})
    draft = world.ci("pull_request", pull_payload(head, draft=True))

    assert (draft.code, draft.trained, draft.outputs["verdict"]) == (ExitCode.OK, 0, "planned")
    assert "a draft: plan only" in draft.comment
    assert world.ledger() == []


def test_ci__default_branch_of_another_name__is_what_a_spec_means_that_names_none(world):
    home = {**HOME, "default_branch": "trunk"}

    def pushed(head, branch, before="0" * 40):
        payload = {"ref": f"refs/heads/{branch}", "before": before, "after": head, "repository": home}
        return world.ci("push", payload)

    first = world.push({"notes.md": "of trunk"}, "trunk")
    beside = pushed(world.main(), "main")
    assert (beside.code, beside.trained) == (ExitCode.OK, 0), beside.err
    assert beside.out.startswith("pushed to a branch: plan only")
    assert pushed(first, "trunk").trained == 3
    second = pushed(world.push({"experiment.yaml": BETTER}, "trunk"), "trunk", before=first)
    assert (second.code, second.trained, second.outputs["verdict"]) == (ExitCode.OK, 3, "pass"), second.err


def test_ci__invalid_spec__is_annotated_on_its_line(world):
    head = world.push({"experiment.yaml": SPEC + "sed: 3\n"})
    change = world.changed(head)

    assert (change.code, change.outputs["verdict"]) == (ExitCode.FINDINGS, "invalid")
    assert "::error file=experiment.yaml,line=11,col=1,title=unknown-key::" in change.out


def test_ci__remote_gone__trains_nothing(world):
    head = world.push({"experiment.yaml": BETTER})
    world.ci("pull_request", pull_payload(head, fork=True), keep="runner")
    shutil.move(world.remote, world.folder / "gone.git")
    change = world.changed(head, keep="runner")

    assert (change.code, change.trained) == (ExitCode.SERVICE, 0)


@pytest.mark.parametrize(("trained", "code", "state"), [(True, 0, "success"), (False, ExitCode.DENIED, "failure")])
def test_ci__merge_queue__takes_the_verdict_of_the_same_content(world, trained, code, state):
    head = world.push({"experiment.yaml": BETTER})
    if trained:
        world.changed(head)
    git(world.work, "switch", "-q", "-c", "queue", "main")
    git(world.work, "merge", "-q", "--no-ff", "-m", "queued", "wider")
    git(world.work, "push", "-q", "origin", "queue")
    queued = git(world.work, "rev-parse", "HEAD")
    group = {"head_sha": queued, "head_ref": "refs/heads/queue", "base_ref": "refs/heads/main"}
    payload = {"action": "checks_requested", "merge_group": group, "repository": HOME}
    done = world.ci("merge_group", payload)

    assert (done.code, done.trained) == (code, 0)
    assert done.statuses[queued]["gitops-ml/digits"]["state"] == state


def test_ci__branch_without_a_change__is_planned_and_nothing_more(world):
    head = world.push({"experiment.yaml": BETTER})
    done = world.pushed(head, "wider")

    assert (done.code, done.trained, done.statuses, world.ledger()) == (ExitCode.OK, 0, {}, [])


def test_ci__closed_change__has_nothing_left_to_end(world):
    head = world.push({"experiment.yaml": BETTER})
    done = world.ci("pull_request", pull_payload(head, "closed"))

    assert (done.code, done.trained) == (ExitCode.OK, 0)
    assert "0 trainings ended" in done.out


# Commands


@pytest.fixture
def asked(world: World) -> tuple[World, str]:
    """A change that trains only when asked for, with its head checked out as the local forge has it."""
    world.push({"experiment.yaml": SPEC + "triggers: {change: plan}\n"}, "main")
    head = world.push({"experiment.yaml": BETTER + "triggers: {change: run}\n"})
    git(world.folder, "clone", "-q", "-b", "wider", world.remote.as_uri(), str(world.folder / "runner"))
    return world, head


def test_ci__run_command__trains_exactly_the_commit_it_names(asked):
    world, head = asked
    assert world.changed(head, keep="runner").trained == 0

    done = world.ci("issue_comment", comment_payload(f"/gitops-ml run digits --sha {head}"), keep="runner")
    assert (done.code, done.trained) == (ExitCode.OK, 6), done.err


@pytest.mark.parametrize(
    ("body", "author", "why"),
    [
        ("/gitops-ml run --sha {head}", "stranger", "`stranger` may not approve this"),
        ("/gitops-ml run --sha " + "e" * 40, "dana", "the approval is for `eeeeeeeeeeee`"),
    ],
)
def test_ci__run_command_that_does_not_count__trains_nothing_and_says_why(asked, body, author, why):
    world, head = asked
    done = world.ci("issue_comment", comment_payload(body.format(head=head), author), keep="runner")

    assert (done.code, done.trained, done.outputs["verdict"]) == (ExitCode.DENIED, 0, "denied")
    assert why in done.err
    assert why.replace("`", "") in done.summary.replace("<code>", "").replace("</code>", "")


def test_ci__run_command_without_a_commit__is_answered_with_the_whole_line(asked):
    world, head = asked
    done = world.ci("issue_comment", comment_payload("/gitops-ml run"), keep="runner")
    answer = (world.folder / "runner" / ".gitops-ml" / "comment-default.answer.md").read_text()

    assert (done.code, done.trained) == (ExitCode.DENIED, 0)
    assert f"/gitops-ml run --sha {head}" in done.err
    assert head in answer


def test_ci__run_command_that_names_no_experiment__is_answered(asked):
    world, head = asked
    done = world.ci("issue_comment", comment_payload(f"/gitops-ml run digit --sha {head}"), keep="runner")
    answer = (world.folder / "runner" / ".gitops-ml" / "comment-default.answer.md").read_text()

    assert (done.code, done.trained) == (ExitCode.USAGE, 0)
    assert "no experiment is called <code>digit</code>" in answer


def test_ci__help_command__is_answered(asked):
    world, _ = asked
    done = world.ci("issue_comment", comment_payload("/gitops-ml dance"), keep="runner")

    assert done.code == ExitCode.OK
    assert "there is no command `dance`" in done.out


# Three jobs


def _three(world: World, head: str) -> tuple[Result, Result]:
    plan = world.changed(head, "--job", "plan", "--out", str(world.folder / "plan"))
    assert (plan.code, plan.outputs["run"]) == (ExitCode.OK, "true"), plan.err
    options = ("--job", "run", "--plan", str(world.folder / "plan"), "--out", str(world.folder / "raw"))
    return plan, world.changed(head, *options)


def _publish(world: World, head: str, digest: str) -> Result:
    return world.changed(head, "--job", "publish", "--from", str(world.folder / "raw"), "--digest", digest)


def test_ci__three_jobs__publish_what_the_second_measured(world):
    head = world.push({"experiment.yaml": BETTER})
    _, run = _three(world, head)
    assert (run.code, run.trained, run.statuses, run.comment, world.ledger()) == (0, 6, {}, "", [])

    done = _publish(world, head, run.outputs["digest"])
    assert (done.code, done.trained, done.outputs["verdict"]) == (ExitCode.OK, 0, "pass"), done.err
    assert "digits: better" in done.comment
    assert len([path for path in world.ledger() if path.endswith("record.json")]) == 6


def test_ci__three_jobs__a_sweeps_confirmed_winner_is_published_too(world):
    sweep = SPEC.replace("seeds: [0, 1, 2]", "seeds: [0]") + "sweep: {grid: {lr: [0.3, 0.1]}, confirm: {seeds: [7]}}\n"
    head = world.push({"experiment.yaml": sweep})
    _, run = _three(world, head)
    done = _publish(world, head, run.outputs["digest"])

    assert (run.code, done.code) == (ExitCode.OK, ExitCode.OK), run.err + done.err
    records = [path for path in world.ledger() if path.endswith("record.json")]
    seeds = [json.loads(git(world.remote, "show", f"gitops-ml/reports:{path}"))["seed"] for path in records]
    # Two points and the baseline's three runs, and the winner on its fresh seed.
    assert sorted(seeds) == [0, 0, 0, 1, 2, 7]


def test_ci__training_that_fails__is_published_with_its_log(world):
    head = world.push({"experiment.yaml": BETTER, "train.py": "import sys\nsys.exit('out of luck')\n"})
    plan = world.changed(head, "--job", "plan", "--out", str(world.folder / "plan"))
    options = ("--job", "run", "--plan", str(world.folder / "plan"), "--out", str(world.folder / "raw"))
    run = world.changed(head, *options)
    assert (plan.code, run.code, run.outputs["verdict"]) == (ExitCode.OK, ExitCode.TRIAL_FAILED, "failed")

    done = _publish(world, head, run.outputs["digest"])
    assert (done.code, done.outputs["verdict"]) == (ExitCode.FINDINGS, "fail"), done.err
    assert "out of luck" in done.comment
    assert len([path for path in world.ledger() if path.startswith("attempts/")]) == 3


def test_ci__training_that_its_environment_approved_and_that_fails__waits_for_nobody(world):
    world.tools = PricedTools
    head = world.push({"experiment.yaml": BETTER, "train.py": "import sys\nsys.exit('out of luck')\n"})
    yes = "--approved-by-environment"
    plan = world.changed(head, "--job", "plan", "--out", str(world.folder / "plan"), yes)
    options = ("--job", "run", "--plan", str(world.folder / "plan"), "--out", str(world.folder / "raw"), yes)
    run = world.changed(head, *options)
    assert (plan.code, plan.outputs["run"], run.code) == (ExitCode.OK, "true", ExitCode.TRIAL_FAILED), run.err

    options = ("--job", "publish", "--from", str(world.folder / "raw"), "--digest", run.outputs["digest"], yes)
    done = world.changed(head, *options)
    assert done.statuses[head]["gitops-ml/digits"]["state"] == "failure", done.statuses
    assert "out of luck" in done.comment


def test_ci__outputs_changed_on_the_way__are_not_published(world):
    head = world.push({"experiment.yaml": WORSE})
    _, run = _three(world, head)
    for file in (world.folder / "raw" / "outputs").glob("*/metrics.json"):
        file.write_text('{"accuracy": 1.0}')
    done = _publish(world, head, run.outputs["digest"])

    assert (done.code, world.ledger(), done.comment) == (ExitCode.DENIED, [], "")
    assert "somebody changed it on the way" in done.err


def test_ci__target_moved_after_the_plan__trains_nothing(world):
    head = world.push({"experiment.yaml": BETTER})
    plan = world.changed(head, "--job", "plan", "--out", str(world.folder / "plan"))
    assert plan.code == ExitCode.OK
    git(world.work, "switch", "-q", "main")
    world.push({"gitops-ml.yaml": "policy: {backends: [local]}\n"}, "main")
    options = ("--job", "run", "--plan", str(world.folder / "plan"), "--out", str(world.folder / "raw"))
    run = world.changed(head, *options)

    assert (run.code, run.trained) == (ExitCode.DENIED, 0)
    assert "the plan is for another target and policy than there is now; plan again" in run.err


# On GitHub


@pytest.fixture
def github(asked: tuple[World, str]) -> Iterator[tuple[World, str, FakeGitHub]]:
    world, head = asked
    fake = FakeGitHub()
    fake.pulls[7].head = head
    with fake.running():
        yield world, head, fake


def _on_github(world: World, fake: FakeGitHub, name: str, payload: dict[str, Any]) -> Result:
    environ = {"GITHUB_API_URL": fake.url, "GITHUB_REPOSITORY": fake.repository, "GITHUB_TOKEN": "ghs_canary0"}
    return world.ci(name, payload, "--forge", "github", keep="runner", **environ)


def test_ci__on_github__a_writers_run_command_means_the_commit_of_our_lastcomment_payload(github):
    world, head, fake = github
    plan = _on_github(world, fake, "pull_request", pull_payload(head))
    assert (plan.code, plan.trained) == (ExitCode.OK, 0), plan.err
    assert [status["state"] for status in fake.statuses] == ["pending"]

    stranger = _on_github(world, fake, "issue_comment", comment_payload("/gitops-ml run", "stranger"))
    assert (stranger.code, stranger.trained) == (ExitCode.DENIED, 0)
    assert "they have read" in stranger.err

    done = _on_github(world, fake, "issue_comment", comment_payload("/gitops-ml run", "rob"))
    assert (done.code, done.trained, done.outputs["verdict"]) == (ExitCode.OK, 6, "pass"), done.err
    comment, answer = fake.by("github-actions[bot]")
    assert "they have read" in answer.body
    assert "digits: better" in comment.body
    assert fake.statuses[-1]["state"] == "success"
    assert not any("canary" in text for text in (done.out, done.err, done.summary, comment.body))


def _states(fake: FakeGitHub) -> list[tuple[str, str, str]]:
    return [(one["context"], one["state"], one["description"]) for one in fake.statuses]


def test_ci__on_github__the_status_is_pending_while_it_trains(github):
    world, head, fake = github
    _on_github(world, fake, "pull_request", pull_payload(head))
    fake.statuses.clear()
    _on_github(world, fake, "issue_comment", comment_payload(f"/gitops-ml run --sha {head}", "rob"))

    assert [state for _, state, _ in _states(fake)] == ["pending", "success"]
    assert _states(fake)[0] == ("gitops-ml/digits", "pending", "training: 6 trials")
    assert fake.statuses[0]["target_url"] == f"https://github.example/acme/vision/actions/runs/{1000 + world.runs}"


@pytest.fixture
def split(world: World) -> Iterator[Any]:
    """The jobs of one run on a change, with the fake GitHub; ``split(*options)`` is one of them."""
    head, fake = world.push({"experiment.yaml": BETTER}), FakeGitHub()
    fake.pulls[7].head = head
    places = {"plan": world.folder / "plan", "raw": world.folder / "raw"}

    def job(*options: str) -> Result:
        environ = {"GITHUB_API_URL": fake.url, "GITHUB_REPOSITORY": fake.repository, "GITHUB_TOKEN": "ghs_canary0"}
        words = ("--forge", "github", *(option.format(**places) for option in options))
        return world.ci("pull_request", pull_payload(head), *words, **environ, GITHUB_RUN_ID="77")

    job.fake, job.head, job.world = fake, head, world
    with fake.running():
        yield job


def test_ci__pending_job__says_that_it_trains_and_the_last_job_has_the_last_word(split):
    split("--job", "plan", "--out", "{plan}")
    assert _states(split.fake) == []
    pending = split("--job", "pending")
    assert (pending.code, pending.trained, pending.outputs["verdict"]) == (ExitCode.OK, 0, "training"), pending.err
    assert _states(split.fake) == [("gitops-ml/digits", "pending", "training: 6 trials")]
    assert (split.fake.comments, split.world.ledger()) == ([], [])

    run = split("--job", "run", "--plan", "{plan}", "--out", "{raw}")
    assert len(split.fake.statuses) == 1, "the job that trains sets none"
    done = split("--job", "publish", "--from", "{raw}", "--digest", run.outputs["digest"])
    assert [(state, done.code) for _, state, _ in _states(split.fake)][1:] == [("success", ExitCode.OK)]


def test_ci__pending_job_with_nothing_to_train__sets_nothing(split):
    split("--job", "all")
    split.fake.statuses.clear()

    assert split("--job", "pending").code == ExitCode.OK
    assert split.fake.statuses == []


def test_ci__run_that_was_cancelled__leaves_no_status_pending_and_keeps_what_was_paid(split):
    split("--job", "plan", "--out", "{plan}")
    split("--job", "pending")
    split.fake.statuses.append({**split.fake.statuses[0], "context": "other/ci"})
    split.fake.statuses.append(
        {**split.fake.statuses[0], "context": "gitops-ml/foreign", "target_url": "https://x.test"}
    )
    run = split("--job", "run", "--plan", "{plan}", "--out", "{raw}")
    done = split("--job", "publish", "--cancelled", "--from", "{raw}", "--digest", run.outputs["digest"])

    assert (done.code, done.outputs["verdict"]) == (ExitCode.OK, "interrupted"), done.err
    assert [(context, state) for context, state, _ in _states(split.fake)[3:]] == [("gitops-ml/digits", "error")]
    assert split.fake.comments == []
    paths = split.world.ledger()
    assert len([path for path in paths if path.endswith("record.json")]) == 6
    assert not any(path.startswith("reports/") for path in paths)


def test_ci__outputs_that_are_refused__leave_no_status_pending(split):
    split("--job", "plan", "--out", "{plan}")
    split("--job", "pending")
    split("--job", "run", "--plan", "{plan}", "--out", "{raw}")
    done = split("--job", "publish", "--from", "{raw}", "--digest", "0" * 64)

    assert done.code == ExitCode.DENIED
    assert _states(split.fake)[1:] == [("gitops-ml/digits", "error", "ended without a result; the run's log says why")]


def test_ci__statuses_that_cannot_be_set__do_not_keep_it_from_training(split):
    split.fake.tokens["ghs_canary0"].may = frozenset({"push"})
    done = split("--job", "all")

    assert done.trained == 6
    assert "the status could not be set to pending" in done.err
    assert done.outputs["verdict"] == "pass"


def test_ci__on_github__head_moved_after_the_plan__trains_nothing(github):
    world, head, fake = github
    _on_github(world, fake, "pull_request", pull_payload(head))
    fake.pulls[7].head = world.push({"train.py": TRAIN + "# malicious\n"})
    git(world.folder / "runner", "fetch", "-q", "origin")
    done = _on_github(world, fake, "issue_comment", comment_payload("/gitops-ml run", "rob"))

    assert (done.code, done.trained) == (ExitCode.DENIED, 0)
    assert "the approval is for" in done.err


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["push"], "`--head COMMIT`, `--branch BRANCH`"),
        (["push", "--head", "HEAD"], "`--branch BRANCH`"),
        (["change"], "`--head COMMIT`"),
        (["label", "--head", "HEAD", "--label", "gitops-ml/run"], "`--author NAME`"),
        (["comment", "--change", "7"], "`--comment TEXT`, `--author NAME`"),
        (["after-run"], "`--head COMMIT`"),
    ],
)
def test_ci__event_that_is_said_by_half_outside_of_a_ci__names_what_is_missing(world, words, missing):
    err = io.StringIO()
    tools = Tools(cwd=world.work, environ=ENVIRON, out=io.StringIO(), err=err)

    assert main(["ci", "--event", *words], tools) == ExitCode.USAGE
    assert err.getvalue() == f"this is no CI that gitops-ml knows, so `--event {words[0]}` needs {missing}\n"

"""The shipped workflow and action as a runner executes them: `act`, without a network, from events to the comment."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gitops_ml.commands.init import ci_files
from tests.fakes.github import FakeGitHub
from tests.fakes.oidc import TokenServer
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository

TOP = Path(__file__).parents[2]
FORKS = """
name: forks
on: {workflow_run: {workflows: [gitops-ml]}}
jobs:
  gitops-ml:
    uses: ./.github/workflows/shipped/gitops-ml-forks.yml
"""
AWS = """
name: aws
on: [push]
jobs:
  gitops-ml:
    uses: ./.github/workflows/shipped/gitops-ml-aws.yml
    with: {aws-role: "arn:aws:iam::123456789012:role/gitops-ml-ci", aws-region: eu-central-1}
"""
WHOLE = {"id": 1, "default_branch": "main", "full_name": "acme/vision"}
SHIPPED = ("gitops-ml.yml", "gitops-ml-aws.yml", "gitops-ml-forks.yml", "gitops-ml-reconcile.yml")
TRAIN = """
import json, os
assert not [name for name, value in os.environ.items() if "canary" in value or name.startswith("GITHUB_")]
json.dump({"accuracy": float(os.environ["LR"]) + int(os.environ["GITOPS_ML_SEED"]) / 1000}, open("metrics.json", "w"))
"""
SPEC = """
version: 1
name: digits
run: LR=${params.lr} python3 train.py
code: {include: [train.py]}
params: {lr: 0.2}
seeds: [0, 1, 2]
metrics:
  read: [metrics.json]
  track: [{name: accuracy, goal: maximize, gate: fail, tolerance: 0.001}]
"""
# Other people's actions, which cannot be fetched here, by the same inputs.
CHECKOUT = """
name: checkout
inputs: {ref: {}, fetch-depth: {}, persist-credentials: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {REF: "${{ inputs.ref }}"}
      run: git clone -q --branch "${REF:-main}" "$REMOTE" .
"""
UPLOAD = """
name: upload
inputs: {name: {}, path: {}, if-no-files-found: {}, retention-days: {}, include-hidden-files: {}}
outputs: {artifact-id: {value: "${{ inputs.name }}"}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name }}", FROM: "${{ inputs.path }}"}
      run: mkdir -p "$ARTIFACTS" && cp -r "$FROM" "$ARTIFACTS/$NAME"
"""
DOWNLOAD = """
name: download
inputs: {name: {}, path: {}, artifact-ids: {}, merge-multiple: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name || inputs.artifact-ids }}", INTO: "${{ inputs.path }}"}
      run: mkdir -p "$(dirname "$INTO")" && rm -rf "$INTO" && cp -r "$ARTIFACTS/$NAME" "$INTO"
"""


OWN = {
    "experiment.yaml": SPEC,
    "train.py": TRAIN,
    # A change that brings modules of its own must not be what the tool imports.
    "yaml.py": "raise SystemExit('imported from the change')",
    "gitops_ml/__init__.py": "raise SystemExit('imported from the change')",
}


def beside(text: str) -> str:
    """Return a workflow that calls the shipped one which lies beside it."""
    return re.sub(r"uses: \S+/(gitops-ml[\w-]*\.yml)@\S+", r"uses: ./.github/workflows/shipped/\1", text)


class Runner:
    """A repository with the shipped workflow, and `act` to run it."""

    def __init__(self, folder: Path, forge: FakeGitHub, files: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.forge = forge
        (folder / "acme").mkdir()
        self.remote = make_remote(folder / "acme/vision.git")
        self.work = make_repository(
            folder / "work", self.shipped() | (OWN if files is None else files), remote=self.remote
        )

    def shipped(self) -> dict[str, str]:
        """Return the workflows as they lie in the repository."""
        return {
            **{f".github/workflows/shipped/{name}": self._workflow(name) for name in SHIPPED},
            ".github/workflows/forks.yml": FORKS,
            ".github/workflows/aws.yml": AWS,
            **{path: beside(text) for path, text in ci_files("github").items()},
        }

    def _workflow(self, name: str) -> str:
        """Return the shipped workflow, told to use this very gitops-ml instead of installing one."""
        text = (TOP / ".github/workflows" / name).read_text(encoding="utf-8")
        step = r"(uses: gitops-ml/gitops-ml/action@.*\n(?: +id: ci\n)? +with:\n)"
        ours = rf"\1          install: 'false'\n          python: {self._python()}\n"
        text, count = re.subn(step, ours, text)
        assert count == text.count("gitops-ml/action@")
        return text

    def _python(self) -> Path:
        folder = self.folder / "python"
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
            paths = [str(TOP), *(path for path in sys.path if path.endswith("site-packages"))]
            next(folder.glob("lib/python*/site-packages")).joinpath("ours.pth").write_text("\n".join(paths) + "\n")
            script = folder / "bin/gitops-ml"
            script.write_text(f"#!{folder}/bin/python\nfrom gitops_ml.main import entry_point\nentry_point()\n")
            script.chmod(0o755)
        return folder / "bin/python"

    def act(
        self, event: str, payload: object, caller: str = "gitops-ml.yml", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one event on a checkout of what is on the remote."""
        (self.folder / "event.json").write_text(json.dumps(payload))
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)  # each run has its own
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        variables = {
            "GITHUB_API_URL": self.forge.url,
            "GITHUB_REPOSITORY": "acme/vision",
            "REMOTE": self.remote.as_uri(),
            "ARTIFACTS": str(self.folder / "artifacts"),
            **{name: value for name, value in ENVIRON.items() if name.startswith("GIT_")},
            **more,
        }
        stubs, contents = [], {"checkout": CHECKOUT, "upload-artifact": UPLOAD, "download-artifact": DOWNLOAD}
        text = (TOP / ".github/workflows/gitops-ml.yml").read_text(encoding="utf-8")
        for used in {word for word in text.split() if re.fullmatch("actions/.*@[0-9a-f]{40}", word)}:
            stub = self.folder / used.replace("/", "-").replace("@", "-")
            if not stub.exists():
                stub.mkdir()
                (stub / "action.yml").write_text(contents[used.split("@")[0].removeprefix("actions/")])
            stubs += ["--local-repository", f"{used}={stub}"]
        words = [str(Path(sys.executable).with_name("act")), event, "-W", f".github/workflows/{caller}"]
        words += ["-P", "ubuntu-24.04=-self-hosted", "--no-cache-server", "-e", str(self.folder / "event.json")]
        # The action alone: a runner's copy of this whole checkout, with its environments, would take a minute a step.
        ours = self.folder / "gitops-ml"
        shutil.copytree(TOP / "action", ours / "action", dirs_exist_ok=True)
        words += ["--local-repository", f"gitops-ml/gitops-ml@main={ours}", *stubs, "-s", "GITHUB_TOKEN=ghs_canary0"]
        words += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return subprocess.run(
            words,
            cwd=self.work,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture
def runner(tmp_path):
    forge = FakeGitHub()
    with forge.running():
        yield Runner(tmp_path, forge)


def pushed(runner, before="0" * 40, **more):
    head = git(runner.work, "rev-parse", "HEAD")
    return runner.act("push", {"ref": "refs/heads/main", "before": before, "after": head, "repository": WHOLE}, **more)


def pull_event(runner, action, *, fork=False, **more):
    """Run an event of pull request 7 as it stands."""
    home = {"id": 2, "full_name": "mallory/vision"} if fork else {"id": 1, "full_name": "acme/vision"}
    head = {"sha": runner.forge.pulls[7].head, "ref": "larger-rate", "repo": home}
    pull = {"number": 7, "head": head, "base": {"ref": "main", "repo": WHOLE}}
    payload = {"action": action, "number": 7, "pull_request": pull, "repository": WHOLE, **more}
    return runner.act("pull_request", payload)


def push_head(runner, lr, spec=SPEC):
    """Push a new head of pull request 7."""
    git(runner.work, "switch", "-q", "-C", "larger-rate")
    head = commit(runner.work, {"experiment.yaml": spec.replace("lr: 0.2", f"lr: {lr}")}, f"{lr}")
    git(runner.work, "push", "-q", "-f", "origin", "larger-rate", f"{head}:refs/pull/7/head")
    runner.forge.pulls[7].head = head
    return head


def changed(runner, lr, *, fork=False):
    """Push a new head of pull request 7 and run its event."""
    return push_head(runner, lr), pull_event(runner, "synchronize", fork=fork)


def commented(runner, body, author):
    issue = {"number": 7, "pull_request": {"url": "x"}}
    comment = {"body": body, "user": {"login": author}}
    payload = {"action": "created", "issue": issue, "comment": comment, "repository": WHOLE}
    return runner.act("issue_comment", payload | {"sender": {"login": author}})


def records(runner):
    """Return the commits that records were trained at."""
    if not git(runner.remote, "for-each-ref", "refs/heads/gitops-ml/reports"):
        return []
    listed = git(runner.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    paths = [path for path in listed if path.endswith("record.json")]
    return [json.loads(git(runner.remote, "show", f"gitops-ml/reports:{path}"))["commit"] for path in paths]


def jobs(done):
    return {
        word
        for word in ("Plan", "Pending", "Run", "End", "Publish", "Reconcile")
        if re.search(rf"/{word} *\] .*Job (succeeded|failed)", done.stdout)
    }


def test_workflow__push_then_two_heads_of_a_change__one_comment_and_a_gate(runner):
    push = pushed(runner)

    assert push.returncode == 0, push.stdout[-6000:] + push.stderr[-2000:]
    listed = git(runner.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    assert len([path for path in listed if path.endswith("record.json")]) == 3
    assert [path for path in listed if path.startswith("reports/digits/") and path.endswith("report.md")]
    assert "imported from the change" not in push.stdout
    assert jobs(push) == {"Plan", "Pending", "Run", "Publish"}

    head, better = changed(runner, 0.3)

    assert better.returncode == 0, better.stdout[-6000:] + better.stderr[-2000:]
    found = [(one["sha"], one["state"]) for one in runner.forge.statuses if one["context"] == "gitops-ml/digits"]
    assert found == [(head, "pending"), (head, "success")]
    assert len(runner.forge.comments) == 1
    assert "better" in runner.forge.comments[0].body

    head, worse = changed(runner, 0.1)

    assert worse.returncode == 1
    assert [(one["sha"], one["state"]) for one in runner.forge.statuses][-1] == (head, "failure")
    assert len(runner.forge.comments) == 1
    assert "worse" in runner.forge.comments[0].body


def test_workflow__fork__plans_then_the_trusted_half_comments_and_nothing_trains(runner):
    head, done = changed(runner, 0.3, fork=True)

    assert jobs(done) == {"Plan"}
    assert (runner.forge.comments, runner.forge.statuses) == ([], [])
    assert git(runner.remote, "for-each-ref", "refs/heads/gitops-ml") == ""
    assert not (runner.folder / "artifacts").exists()

    runner.forge.pulls[7].head_repository = "mallory/vision"
    ended = {
        "event": "pull_request",
        "head_sha": head,
        "head_branch": "main",
        "head_repository": {"id": 2, "full_name": "mallory/vision"},
        # What a fork's run could say of itself is not asked.
        "pull_requests": [{"number": 8}],
    }
    half = runner.act(
        "workflow_run", {"action": "completed", "workflow_run": ended, "repository": WHOLE}, caller="forks.yml"
    )

    assert jobs(half) == {"Publish"}, half.stdout[-6000:] + half.stderr[-2000:]
    assert [comment.pull for comment in runner.forge.comments] == [7]
    assert "imported from the change" not in done.stdout + half.stdout
    assert "succeeded" not in re.sub("Job succeeded", "", half.stdout)
    listed = git(runner.remote, "for-each-ref", "refs/heads/gitops-ml")
    assert listed == "" or "record.json" not in git(runner.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports")


ASKED = SPEC + "triggers: {change: plan}\n"


def test_workflow__comments__a_strangers_is_refused_and_a_writers_trains_the_commit_it_names(runner):
    main = commit(runner.work, {"experiment.yaml": ASKED}, "only when asked for")
    git(runner.work, "push", "-q", "origin", "main")
    first = push_head(runner, 0.3, ASKED)
    for body in ("Looks good", "/gitops-ml-like words"):
        ignored = commented(runner, body, "rob")
        assert (ignored.returncode, records(runner)) == (0, []), ignored.stdout[-3000:] + ignored.stderr[-3000:]

    stranger = commented(runner, f"/gitops-ml run --sha {first}", "stranger")
    assert stranger.returncode == 1
    assert "`stranger` may not approve this" in stranger.stdout
    assert (jobs(stranger), records(runner)) == ({"Plan", "Publish"}, [])

    second = push_head(runner, 0.4, ASKED)
    late = commented(runner, f"/gitops-ml run --sha {first}", "rob")
    assert late.returncode == 1
    assert "the approval is for" in late.stdout
    assert (jobs(late), records(runner)) == ({"Plan", "Publish"}, [])

    done = commented(runner, f"/gitops-ml run --sha {second}", "rob")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert jobs(done) == {"Plan", "Pending", "Run", "Publish"}
    assert sorted(records(runner)) == sorted([second] * 3 + [main] * 3)
    states = [one["state"] for one in runner.forge.statuses if one["sha"] == second]
    assert states[-2:] == ["pending", "success"]


def test_workflow__label_close_merge_and_schedule(runner):
    commit(runner.work, {"experiment.yaml": ASKED}, "only when asked for")
    git(runner.work, "push", "-q", "origin", "main")
    before = git(runner.work, "rev-parse", "HEAD")
    head = push_head(runner, 0.3, ASKED)
    other = pull_event(runner, "labeled", label={"name": "bug"}, sender={"login": "rob"})
    assert (other.returncode, jobs(other)) == (0, set())

    label = pull_event(runner, "labeled", label={"name": "gitops-ml/run"}, sender={"login": "rob"})
    assert label.returncode == 0, label.stdout[-6000:] + label.stderr[-2000:]
    assert len(records(runner)) == 6
    assert "better" in runner.forge.comments[0].body

    git(runner.work, "switch", "-q", "main")
    git(runner.work, "merge", "-q", "--no-ff", "-m", "merge", head)
    git(runner.work, "push", "-q", "origin", "main")
    runner.forge.pulls[7].state = "closed"
    closed = pull_event(runner, "closed")
    assert closed.returncode == 0, closed.stdout[-5000:] + closed.stderr[-2000:]
    assert jobs(closed) == {"Plan", "End", "Publish"}

    merged = pushed(runner, before)
    assert merged.returncode == 0, merged.stdout[-6000:] + merged.stderr[-2000:]
    assert (jobs(merged), len(records(runner))) == ({"Plan", "Publish"}, 6), "nothing was trained"
    promoted = git(runner.work, "rev-parse", "HEAD")[:12]
    listed = git(runner.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    assert any(path.startswith(f"reports/digits/{promoted}") for path in listed)

    runner.forge.pulls[7].state = "open"
    url = "https://github.com/acme/vision/actions/runs/55"
    pending = {"state": "pending", "context": "gitops-ml/digits", "description": "training", "target_url": url}
    lost = push_head(runner, 0.5, ASKED)
    runner.forge.runs[55] = "completed"
    runner.forge.statuses.append({**pending, "sha": lost})
    swept = runner.act("schedule", {"schedule": "0 0 * * *"}, caller="gitops-ml-reconcile.yml", GITHUB_REF_NAME="main")
    assert swept.returncode == 0, swept.stdout[-6000:] + swept.stderr[-2000:]
    assert jobs(swept) == {"Reconcile"}, swept.stdout[-3000:]
    assert "change 7: 3 trials without a record, which no run trains any more" in swept.stdout
    assert [one["state"] for one in runner.forge.statuses if one["sha"] == lost] == ["pending", "error"]


SCRIPT = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.2)
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()
with open("metrics.jsonl", "w") as out:
    for step in range(5):
        accuracy = 1 - abs(asked.lr - 0.1) / (step + 1) + asked.seed / 1000
        print(json.dumps({"step": step, "accuracy": accuracy}), file=out)
"""


def test_workflow__repository_with_nothing_but_a_script__init_leads_to_a_comment_with_plots(tmp_path):
    forge = FakeGitHub()
    with forge.running():
        runner = Runner(tmp_path, forge, {"train.py": SCRIPT})
        subprocess.run([sys.executable, "train.py"], cwd=runner.work, check=True, timeout=60)
        command = str(Path(sys.executable).with_name("gitops-ml"))
        words = [command, "init", "--ci", "github", "--name", "digits"]
        done = subprocess.run(words, cwd=runner.work, env=ENVIRON, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("kept     .github/workflows/") == len(ci_files("github"))
        commit(runner.work, {".gitignore": ".gitops-ml/\nmetrics.jsonl\n"}, "adopt")
        git(runner.work, "push", "-q", "origin", "main")
        push = pushed(runner)
        assert push.returncode == 0, push.stdout[-6000:] + push.stderr[-2000:]

        git(runner.work, "switch", "-q", "-c", "larger-rate")
        file = runner.work / "experiments/digits.yaml"
        head = commit(runner.work, {"experiments/digits.yaml": file.read_text().replace("lr: 0.2", "lr: 0.1")}, "lr")
        git(runner.work, "push", "-q", "origin", "larger-rate", f"{head}:refs/pull/7/head")
        forge.pulls[7].head = head
        better = pull_event(runner, "opened")

    assert better.returncode == 0, better.stdout[-6000:] + better.stderr[-2000:]
    (comment,) = forge.comments
    assert "digits: better" in comment.body
    tip = git(runner.remote, "rev-parse", "gitops-ml/reports")
    plots = re.findall(rf"/blob/{tip}/(reports/digits/{head[:12]}-\w+/plots/\w+\.svg)\?raw=true", comment.body)
    assert plots, comment.body
    assert all(git(runner.remote, "show", f"{tip}:{path}").startswith("<svg") for path in plots)
    assert [one["state"] for one in forge.statuses if one["sha"] == head] == ["pending", "success"]


def test_workflow__for_aws__has_a_token_for_the_role_and_trains_nothing_beside_it(runner):
    tokens = TokenServer()
    with tokens.running():
        done = pushed(runner, caller="aws.yml", **tokens.environ())

    assert done.returncode == 1
    assert jobs(done) == {"Plan", "Pending", "Run", "Publish"}
    assert [call.query["audience"] for call in tokens.calls] == ["sts.amazonaws.com"], "the job `run` alone asks"
    assert (
        "`digits` would train in the job itself (backend `local`), and this job can take on a cloud role" in done.stdout
    )
    assert records(runner) == []
    assert "canary" not in done.stdout.replace("ghs_canary0", "")

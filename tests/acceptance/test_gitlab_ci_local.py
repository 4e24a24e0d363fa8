"""The shipped GitLab file as a runner executes it: `gitlab-ci-local`, from an empty repository to a merged change."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gitops_ml.errors import ExitCode
from tests.fakes.githttp import GitServer
from tests.fakes.gitlab import PROJECT, FakeGitLab
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository

TOP = Path(__file__).parents[2]
RUNNER = TOP / ".cache/judges/node_modules/gitlab-ci-local/dist/index.js"
TOKEN, JOB_TOKEN = "glpat-canary0", "glcbt-canary1"
TRAIN = """
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.2)
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()
assert not [name for name, value in os.environ.items() if "canary" in value or name.startswith("CI_")]
with open("metrics.jsonl", "w") as out:
    for step in range(5):
        accuracy = 1 - abs(asked.lr - 0.1) / (step + 1) + asked.seed / 1000
        print(json.dumps({"step": step, "accuracy": accuracy}), file=out)
"""


def _node() -> int:
    """Return the major version of Node; 0: there is none."""
    command = shutil.which("node")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=30) if command else None
    found = re.match(r"v(\d+)", done.stdout) if done else None
    return int(found[1]) if found else 0


pytestmark = pytest.mark.skipif(
    not RUNNER.exists() or not shutil.which("rsync") or _node() < 20,
    reason="needs gitlab-ci-local in .cache/judges (npm), Node 20 and rsync; .ci/run installs what it may",
)


class Project:
    """A project on the fake GitLab with git over HTTP, and a runner."""

    def __init__(self, folder: Path, fake: FakeGitLab, server: GitServer) -> None:
        self.folder = folder
        self.fake = fake
        self.server = server
        (folder / "git" / PROJECT).parent.mkdir(parents=True)
        self.remote = make_remote(folder / "git" / f"{PROJECT}.git")
        self.work = make_repository(folder / "work", {"train.py": TRAIN}, remote=self.remote)
        self.pipelines = 100
        self.home = folder / "home"
        (self.home / ".gitlab-ci-local").mkdir(parents=True)
        # As the page wants it: only the jobs in that environment see the token.
        variable = {"type": "variable", "values": {"gitops-ml/publish": TOKEN}}
        variables = self.home / ".gitlab-ci-local/variables.yml"
        variables.write_text(json.dumps({"global": {"GITLAB_TOKEN": variable}}))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run gitops-ml as its user does."""
        script = Path(sys.executable).with_name("gitops-ml")
        return subprocess.run(
            [str(script), *words], cwd=self.work, env=ENVIRON, capture_output=True, text=True, timeout=120
        )

    def pipeline(self, source: str, branch: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run all jobs on a clone of its own, as GitLab would start them."""
        self.pipelines += 1
        place = self.folder / f"build{self.pipelines}"
        git(self.folder, "clone", "-q", "-b", branch, self.remote.as_uri(), str(place))
        # As a runner leaves it: with the job's own token, which may only read.
        address = self.server.url.replace("://", f"://gitlab-ci-token:{JOB_TOKEN}@")
        git(place, "remote", "set-url", "origin", f"{address}/{PROJECT}.git")
        given = {
            "GITLAB_CI": "true",
            "CI_PIPELINE_SOURCE": source,
            "CI_PIPELINE_ID": str(self.pipelines),
            "CI_SERVER_URL": self.server.url,
            "CI_API_V4_URL": f"{self.fake.url}/api/v4",
            "CI_PROJECT_PATH": PROJECT,
            "CI_PROJECT_ID": "42",
            "CI_DEFAULT_BRANCH": "main",
            "CI_COMMIT_SHA": git(place, "rev-parse", "HEAD"),
            **variables,
        }
        words = ["node", str(RUNNER), "--force-shell-executor", "--shell-isolation", "--no-artifacts-to-source"]
        words += ["--no-color", "--home", str(self.home), "--ignore-predefined-vars", ",".join(given)]
        words += [word for name, value in given.items() for word in ("--variable", f"{name}={value}")]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        names = {name: value for name, value in ENVIRON.items() if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))}
        environ = {"PATH": path, "HOME": str(self.home), "USER": "runner", **names}
        return subprocess.run(words, cwd=place, env=environ, capture_output=True, text=True, timeout=240)

    def changed(self, lr: float) -> tuple[str, subprocess.CompletedProcess[str]]:
        """Push a head to merge request 7 and run its pipeline."""
        git(self.work, "switch", "-q", "-C", "larger-rate")
        spec = next(self.work.glob("experiments/*.yaml"))
        text = re.sub(r"(?m)^(  lr: ).*", rf"\g<1>{lr}", spec.read_text())
        head = commit(self.work, {spec.relative_to(self.work).as_posix(): text}, f"lr {lr}")
        git(self.work, "push", "-q", "-f", "origin", "larger-rate", f"{head}:refs/merge-requests/7/head")
        self.fake.requests[7].head = head
        variables = {
            "CI_MERGE_REQUEST_IID": "7",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "42",
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "larger-rate",
            "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": head,
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        }
        return head, self.pipeline("merge_request_event", "larger-rate", **variables)

    def ledger(self) -> list[str]:
        return git(self.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()

    def records(self) -> int:
        return len([path for path in self.ledger() if path.endswith("record.json")])

    def statuses(self, head: str) -> list[str]:
        return [one["state"] for one in self.fake.statuses if one["sha"] == head]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    fake, server = FakeGitLab(), GitServer(tmp_path / "git", token=TOKEN, reader=JOB_TOKEN)
    with fake.running(), server.running():
        yield Project(tmp_path, fake, server)


def adopted(project: Project) -> None:
    """Let ``init`` look at a repository with nothing but a script and what it has left, and commit what it writes."""
    subprocess.run([sys.executable, "train.py"], cwd=project.work, check=True, timeout=60)
    done = project.command("init", "--ci", "gitlab", "--name", "digits")
    assert done.returncode == ExitCode.OK, done.stderr
    file = project.work / ".gitlab-ci.yml"
    # What it includes is fetched from the web: here it lies beside, and the runner has gitops-ml already.
    text, count = re.subn(
        r'remote: "https://[^"]*/action/gitlab-ci.yml", inputs: {',
        "local: ours.yml, inputs: {installed: true, ",
        file.read_text(),
    )
    assert count == 1
    shipped = (TOP / "action/gitlab-ci.yml").read_text(encoding="utf-8")
    commit(project.work, {".gitlab-ci.yml": text, "ours.yml": shipped, ".gitignore": ".gitops-ml/\nmetrics.jsonl\n"})
    git(project.work, "push", "-q", "origin", "main")


def test_pipeline__from_an_empty_repository_to_a_merged_change(project):
    adopted(project)
    pushed = project.pipeline("push", "main")
    assert pushed.returncode == 0, said(pushed)
    assert project.records() == 3

    head, better = project.changed(0.1)
    assert better.returncode == 0, said(better)
    assert project.statuses(head) == ["running", "success"]
    (note,) = project.fake.notes
    assert "digits: better" in note.body
    assert any(address in note.body for address in project.fake.uploads), "the plots are shown"
    assert any(path.startswith(f"reports/digits/{head[:12]}") for path in project.ledger())
    assert project.records() == 6

    worse_head, worse = project.changed(0.5)
    assert worse.returncode == 1
    assert project.statuses(worse_head) == ["running", "failed"]
    assert len(project.fake.notes) == 1
    assert "digits: worse" in project.fake.notes[0].body

    git(project.work, "switch", "-q", "main")
    git(project.work, "merge", "-q", "--no-ff", "-m", "merge", head)
    git(project.work, "push", "-q", "origin", "main")
    records = project.records()
    merged = project.pipeline("push", "main", CI_COMMIT_BEFORE_SHA=git(project.work, "rev-parse", "HEAD^1"))
    assert merged.returncode == 0, said(merged)
    assert project.records() == records, "nothing was trained"
    assert "to train" not in merged.stdout + merged.stderr
    promoted = git(project.work, "rev-parse", "HEAD")[:12]
    assert any(path.startswith(f"reports/digits/{promoted}") for path in project.ledger())
    for done in (pushed, better, worse, merged):
        assert "canary" not in done.stdout + done.stderr


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[-6000:] + done.stderr[-2000:]


def test_pipeline__on_schedule__ends_what_a_dead_pipeline_left_pending_and_trains_nothing(project):
    adopted(project)
    git(project.work, "switch", "-q", "-c", "larger-rate")
    head = commit(project.work, {"train.py": TRAIN + "# other\n"}, "other")
    git(project.work, "push", "-q", "origin", "larger-rate", f"{head}:refs/merge-requests/7/head")
    project.fake.requests[7].head = head
    project.fake.pipelines[55] = "canceled"
    pending = {"state": "running", "name": "gitops-ml/digits", "description": "training: 6 trials", "pipeline_id": 55}
    url = f"{project.server.url}/{PROJECT}/-/pipelines/55"
    project.fake.statuses.append({**pending, "sha": head, "target_url": url})
    done = project.pipeline("schedule", "main")

    assert done.returncode == 0, said(done)
    assert project.statuses(head) == ["running", "failed"]
    assert project.fake.statuses[-1]["pipeline_id"] == 55
    assert "change 7: 6 trials without a record, which no run trains any more" in done.stdout
    assert "branch main: 3 trials without a record" in done.stdout
    assert git(project.remote, "for-each-ref", "refs/heads/gitops-ml") == ""


def test_include_for_aws__adds_the_token_to_the_job_that_trains_and_nothing_else(project):
    ours, aws = ((TOP / "action" / name).read_text(encoding="utf-8") for name in ("gitlab-ci.yml", "gitlab-aws.yml"))
    inputs = "{role: 'arn:aws:iam::1:role/x', region: eu-central-1}"
    alone = "include:\n  - {local: ours.yml}\n"
    shown = []
    for text in (alone, f"{alone}  - {{local: aws.yml, inputs: {inputs}}}\n"):
        commit(project.work, {".gitlab-ci.yml": text, "ours.yml": ours, "aws.yml": aws})
        words = ["node", str(RUNNER), "--preview", "--no-color", "--home", str(project.home)]
        done = subprocess.run(words, cwd=project.work, env=ENVIRON, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        shown.append(yaml.safe_load(done.stdout))
    without, with_aws = shown
    job = with_aws["gitops-ml:run"]

    assert job.pop("id_tokens") == {"GITOPS_ML_ID_TOKEN": {"aud": "https://gitlab.com"}}
    variables = {name: job["variables"].pop(name) for name in list(job["variables"]) if name.startswith("AWS_")}
    assert variables["AWS_ROLE_ARN"] == "arn:aws:iam::1:role/x"
    assert variables["AWS_WEB_IDENTITY_TOKEN_FILE"] == job["variables"].pop("GITOPS_ML_IDENTITY_FILE")
    assert with_aws == without

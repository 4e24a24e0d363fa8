"""The shipped GitLab file as a runner executes it: `gitlab-ci-local`, from an empty repository to a merged change."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from gitops_ml.errors import ExitCode
from tests.fakes.githttp import GitServer
from tests.fakes.gitlab import PROJECT, FakeGitLab, Job
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository
from tests.fakes.server import Answer, Call, Server

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


def uploaded(folder: Path) -> bytes | None:
    """Return the archive of what a job has left in a folder; None: nothing."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".gitlab-ci-reports" not in path.parts]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            packed.write(path, path.relative_to(folder).as_posix())
    return content.getvalue() if files else None


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
        self.archive: Callable[[Path], bytes | None] = uploaded
        """What GitLab gives as what the job that trains has left."""
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
        # What a runner would have uploaded lies in a folder; GitLab gives it as a zip, to whoever may have it.
        left = place / ".gitlab-ci-local/artifacts/gitops-mlOgrun"  # by a name of its own, without the colon
        self.fake.jobs[self.pipelines] = [
            Job(number=self.pipelines * 10, name="gitops-ml:run", archive=lambda: self.archive(left)),
            Job(number=self.pipelines * 10 + 1, name="gitops-ml:publish", status="running"),
        ]
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


def adopted(project: Project, *, shipped: str | None = None) -> None:
    """Let ``init`` look at a repository with nothing but a script and what it has left, and commit what it writes.

    Args:
        project: the repository.
        shipped: our file, where another is to be shown.
    """
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
    ours = shipped or (TOP / "action/gitlab-ci.yml").read_text(encoding="utf-8")
    commit(project.work, {".gitlab-ci.yml": text, "ours.yml": ours, ".gitignore": ".gitops-ml/\nmetrics.jsonl\n"})
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


# What a job that trains could do to the one with the token


def spied(project: Project) -> tuple[str, Path]:
    """Return our file with a variable that is reported by the job that trains, and where that leads the secret.

    A training needs no line in the file for it: it can upload such a report with its job's own token.
    """
    spy, seen = project.folder / "spy", project.folder / "seen"
    spy.mkdir()
    (spy / "gitops-ml").write_text(f'#!/bin/sh\nprintenv GITLAB_TOKEN >>"{seen}"\n')
    (spy / "gitops-ml").chmod(0o755)
    path = f"{spy}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    text = (TOP / "action/gitlab-ci.yml").read_text(encoding="utf-8")
    script, paths = "  script:\n    - gitops-ml ci --job run", "    paths: [gitops-ml-raw/, gitops-ml.env]\n"
    assert text.count(script) == text.count(paths) == 1
    text = text.replace(script, script.replace("gitops-ml", f"echo 'PATH={path}' >reported.env\n    - gitops-ml", 1))
    return text.replace(paths, f"{paths}    reports: {{dotenv: reported.env}}\n"), seen


def test_publish__variables_that_the_training_reports__do_not_reach_the_job_with_the_token(project):
    text, seen = spied(project)
    adopted(project, shipped=text)
    done = project.pipeline("push", "main")

    assert done.returncode == 0, said(done)
    assert project.records() == 3
    assert not seen.exists()


def test_publish__with_artifacts_by_the_runner__would_be_led_by_them(project):
    # The runner hands the variables on where it is let: the test above would see it.
    text, seen = spied(project)
    by_runner = text.replace("artifacts: false # it fetches them itself", "artifacts: true")
    assert by_runner != text
    adopted(project, shipped=by_runner)
    project.pipeline("push", "main")

    assert seen.read_text() == f"{TOKEN}\n"


def test_publish__archive_with_a_link__is_refused_whole_and_nothing_stays_pending(project):
    adopted(project)
    assert project.pipeline("push", "main").returncode == 0

    def with_a_link(folder: Path) -> bytes | None:
        content = uploaded(folder)
        if content is None:
            return None
        changed = io.BytesIO(content)
        with zipfile.ZipFile(changed, "a") as packed:
            link = zipfile.ZipInfo("gitops-ml-raw/outputs/link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, "/etc/passwd")
        return changed.getvalue()

    project.archive = with_a_link
    records = project.records()
    head, done = project.changed(0.1)

    assert done.returncode == 1, said(done)
    assert "the archive holds 'gitops-ml-raw/outputs/link', which is no regular file" in said(done)
    assert project.records() == records
    assert project.statuses(head) == ["running", "failed"]


def test_publish__job_that_left_nothing__is_named_and_what_is_missing_is_said(project):
    adopted(project)
    assert project.pipeline("push", "main").returncode == 0
    project.archive = lambda folder: None
    head, done = project.changed(0.1)

    assert done.returncode == 1, said(done)
    assert "nothing is taken from the job `gitops-ml:run` (success): it left nothing" in done.stderr
    assert project.statuses(head) == ["running", "failed"]
    assert len(project.fake.notes) == 1


def test_publish__artifacts_in_an_object_storage__are_fetched_without_the_token(project):
    adopted(project)
    store = Store()
    with store.running():
        project.fake.artifacts_at = store.send_on
        done = project.pipeline("push", "main")

    assert done.returncode == 0, said(done)
    assert project.records() == 3
    (call,) = store.calls
    assert "canary" not in str(call)


class Store(Server):
    """Where GitLab keeps what jobs leave, by addresses that are keys."""

    def __init__(self) -> None:
        super().__init__()
        self.content: bytes | None = None

    def send_on(self, job: Job) -> Answer:
        self.content = job.left()
        return Answer(status=302, headers={"Location": f"{self.url}/{job.number}?signature=x"})

    def handle(self, call: Call) -> Answer:
        return Answer(body=self.content)


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

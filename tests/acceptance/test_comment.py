"""From a training to the comment on both forges: real repository, real git over HTTP, real clients, no account.

git is called through a script that writes down its arguments, so that what a process list would show is known.
"""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.errors import ExitCode
from gitops_ml.forges._comments import body_of
from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.forges import GithubPlace, place
from tests.fakes.githttp import GitServer
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository
from tests.fakes.server import Answer, Fault

LEDGER = "gitops-ml/reports"
REFUSED = Answer(status=403, body={"message": "Resource not accessible"})
# One experiment is well, the other writes what no metric should be: its square is no number any more.
TRAIN = """
import json, os, sys
name, lr, seed = sys.argv[1], float(sys.argv[2]), int(os.environ["GITOPS_ML_SEED"])
with open("metrics.jsonl", "w") as file:
    for step in range(20):
        file.write(json.dumps({"step": step, "accuracy": 0.5 + lr + step / 50 + seed / 1000}) + "\\n")
    if name == "wild":
        file.write('{"step": 20, "accuracy": NaN, "loss": 1e308, "</code>@alice": 1}\\n')
print("token", os.environ.get("GITHUB_TOKEN"), os.environ.get("GITLAB_TOKEN"))
"""
SPEC = """
version: 1
name: {name}
run: python3 train.py {name} ${{params.lr}}
code: {{include: [train.py]}}
params: {{lr: 0.1}}
seeds: [0, 1, 2]
metrics:
  read: [metrics.jsonl]
  track:
    - {{name: accuracy, goal: maximize, gate: fail}}
    - {{name: loss, goal: minimize}}
"""
# A training that is started beside them must not see them.
TOKENS = {"GITHUB_TOKEN": "ghs_canary0", "GITLAB_TOKEN": "glpat-canary0"}


class World:
    """A clone whose remote asks for a token, with a change that is trained and whose report is pushed."""

    def __init__(self, folder: Path, server: GitServer) -> None:
        self.folder = folder
        self.credential = server.header().split()[-1]
        self.remote = make_remote(server.root / "vision.git")
        self.shim = folder / "bin" / "git"
        self.shim.parent.mkdir()
        self.shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {folder}/argv\nexec {shutil.which("git")} "$@"\n')
        self.shim.chmod(0o755)
        files = {f"experiments/{name}.yaml": SPEC.format(name=name) for name in ("digits", "wild")}
        self.work = make_repository(folder / "work", {**files, "train.py": TRAIN, ".gitignore": ".gitops-ml/\n"})
        git(self.work, "remote", "add", "origin", f"{server.url}/vision.git")
        git(self.work, "config", f"http.{server.url}/.extraheader", server.header())
        git(self.work, "push", "-q", "origin", "main")
        self.call("run")
        self.call("report", "--push")
        git(self.work, "switch", "-q", "-c", "topic")
        changed = {path: text.replace("lr: 0.1", "lr: 0.2") for path, text in files.items()}
        self.head = commit(self.work, changed)
        self.call("run", **TOKENS)
        self.call("report", "--push", "--out", str(folder / "left"))

    def call(self, *words: str, **environ: str) -> tuple[int, str]:
        path = os.pathsep.join([str(self.shim.parent), str(Path(sys.executable).parent), ENVIRON["PATH"]])
        said = io.StringIO()
        tools = Tools(cwd=self.work, environ={**ENVIRON, **environ, "PATH": path}, out=said, err=said)
        code = main(words, tools)
        assert code != ExitCode.BUG, said.getvalue()
        return code, said.getvalue()

    def settings(self, text: str) -> None:
        (self.work / "gitops-ml.yaml").write_text(text)

    def comment(self, there, *more: str, run: int = 5) -> str:
        """Comment, and return the comment's body."""
        code, said = self.call("comment", *more, **self.environ(there, run))
        assert code == ExitCode.OK, said
        assert "could not" not in said
        (text,) = there.own()
        return body_of(text)

    def environ(self, there, run: int = 5) -> dict[str, str]:
        there.push(self.head)
        return {**there.environ(run=run), **({} if there.name == "github" else {"CI_COMMIT_SHA": self.head})}

    def on_ledger(self, commit: str, path: str) -> bytes:
        return subprocess.run(
            ["git", "--git-dir", str(self.remote), "show", f"{commit}:{path}"],
            capture_output=True, check=True, timeout=60,
        ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "srv").mkdir()
    with GitServer(folder / "srv").running() as server:
        yield World(folder, server)


@pytest.fixture(params=["github", "gitlab"])
def there(request, world, tmp_path):
    world.settings("")
    with place(request.param, tmp_path) as opened:
        yield opened


def test_comment__all_experiments_of_a_change__one_comment_with_report_pictures_and_statuses(world, there):
    body = world.comment(there)

    tip = git(world.remote, "rev-parse", LEDGER)
    inside = "blob" if there.name == "github" else "-/blob"
    page = (
        f"{there.fake.url}/{'acme/vision' if there.name == 'github' else there.fake.project}/{inside}/{tip}/README.md"
    )
    assert f"[full report]({page})" in body
    assert world.on_ledger(tip, "README.md")
    assert "### <code>digits</code>" in body
    assert "### <code>wild</code>" in body
    assert {(name, state) for name, state, _ in there.statuses()} == {
        ("gitops-ml/digits", "success"),
        ("gitops-ml/wild", "failure"),
    }
    assert {one["target_url"] for one in there.fake.statuses} == {page}
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", body)
    assert shown
    if isinstance(there, GithubPlace):
        for url in shown:
            found = re.fullmatch(
                rf"{there.fake.url}/acme/vision/blob/([0-9a-f]{{40}})/(reports/\S+/plots/\S+\.svg)\?raw=true", url
            )
            assert found, url
            assert b"<svg" in world.on_ledger(found[1], found[2])[:1000]
    else:
        assert set(shown) == set(there.fake.uploads)
        assert all(content.startswith(b"\x89PNG\r\n") for content in there.fake.uploads.values())
    assert "@alice" not in body.replace("&#64;", "@")
    assert world.comment(there, run=6) == body


@pytest.mark.parametrize(
    ("setting", "pictures", "charts"),
    [("commit", True, True), ("upload", None, True), ("mermaid", False, True), ("none", False, False)],
)
def test_comment__images_as_the_settings_say(world, there, setting, pictures, charts):
    world.settings(f"images: {setting}\n")

    body = world.comment(there)

    # The workflow's own token cannot upload to GitHub: there the charts stand in.
    wanted = there.name == "gitlab" if pictures is None else pictures
    assert ("![" in body) == wanted
    assert ("```mermaid\nxychart-beta" in body) == charts
    assert bool(getattr(there.fake, "uploads", None)) == (setting == "upload" and there.name == "gitlab")


def test_comment__same_change__is_byte_identical_on_both_but_for_links(world, tmp_path):
    world.settings("images: commit\n")
    shown = []
    for name in ("github", "gitlab"):
        with place(name, tmp_path) as there:
            shown.append(re.sub(r"\]\([^)]+\)", "](LINK)", world.comment(there)))

    assert "](LINK)" in shown[0]
    assert shown[0] == shown[1]


def test_comment__from_what_report_left__says_the_same(world, there):
    assert world.comment(there) == world.comment(there, "--from", str(world.folder / "left"), run=6)


def test_comment__forge_is_down__ledger_and_verdict_stay_and_from_publishes_later(world, there):
    before = git(world.remote, "rev-parse", LEDGER)
    there.fake.faults.append(Fault(kind="answer", times=999, answer=REFUSED))
    code, said = world.call("comment", "--strict", **world.environ(there))
    assert (code, there.own()) == (ExitCode.SERVICE, [])
    assert said.count("could not be") == 2

    assert world.call("comment", **world.environ(there))[0] == ExitCode.OK
    assert world.call("compare")[0] == ExitCode.FINDINGS
    there.fake.faults.clear()
    assert world.comment(there, "--from", str(world.folder / "left"))
    assert git(world.remote, "rev-parse", LEDGER) == before


def test_comment__tokens__are_in_no_arguments_no_output_and_no_file(world, there):
    (world.folder / "argv").unlink(missing_ok=True)
    _, said = world.call("comment", **world.environ(there))
    there.expire()
    _, failed = world.call("comment", **world.environ(there, run=6))
    _, doctor = world.call("doctor", **world.environ(there))
    page, out = world.folder / "pages" / "report.html", world.folder / "pages" / "out"
    _, report = world.call("report", "--html", str(page), "--out", str(out), **world.environ(there))

    argv = (world.folder / "argv").read_text()
    assert "fetch" in argv
    assert "says 401" in failed
    assert page.stat().st_size > 10_000
    folders = (world.work / ".gitops-ml", page.parent)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    kept = b"".join(file.read_bytes() for file in files)
    assert b"token None None" in kept
    pushed = git(world.remote, "grep", "-c", "digits", LEDGER)
    assert pushed
    leaked = subprocess.run(["git", "grep", "-lI", "canary", LEDGER], cwd=world.remote, capture_output=True, timeout=60)
    assert leaked.stdout == b""
    assert "401" in doctor
    for secret in ("canary", world.credential):
        assert secret not in argv + said + failed + doctor + report
        assert secret.encode() not in kept
        assert all(secret not in text for text in there.own())

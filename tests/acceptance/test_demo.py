"""`gitops-ml demo` is the first thing that a newcomer sees: it must work anywhere and show real numbers."""

import io
import json
import os
import subprocess
import sys

from gitops_ml.main import main
from gitops_ml.tools import Tools

# As if called from a git hook, in CI, by somebody who signs: nothing of it may reach the demo's repository.
HOSTILE = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_TOKEN": "not-a-token",
    "GIT_DIR": "/nonexistent/.git",
    "GIT_INDEX_FILE": "/nonexistent/index",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "commit.gpgsign",
    "GIT_CONFIG_VALUE_0": "true",
}


def demo(cwd, *words):
    said = io.StringIO()
    code = main(["demo", *words], Tools(cwd=cwd, environ=HOSTILE, out=said, err=said))
    return code, said.getvalue()


def git(folder, *words):
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_demo__kept__trains_six_times_and_leaves_two_reports(tmp_path):
    code, said = demo(tmp_path, "--keep", "kept")

    assert code == 0, said
    paths = git(tmp_path / "kept" / "remote.git", "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    assert len([path for path in paths if path.endswith("record.json")]) == 6
    reports = [path for path in paths if path.endswith("report.json")]
    assert len(reports) == 2
    texts = [git(tmp_path / "kept" / "remote.git", "show", f"gitops-ml/reports:{path}") for path in reports]
    compared = [one for text in texts for one in json.loads(text)["experiments"] if one["relation"] == "changed"]
    (accuracy,) = (metric for metric in compared[0]["metrics"] if metric["track"]["name"] == "accuracy")
    values = [sample["value"] for side in ("base", "head") for sample in accuracy[side]["samples"]]
    assert len(values) == 6
    assert all(0.88 < value < 0.97 for value in values)
    assert len(set(values)) > 1
    # What it says is there, is there.
    state = tmp_path / "kept" / "repository" / ".gitops-ml"
    for place in (state / "comment.md", state / "comment.html"):
        assert str(place) in said
        assert place.stat().st_size > 1000
    assert "<code>" not in said
    assert "params.hidden" in said
    assert not git(tmp_path / "kept" / "repository", "status", "--porcelain")


def test_demo__folder_with_something_in_it__is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years of work")

    code, said = demo(tmp_path, "--keep", ".")

    assert code == 2
    assert said == f"{tmp_path} is not an empty folder; the demo overwrites nothing, so name a new one with --keep\n"
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_demo__git_fails__says_which_command_and_leaves_nothing(tmp_path):
    (tmp_path / "git").write_text("#!/bin/sh\necho 'disk full' >&2\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-m", "gitops_ml", "demo"],
        env={**environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr == "git init failed in the demo's repository: disk full\n"
    assert [file.name for file in tmp_path.iterdir()] == ["git"]

"""``gitops-ml demo``: the whole loop on a real training, in a throw-away repository with a remote of its own.

It goes the way that a user goes, through the same commands, and touches nothing outside its folder.
"""

import argparse
import contextlib
import dataclasses
import html
import importlib
import importlib.resources
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitops_ml.errors import ExitCode, GitError, UserError
from gitops_ml.tools import Tools

BRANCH = "wider-network"
BEFORE, AFTER = "hidden: 16", "hidden: 128"
GIT_LIMIT_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="work in DIR (new or empty) and leave everything there"
    )


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Train main, open a change, train it, compare, report and comment."""
    began = time.monotonic()
    with _folder(tools.cwd / args.keep if args.keep else None) as folder:
        walk = _Walk(folder, tools)
        code = walk.main_branch() or walk.change()
        if code:
            tools.note(f"the demo stopped at this command, which ended with exit code {code}")
            return code
        walk.summary(kept=args.keep is not None, took_s=time.monotonic() - began)
    return ExitCode.OK


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="gitops-ml-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name).resolve()
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UserError(f"{keep} is not an empty folder; the demo overwrites nothing, so name a new one with --keep")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


class _Walk:
    """The steps, in one folder that holds ``repository`` and its bare ``remote.git``."""

    def __init__(self, folder: Path, tools: Tools) -> None:
        self.repository = folder / "repository"
        self.remote = folder / "remote.git"
        self.say = tools.say
        # One stream, so that commands, their progress and their results stay in order in a pipe too.
        self.tools = dataclasses.replace(tools, cwd=self.repository, environ=_environment(tools.environ), err=tools.out)

    def main_branch(self) -> int:
        """Make the repository with one experiment on main, train it and push its report."""
        self._title("1. A repository with one experiment: train main")
        with importlib.resources.as_file(importlib.resources.files("gitops_ml") / "examples" / "digits") as example:
            shutil.copytree(example, self.repository, ignore=shutil.ignore_patterns("__pycache__", "out", ".gitops-ml"))
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        self._git("init", "--quiet", "--initial-branch=main")
        self._git("remote", "add", "origin", str(self.remote))
        self._commit("Train the digits", "main")
        return self._commands("validate", "run", "report --push")

    def change(self) -> int:
        """Alter one hyperparameter on a branch, train it, compare it with main, report and comment."""
        self._title(f"2. A change on the branch {BRANCH}, `{BEFORE}` to `{AFTER}`: train it and compare it with main")
        self._git("switch", "--quiet", "--create", BRANCH)
        spec = self.repository / "experiment.yaml"
        text = spec.read_text(encoding="utf-8")
        if text.count(BEFORE) != 1:
            raise AssertionError(f"the example's spec does not say `{BEFORE}` once")
        spec.write_text(text.replace(BEFORE, AFTER), encoding="utf-8")
        self._commit("Widen the network", BRANCH)
        # A gate that fails is something to show here, no failure of the demo.
        return self._commands("plan", "run", "compare", "report --push", "comment", fine=(ExitCode.FINDINGS,))

    def summary(self, *, kept: bool, took_s: float) -> None:
        """Show the comment and say where everything lies."""
        comment = self.repository / ".gitops-ml" / "comment.md"
        self._title("3. The comment that a reviewer reads in the pull or merge request")
        self.say(_plain(comment.read_text(encoding="utf-8")))
        self._title(f"Done in {took_s:.0f} s: six trainings, two reports, one comment")
        if not kept:
            self.say("All of it lay in a temporary folder and is gone. To look around: gitops-ml demo --keep DIR")
            return
        program = "gitops-ml" if shutil.which("gitops-ml") else f"{sys.executable} -m gitops_ml"
        git = f"git -C {shlex.quote(str(self.remote))}"
        for name, place in {
            "repository": f"{self.repository} (branches main and {BRANCH})",
            "comment": str(comment),
            "preview": str(comment.with_suffix(".html")),
            "reports": f"{git} show gitops-ml/reports:README.md",
            "ledger": f"{git} log --stat gitops-ml/reports",
            "try next": f"cd {shlex.quote(str(self.repository))} && {program} run   (nothing to do)",
        }.items():
            self.say(f"{name:<12}{place}")

    def _title(self, text: str) -> None:
        self.say(f"\n== {text}\n")

    def _commands(self, *lines: str, fine: tuple[int, ...] = ()) -> int:
        for line in lines:
            self.say(f"$ gitops-ml {line}")
            # As if each were a process of its own: nothing that one command learnt reaches the next.
            code = _command(shlex.split(line), dataclasses.replace(self.tools))
            if code and code not in fine:
                return code
            self.say()
        return ExitCode.OK

    def _commit(self, message: str, branch: str) -> None:
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", message)
        self._git("push", "--quiet", "--set-upstream", "origin", branch)

    def _git(self, *words: str) -> None:
        done = subprocess.run(
            ["git", *words],
            cwd=self.repository,
            env=self.tools.environ,
            capture_output=True,
            text=True,
            timeout=GIT_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise GitError(f"git {words[0]} failed in the demo's repository: {done.stderr.strip()}")


def _plain(comment: str) -> str:
    """Return the comment's Markdown without the HTML in it, which a forge renders and a terminal does not."""
    text = re.sub(r"<!--.*?-->\n?", "", comment)
    text = re.sub(r"<summary>(.*?)</summary>", r"> \1", text)
    text = re.sub(r"!\[(.*?)\]\(.*?\)", r"[picture: \1]", text)
    text = re.sub(r"</?(code|details|sub|b)>", "", text)
    return html.unescape(re.sub(r"\n{3,}", "\n\n", text)).strip()


def _command(words: list[str], tools: Tools) -> int:
    module = importlib.import_module(f"gitops_ml.commands.{words[0]}")
    parser = argparse.ArgumentParser(prog=f"gitops-ml {words[0]}")
    module.configure(parser)
    with contextlib.closing(tools):
        return int(module.run(parser.parse_args(words[1:]), tools))


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the caller's git settings and CI, so that the demo is the same everywhere."""
    foreign = ("GIT_", "GITHUB_", "GITLAB_", "CI_")
    kept = {name: value for name, value in environ.items() if name != "CI" and not name.startswith(foreign)}
    person = {"NAME": "Demo", "EMAIL": "demo@example.invalid"}
    return {
        **kept,
        **{f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in person.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }

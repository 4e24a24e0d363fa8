"""Jobs of a CI, in this process: a remote, events with their payloads, and for each job a clone of its own."""

import dataclasses
import io
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from gitops_ml.backends.base import JobStatus
from gitops_ml.main import main
from gitops_ml.planning import Estimate
from gitops_ml.tools import Tools
from tests.fakes.repositories import ENVIRON, commit, git, make_remote, make_repository

TRAIN = """
import json, os, sys
lr = float(sys.argv[1])
seed = int(os.environ["GITOPS_ML_SEED"])
print("::add-mask::everything")
json.dump({"accuracy": 1 - abs(lr - 0.1) + seed / 1000}, open("metrics.json", "w"))
"""
SPEC = """
version: 1
name: digits
run: python3 train.py ${params.lr}
code: {include: [train.py]}
params: {lr: 0.2}
seeds: [0, 1, 2]
metrics:
  read: [metrics.json]
  track: [{name: accuracy, goal: maximize, gate: fail, tolerance: 0.001}]
"""
PRICE_USD = Decimal(4)
BETTER, WORSE = SPEC.replace("lr: 0.2", "lr: 0.1"), SPEC.replace("lr: 0.2", "lr: 0.5")


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str
    outputs: dict[str, str]
    summary: str
    statuses: dict[str, Any]
    comment: str

    @property
    def trained(self) -> int:
        found = re.search(r"(\d+) trials? succeeded", self.out)
        return int(found[1]) if found else 0


class World:
    """A remote with one experiment on main, and jobs that see a clone each, as a CI's runners do."""

    def __init__(self, tmp_path: Path, files: dict[str, str]) -> None:
        self.folder = tmp_path
        self.remote = make_remote(tmp_path / "remote.git")
        self.work = make_repository(tmp_path / "work", files, remote=self.remote)
        self.runs = 0
        self.tools: type[Tools] = Tools

    def push(self, files: dict[str, str], branch: str = "wider") -> str:
        if branch not in git(self.work, "branch", "--format=%(refname:short)").splitlines():
            git(self.work, "switch", "-q", "-c", branch)
        git(self.work, "switch", "-q", branch)
        head = commit(self.work, files, f"change {self.runs}")
        git(self.work, "push", "-q", "-u", "origin", branch)
        return head

    def ci(
        self,
        name: str,
        payload: dict[str, Any],
        *options: str,
        keep: str | None = None,
        command: str = "ci",
        **more: str,
    ) -> Result:
        """Run one job of one event on a clone of its own, unless it is to be kept under a name."""
        self.runs += 1
        place = self.folder / (keep or f"runner{self.runs}")
        if not place.exists():
            git(self.folder, "clone", "-q", self.remote.as_uri(), str(place))
        files = {key: self.folder / f"{key}{self.runs}" for key in ("event", "output", "summary")}
        files["event"].write_text(json.dumps(payload))
        environ = {
            **ENVIRON,
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "acme/vision",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_EVENT_NAME": name,
            "GITHUB_EVENT_PATH": str(files["event"]),
            "GITHUB_OUTPUT": str(files["output"]),
            "GITHUB_STEP_SUMMARY": str(files["summary"]),
            "GITHUB_RUN_ID": str(1000 + self.runs),
            "USER": "dana",
            **more,
        }
        out, err = io.StringIO(), io.StringIO()
        tools = self.tools(cwd=place, environ=environ, out=out, err=err)
        code = main([command, "--forge", "local", *options], tools)
        state = place / ".gitops-ml"
        statuses, comment = state / "statuses.json", state / "comment.md"
        return Result(
            code=code,
            out=out.getvalue(),
            err=err.getvalue(),
            outputs=_outputs(files["output"]),
            summary=files["summary"].read_text() if files["summary"].exists() else "",
            statuses=json.loads(statuses.read_text()) if statuses.exists() else {},
            comment=comment.read_text() if comment.exists() else "",
        )

    def pushed(self, head: str, branch: str = "main", before: str = "0" * 40, **more: Any) -> Result:
        payload = {"ref": f"refs/heads/{branch}", "before": before, "after": head, "repository": HOME}
        return self.ci("push", payload, **more)

    def changed(self, head: str, *options: str, **more: Any) -> Result:
        return self.ci("pull_request", pull_payload(head), *options, **more)

    def main(self) -> str:
        return git(self.remote, "rev-parse", "main")

    def ledger(self) -> list[str]:
        found = git(self.remote, "for-each-ref", "refs/heads/gitops-ml/reports")
        return git(self.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines() if found else []

    def merge(self, branch: str = "wider") -> str:
        git(self.work, "switch", "-q", "main")
        git(self.work, "merge", "-q", "--no-ff", "-m", "merge", branch)
        git(self.work, "push", "-q", "origin", "main")
        return git(self.work, "rev-parse", "HEAD")


HOME = {"id": 1, "default_branch": "main"}


def pull_payload(head: str, action: str = "synchronize", *, draft: bool = False, fork: bool = False) -> dict[str, Any]:
    where = {"sha": head, "ref": "wider", "repo": {"id": 2 if fork else 1}}
    pull = {"number": 7, "head": where, "base": {"ref": "main"}, "draft": draft}
    return {"action": action, "pull_request": pull, "repository": HOME, "sender": {"login": "dana"}}


def _outputs(file: Path) -> dict[str, str]:
    text = file.read_text() if file.exists() else ""
    return {name: value for name, _, value in re.findall(r"(?m)^([a-z-]+)<<(\S+)\n(.*)\n\2$", text)}


def comment_payload(body: str, author: str = "dana") -> dict[str, Any]:
    return {
        "action": "created",
        "issue": {"number": 7, "pull_request": {}},
        "comment": {"body": body, "user": {"login": author}},
        "repository": HOME,
        "sender": {"login": author},
    }


class PricedTools(Tools):
    """Trainings on this machine that cost 4 USD each, as they would in a cloud."""

    def backend(self, name: str) -> Any:
        return _Priced(super().backend(name))


class _Priced:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def estimate(self, trial: Any, *, live: bool = False) -> Estimate:
        found = self._backend.estimate(trial, live=live)
        return dataclasses.replace(found, cost_usd=PRICE_USD, worst_usd=PRICE_USD)

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        statuses = self._backend.poll(keys)
        return {key: dataclasses.replace(status, cost_usd=float(PRICE_USD)) for key, status in statuses.items()}

"""One face for the fakes of all forges, so that one test says what each of them must do."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gitops_ml.forges._calls import Patience
from gitops_ml.forges.github import GithubForge
from gitops_ml.forges.gitlab import GitlabForge
from gitops_ml.forges.local import LocalForge
from gitops_ml.git import Head
from tests.fakes.github import FakeGitHub
from tests.fakes.gitlab import FakeGitLab

HEAD = "a" * 40
NUMBER = 7


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now

    def patience(self, cap_s: float = 60.0) -> Patience:
        return Patience(cap_s=cap_s, sleep=self.sleep, clock=self, jitter=lambda: 1.0)


@dataclasses.dataclass
class GithubPlace:
    """A pull request, seen by the Actions token."""

    fake: FakeGitHub
    clock: Clock = dataclasses.field(default_factory=Clock)
    close: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    number = NUMBER
    name = "github"
    read_comments = "POST", "(/api)?/graphql"
    create_comment = "POST", r".*/issues/7/comments"
    edit_comment = "PATCH", r".*/issues/comments/[0-9]+"
    write_status = "POST", r".*/statuses/.*"

    def environ(self, *, run: int = 5, attempt: int = 1, token: str = "ghs_canary0") -> dict[str, str]:
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": self.fake.renamed_from or self.fake.repository,
            "GITHUB_API_URL": self.fake.url + self.fake.prefix,
            "GITHUB_SERVER_URL": self.fake.url,
            "GITHUB_RUN_ID": str(run),
            "GITHUB_RUN_ATTEMPT": str(attempt),
            "GITHUB_REF": f"refs/pull/{NUMBER}/merge",
            "GITHUB_TOKEN": token,
        }

    def forge(
        self,
        *,
        cap_s: float = 60.0,
        timeout_s: int = 15,
        answer_s: float = 60,
        environ: Any = None,
        uploads_url: str | None = None,
        **run: Any,
    ) -> GithubForge:
        forge = GithubForge(
            SimpleNamespace(remote_url=lambda remote: None),
            environ if environ is not None else self.environ(**run),
            patience=self.clock.patience(cap_s),
            now=self.clock,
            timeout_s=timeout_s,
            answer_s=answer_s,
            uploads_url=uploads_url,
        )
        self.close.callback(forge.close)
        return forge

    def own(self) -> list[str]:
        return [comment.body for comment in self.fake.by("github-actions[bot]") if comment.pull == NUMBER]

    def add_own(self, text: str) -> None:
        self.fake.add_comment(text, login="github-actions[bot]", bot=True)

    def foreign(self) -> list[str]:
        return [comment.body for comment in self.fake.by("rob")]

    def add_foreign(self, text: str) -> None:
        self.fake.add_comment(text, login="rob")

    def remove_own(self) -> None:
        for comment in self.fake.by("github-actions[bot]"):
            self.fake.comments.remove(comment)

    def close_change(self) -> None:
        self.fake.pulls[NUMBER].state = "closed"

    def push(self, head: str) -> None:
        self.fake.pulls[NUMBER].head = head

    def statuses(self) -> list[tuple[str, str, str]]:
        return [(one["context"], one["state"], one.get("description", "")) for one in self.fake.statuses]

    def set_run(self, number: int, *, over: bool) -> None:
        self.fake.runs[number] = "completed" if over else "in_progress"

    def forbid(self) -> None:
        self.fake.tokens["ghs_canary0"].may = frozenset()

    def expire(self) -> None:
        self.fake.tokens["ghs_canary0"].valid = False


@dataclasses.dataclass
class GitlabPlace:
    """A merge request, seen by a project access token."""

    fake: FakeGitLab
    clock: Clock = dataclasses.field(default_factory=Clock)
    close: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    number = NUMBER
    name = "gitlab"
    read_comments = "GET", r".*/merge_requests/7/notes"
    create_comment = "POST", r".*/merge_requests/7/notes"
    edit_comment = "PUT", r".*/notes/[0-9]+"
    write_status = "POST", r".*/statuses/.*"

    def environ(self, *, run: int = 5, attempt: int = 1, token: str = "glpat-canary0") -> dict[str, str]:
        return {
            "GITLAB_CI": "true",
            "CI_PROJECT_PATH": self.fake.project,
            "CI_PROJECT_ID": "42",
            "CI_SERVER_URL": self.fake.url + self.fake.prefix,
            "CI_API_V4_URL": f"{self.fake.url}{self.fake.prefix}/api/v4",
            "CI_PIPELINE_ID": str(run),
            "CI_JOB_ID": str(attempt),
            "CI_COMMIT_SHA": HEAD,
            "CI_MERGE_REQUEST_IID": str(NUMBER),
            "GITLAB_TOKEN": token,
        }

    def forge(
        self,
        *,
        cap_s: float = 60.0,
        timeout_s: float = 15,
        answer_s: float = 60,
        archive_s: float = 900,
        environ: Any = None,
        **run: Any,
    ) -> GitlabForge:
        forge = GitlabForge(
            SimpleNamespace(remote_url=lambda remote: None),
            environ if environ is not None else self.environ(**run),
            patience=self.clock.patience(cap_s),
            now=self.clock,
            timeout_s=timeout_s,
            answer_s=answer_s,
            archive_s=archive_s,
        )
        self.close.callback(forge.close)
        return forge

    def own(self) -> list[str]:
        return [note.body for note in self.fake.by(90) if note.request == NUMBER]

    def add_own(self, text: str) -> None:
        self.fake.add_comment(text, user=90)

    def foreign(self) -> list[str]:
        return [note.body for note in self.fake.by(2)]

    def add_foreign(self, text: str) -> None:
        self.fake.add_comment(text, user=2)

    def remove_own(self) -> None:
        for note in self.fake.by(90):
            self.fake.notes.remove(note)

    def close_change(self) -> None:
        self.fake.requests[NUMBER].state = "merged"

    def push(self, head: str) -> None:
        self.fake.requests[NUMBER].head = head

    def statuses(self) -> list[tuple[str, str, str]]:
        back = {"running": "pending", "failed": "failure"}
        return [
            (one["name"], back.get(one["state"], one["state"]), one.get("description", ""))
            for one in self.fake.statuses
        ]

    def set_run(self, number: int, *, over: bool) -> None:
        self.fake.pipelines[number] = "canceled" if over else "running"

    def forbid(self) -> None:
        self.fake.tokens["glpat-canary0"].level = 10

    def expire(self) -> None:
        self.fake.tokens["glpat-canary0"].valid = False


@dataclasses.dataclass
class LocalPlace:
    """A folder on one machine."""

    folder: Path
    number = 0
    name = "local"

    def forge(self, **run: Any) -> LocalForge:
        repository = SimpleNamespace(state=self.folder, head=lambda: Head(commit=HEAD, branch="larger-rate"))
        return LocalForge(repository, {"USER": "dana"})

    def own(self) -> list[str]:
        return [file.read_text() for file in sorted(self.folder.glob("*.md"))]

    def statuses(self) -> list[tuple[str, str, str]]:
        import json

        known = json.loads((self.folder / "statuses.json").read_text())
        return [(name, one["state"], one["text"]) for of_commit in known.values() for name, one in of_commit.items()]


@contextlib.contextmanager
def place(name: str, folder: Path) -> Iterator[Any]:
    """Open one of the three."""
    if name == "local":
        yield LocalPlace(folder)
        return
    fake, kind = (FakeGitHub(), GithubPlace) if name == "github" else (FakeGitLab(), GitlabPlace)
    with fake.running():
        there = kind(fake)
        with there.close:
            yield there

"""Many pushes to many changes, with jobs that are killed: what is said in the end is right, and nothing is lost."""

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.ci_jobs import HOME, Result, World, pull_payload
from tests.fakes.github import FakeGitHub, Pull, Token
from tests.fakes.repositories import ENVIRON, git
from tests.fakes.server import Call

CHANGES, PUSHES, AT_A_TIME = 10, 50, 3
_SLOW_TO_LOAD = (
    *("github", "matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "requests"),
    *("gitops_ml.commands.ci", "gitops_ml.backends.local", "gitops_ml.forges.github", "gitops_ml.plots"),
)
# One process and no interpreter: what is tested is what happens around it.
SPEC = """
version: 1
name: digits
run: printf '{"accuracy":0.%s}' ${params.rate} > metrics.json
code: {include: [code.sh]}
params: {rate: 500}
metrics: {read: [metrics.json], track: [{name: accuracy, goal: maximize, gate: warn}]}
"""


class _Job:
    """One run for one head, in a process of its own that may be killed from the outside."""

    def __init__(self, number: int, pull: int, head: str, process: Any, end: Any) -> None:
        self.number = number
        self.pull = pull
        self.head = head
        self.process = process
        self.end = end
        """The signal, and the count of its calls to the forge at which it comes; None: it lives."""
        self.calls = 0
        self.killed = False

    def kill(self, how: int) -> None:
        self.killed = True
        os.kill(self.process.pid, how)


def _read(log: Path) -> str:
    """Return what a job said; one that was killed before its first word left nothing."""
    return log.read_text() if log.exists() else ""


def _ci(place: str, environ: dict[str, str], log: str) -> None:
    """Be the process of one job."""
    with Path(log).open("w", encoding="utf-8") as out:
        code = main(["ci", "--forge", "github"], Tools(cwd=Path(place), environ=environ, out=out, err=out))
    os._exit(code)


class _Storm:
    def __init__(self, world: World, fake: FakeGitHub, seed: int) -> None:
        self.world = world
        self.fake = fake
        self.random = random.Random(seed)
        self.jobs: list[_Job] = []
        # Processes that are made from one which has everything loaded, and no thread.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.acceptance.test_ci_storm", *_SLOW_TO_LOAD])
        fake.before_answer = self._called

    def _called(self, call: Call) -> None:
        """Kill a job at the call that was chosen: after it took effect, before it is answered."""
        found = re.search(r"ghs_run([0-9]+)", call.headers.get("authorization", ""))
        job = next((one for one in self.jobs if found and one.number == int(found[1])), None)
        if job is None:
            return
        job.calls += 1
        if job.end is not None and job.end[1] == job.calls:
            job.kill(job.end[0])

    def push(self, pull: int) -> None:
        world, number = self.world, 2000 + len(self.jobs)
        branch = f"change-{pull}"
        spec = SPEC.replace("rate: 500", f"rate: {self.random.randrange(100, 1000)}")
        head = world.push({"experiment.yaml": spec, "note": str(number)}, branch)
        before = [job for job in self.jobs if job.pull == pull and job.process.is_alive()]
        with self.fake.lock:
            self.fake.pulls[pull].head = head
        for job in before:  # as a concurrency group does, or as one without does not
            if self.random.random() < 0.6:
                job.kill(self.random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
        ways = [None, None, None, (signal.SIGKILL, self.random.randint(1, 6)), (signal.SIGINT, 1)]
        self.jobs.append(self._started(number, pull, head, self.random.choice(ways)))

    def _started(self, number: int, pull: int, head: str, end: Any) -> _Job:
        world, token = self.world, f"ghs_run{number}"
        self.fake.tokens[token] = Token(login="github-actions[bot]", bot=True, server=True)
        place, event = world.folder / f"job{number}", world.folder / f"event{number}"
        git(world.folder, "clone", "-q", world.remote.as_uri(), str(place))
        payload = pull_payload(head)
        payload["pull_request"]["number"] = pull
        event.write_text(json.dumps(payload))
        environ = {
            **ENVIRON,
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": self.fake.repository,
            "GITHUB_API_URL": self.fake.url,
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_RUN_ID": str(number),
            "GITHUB_TOKEN": token,
        }
        process = self.context.Process(
            target=_ci, args=(str(place), environ, str(world.folder / f"log{number}")), daemon=True
        )
        job = _Job(number, pull, head, process, end)
        process.start()
        return job

    def reconcile(self, run: int) -> Result:
        fake = self.fake
        environ = {"GITHUB_API_URL": fake.url, "GITHUB_REPOSITORY": fake.repository, "GITHUB_TOKEN": "ghs_canary0"}
        environ |= {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_RUN_ID": str(run)}
        words = ("--forge", "github")
        payload = {"repository": HOME}
        return self.world.ci("schedule", payload, *words, command="reconcile", **environ)

    def wait(self, fewer_than: int) -> None:
        """Wait until fewer jobs than that are alive."""
        while len(alive := [job for job in self.jobs if job.process.is_alive()]) >= fewer_than:
            multiprocessing.connection.wait([job.process.sentinel for job in alive], timeout=60)


def test_ci__50_pushes_to_10_changes_with_jobs_killed__each_comment_is_of_its_newest_finished_head(tmp_path):
    world = World(tmp_path, {"experiment.yaml": SPEC, "code.sh": "", ".gitignore": ".gitops-ml/\n"})
    fake = FakeGitHub()
    pulls = list(range(1, CHANGES + 1))
    fake.pulls = {number: Pull(number=number, head_ref=f"change-{number}") for number in pulls}
    with fake.running():
        storm = _Storm(world, fake, seed=20261123)
        for number in storm.random.sample(pulls * (PUSHES // CHANGES), PUSHES):
            storm.wait(AT_A_TIME)
            storm.push(number)
        storm.wait(1)
        said = [dataclasses.replace(comment) for comment in fake.comments]
        fake.runs = {job.number: "completed" for job in storm.jobs}
        swept, again = (storm.reconcile(number) for number in (9001, 9002))

    logs = {job.number: _read(tmp_path / f"log{job.number}") for job in storm.jobs}
    finished = [job for job in storm.jobs if job.process.exitcode == ExitCode.OK]
    odd = [job for job in storm.jobs if not job.killed and job not in finished]
    assert not odd, f"{odd[0].process.exitcode}: {logs[odd[0].number]}"
    assert len(storm.jobs) == PUSHES
    assert 10 < len(finished) < PUSHES - 5, "the storm has to hold both"

    reports = [path for path in world.ledger() if path.startswith("reports/digits/") and path.endswith("report.json")]
    assert [job.head for job in finished if not any(job.head[:12] in path for path in reports)] == []
    for pull in pulls:
        comments = [comment for comment in said if comment.pull == pull]
        mine = [job for job in storm.jobs if job.pull == pull]
        newest = max((job.number for job in finished if job.pull == pull), default=0)
        # Of a job that was killed after it had spoken the word stands too: it is the newer one.
        fitting = [job.head for job in mine if job.number == newest or (job.killed and job.number > newest)]
        assert len(comments) == (1 if newest else len(comments)) <= 1, pull
        assert all(any(head[:12] in comment.body for head in fitting) for comment in comments), pull

    # One look afterwards: whatever was killed, nothing waits for ever, and what is known is said once.
    assert (swept.code, again.code) == (ExitCode.OK, ExitCode.OK), swept.err + again.err
    assert "published" not in again.out
    for pull in pulls:
        head = fake.pulls[pull].head
        states = [one["state"] for one in fake.statuses if one["sha"] == head]
        bodies = [comment.body for comment in fake.comments if comment.pull == pull]
        assert states[-1:] != ["pending"], pull
        assert len(bodies) <= 1, pull
        if any(head[:12] in path for path in reports):
            assert states[-1:] == ["success"], pull
            assert head[:12] in bodies[0], pull

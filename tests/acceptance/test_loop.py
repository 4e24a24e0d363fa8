"""The whole loop as a user goes it: real repositories and remotes, real trainings, real kills.

The training is a few lines of standard library, so that a trial takes a moment; it adds a line to a file outside the
repository each time it runs, which is how the tests know what was really trained.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.main import main
from gitops_ml.tools import Tools

LEDGER = "gitops-ml/reports"
LIMIT_S = 60

TRAIN = """
import json, os, pathlib, sys, time

seed, lr, trained, mode = int(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
data = pathlib.Path(sys.argv[5]).read_text()
with trained.open("a") as file:
    file.write(f"{pathlib.Path(__file__).stem} {seed} {lr}\\n")
if mode == "fails":
    sys.exit("no such layer: conv9")
if mode == "hangs":
    time.sleep(600)
if mode == "chatters":
    while True:
        print("still at it", flush=True)
        time.sleep(0.1)
pathlib.Path("out").mkdir(exist_ok=True)
accuracy = 0.8 + lr + seed / 1000 + len(data) / 10000
values = {"accuracy": float("nan") if mode == "nan" else accuracy}
if mode != "no-metrics":
    pathlib.Path("out/metrics.json").write_text(json.dumps(values))
if mode != "silent":
    print("done")
"""

SPEC = """
version: 1
name: {name}
run: python3 {script} ${{trial.seed}} ${{params.lr}} {trained} {mode} ${{data.train}}
code: {{include: [{script}]}}
data: [{{name: train, uri: data/{name}.txt}}]
params: {{lr: 0.1}}
seeds: [0, 1]
{budget}
metrics:
  read: [out/metrics.json]
  track: [{{name: accuracy, goal: maximize, gate: fail}}]
"""


class Checkout:
    """A clone with its bare remote, and gitops-ml to be called in it."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "repository"
        self.remote = folder / "remote.git"
        self.trained = folder / "trained.txt"
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{role}_NAME": "Ada" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "ada@example.invalid" for role in ("AUTHOR", "COMMITTER")},
        }
        self.top.mkdir()
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", str(self.remote))

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.top, env=self.environ, capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        return done.stdout

    def write(self, path: str, text: str) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def replace(self, path: str, before: str, after: str) -> None:
        text = (self.top / path).read_text(encoding="utf-8")
        assert before in text
        self.write(path, text.replace(before, after))

    def experiment(self, name: str, *, mode: str = "works", budget: str = "") -> None:
        script = f"{name}.py"
        self.write(script, TRAIN)
        self.write(f"data/{name}.txt", "1 2 3\n")
        text = SPEC.format(name=name, script=script, trained=self.trained, mode=mode, budget=budget)
        self.write(f"experiments/{name}.yaml", text.lstrip())

    def commit(self, message: str = "change") -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def call(self, *words: str) -> tuple[int, str]:
        """Run a command in this process and return its exit code and all that it said."""
        said = io.StringIO()
        code = main(words, Tools(cwd=self.top, environ=self.environ, out=said, err=said))
        assert code != 3, said.getvalue()
        return code, said.getvalue()

    def process(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "gitops_ml", *words],
            cwd=self.top,
            env={**self.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def trainings(self) -> list[str]:
        """Return what was trained since the last question, sorted."""
        lines = self.trained.read_text().splitlines() if self.trained.exists() else []
        self.trained.unlink(missing_ok=True)
        return sorted(lines)

    def ledger(self) -> list[str]:
        listing = subprocess.run(
            ["git", "--git-dir", str(self.remote), "ls-tree", "-r", "--name-only", LEDGER],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return listing.stdout.splitlines()

    def records(self) -> list[str]:
        return [path for path in self.ledger() if re.fullmatch(r"records/../[0-9a-f]{64}/record\.json", path)]

    def reports(self) -> list[str]:
        return [path for path in self.ledger() if path.startswith("reports/") and path.endswith("/report.json")]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def trained_main(tmp_path_factory):
    """Two experiments, trained on main, and a copy of it all: paths are part of a repository's state."""
    folder, copy = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("copy") / "two"
    checkout = Checkout(folder)
    checkout.experiment("one")
    checkout.experiment("two")
    checkout.commit("Begin")
    checkout.git("push", "--quiet", "origin", "main")
    code, said = checkout.call("run")
    assert code == 0, said
    assert checkout.trainings() == ["one 0 0.1", "one 1 0.1", "two 0 0.1", "two 1 0.1"]
    checkout.git("switch", "--quiet", "--create", "change")
    shutil.copytree(folder, copy, symlinks=True)
    return checkout, folder, copy


@pytest.fixture
def two(trained_main):
    """Two experiments, trained on main, with a branch checked out."""
    checkout, folder, copy = trained_main
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    checkout.top = folder / "repository"
    return checkout


# Nothing trains twice, and exactly what is affected trains


def test_run__again__trains_nothing_and_says_so(two):
    code, said = two.call("run")

    assert (code, two.trainings()) == (0, [])
    assert "nothing to do" in said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("version: 1", "# a comment\nversion: 1"),
        ("gate: fail", "gate: warn, tolerance: 1%, floor: 0.5"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nlabels: {team: vision}\ndescription: The same"),
        ("seeds: [0, 1]", "seeds: [1, 0]"),
        ("params: {lr: 0.1}", "params: {lr: 1e-1}"),
    ],
    ids=["comment", "gates", "words", "order of seeds", "spelling of a number"],
)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "uncommitted"])
def test_run__spec_says_the_same_training__trains_nothing(before, after, committed, two):
    two.replace("experiments/one.yaml", before, after)
    if committed:
        two.commit()

    code, said = two.call("run")

    assert (code, two.trainings()) == (0, []), said


@pytest.mark.parametrize(
    ("path", "before", "after", "trained"),
    [
        ("experiments/one.yaml", "lr: 0.1", "lr: 0.2", ["one 0 0.2", "one 1 0.2"]),
        ("experiments/one.yaml", "[0, 1]", "[0, 1, 2]", ["one 2 0.1"]),
        ("two.py", "accuracy = 0.8", "accuracy = 0.7", ["two 0 0.1", "two 1 0.1"]),
        ("data/two.txt", "3", "4", ["two 0 0.1", "two 1 0.1"]),
    ],
    ids=["parameter", "seed", "included source", "data"],
)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "uncommitted"])
def test_run__training_differs__trains_exactly_what_is_affected(path, before, after, trained, committed, two):
    two.replace(path, before, after)
    if committed:
        two.commit()

    code, said = two.call("run")

    assert (code, two.trainings()) == (0, trained), said
    assert two.call("run")[0] == 0
    assert two.trainings() == []


def test_run__file_that_is_not_included__trains_nothing(two):
    two.write("notes.py", "print('a scratch file')\n")
    two.write("README.md", "# Two experiments\n")
    two.commit()

    code, said = two.call("run")

    assert (code, two.trainings()) == (0, []), said


def test_run__fresh_clone__reuses_what_was_pushed(two, tmp_path):
    two.git("switch", "--quiet", "main")
    assert two.call("report", "--push")[0] == 0
    two.git("clone", "--quiet", str(two.remote), str(tmp_path / "clone"))
    two.top = tmp_path / "clone"

    code, said = two.call("run")

    assert (code, two.trainings()) == (0, []), said


# The change against main


def test_compare__worse_than_main__ends_with_1_and_says_so(two):
    two.replace("experiments/one.yaml", "lr: 0.1", "lr: 0.01")
    two.commit()
    two.call("run")

    code, said = two.call("compare", "--format", "json")

    (experiment,) = json.loads(said)["experiments"]
    (metric,) = experiment["metrics"]
    assert (code, experiment["name"], metric["verdict"], metric["gate"]) == (1, "one", "worse", "fail")
    assert metric["base"]["mean"] == pytest.approx(0.9011)
    assert metric["head"]["mean"] == pytest.approx(0.8111)


def test_report_and_comment__of_a_change__are_there_once_however_often(two):
    two.replace("experiments/one.yaml", "lr: 0.1", "lr: 0.2")
    two.commit()
    two.call("run")

    for _ in range(3):
        assert two.call("report", "--push")[0] == 0
        assert two.call("comment")[0] == 0

    assert len(two.reports()) == 1
    assert len(two.records()) == len(set(two.records())) == 6
    comment = (two.top / ".gitops-ml" / "comment.md").read_text(encoding="utf-8")
    assert "accuracy" in comment
    assert comment.count("<!-- gitops-ml comment=") == 1


def test_loop__all_of_it__leaves_the_users_repository_as_it_was(two):
    def state():
        files = [file for file in (two.top / ".git").rglob("*") if file.is_file()]
        return {str(file): file.read_bytes() for file in files} | {"status": two.git("status", "--porcelain").encode()}

    two.replace("experiments/one.yaml", "lr: 0.1", "lr: 0.2")
    two.git("status", "--porcelain")  # git may refresh its own index here, once
    before = state()
    for words in (["validate"], ["plan"], ["run"], ["compare"], ["report", "--push"], ["comment"]):
        two.call(*words)

    assert state() == before


# Trainings that go wrong


@pytest.mark.parametrize(
    ("mode", "budget", "code", "outcome", "reason"),
    [
        ("fails", "", 4, "failed", "no such layer: conv9"),
        ("hangs", "budget: {no_output: 1s, max_duration: 30s}", 4, "timed out", "printed nothing for"),
        ("chatters", "budget: {max_duration: 1s}", 4, "timed out", "max_duration"),
        ("no-metrics", "", 4, "failed", "wrote no metrics"),
    ],
)
def test_run__training_goes_wrong__has_its_own_outcome_and_the_report_says_it(mode, budget, code, outcome, reason, two):
    two.experiment("one", mode=mode, budget=budget)
    two.commit()

    found, said = two.call("run", "--jobs", "2")
    assert found == code, said
    assert outcome in said.replace("_", " ")
    assert len(two.trainings()) == 2

    assert two.call("compare")[0] == 1  # a gated metric without values does not pass
    assert two.call("report", "--push")[0] == 0
    (report,) = (path for path in two.ledger() if path.startswith("reports/one/") and path.endswith("report.md"))
    text = two.git("--git-dir", str(two.remote), "show", f"{LEDGER}:{report}")
    assert outcome in text
    assert reason in text
    attempts = [path for path in two.ledger() if path.startswith("attempts/")]
    assert len(attempts) == 2


def test_run__training_prints_nothing__succeeds(two):
    two.experiment("one", mode="silent")
    two.commit()

    code, said = two.call("run")

    assert code == 0, said
    assert two.call("compare")[0] == 0


def test_run__training_writes_nan__is_recorded_and_fails_the_gate(two):
    two.experiment("one", mode="nan")
    two.commit()

    assert two.call("run")[0] == 0
    code, said = two.call("compare", "--format", "json")
    (metric,) = json.loads(said)["experiments"][0]["metrics"]
    assert (code, metric["verdict"], metric["gate"]) == (1, "invalid", "fail")
    assert "nan" in two.call("compare")[1].lower()


def test_run__one_seed_fails__keeps_the_others_and_trains_only_that_one_again(two):
    two.replace("one.py", 'if mode == "fails":', 'if seed == 1 and not trained.with_name("mended").exists():')
    two.commit()
    assert two.call("run")[0] == 4
    assert two.trainings() == ["one 0 0.1", "one 1 0.1"]

    two.trained.with_name("mended").touch()
    code, said = two.call("run")

    assert (code, two.trainings()) == (0, ["one 1 0.1"]), said


# Killed at any point


@pytest.mark.parametrize("after_s", [0.15, 0.3, 0.45, 0.6, 0.8, 1.1])
def test_run_and_report__killed_and_called_again__leave_one_record_per_key_and_one_report(after_s, checkout):
    checkout.experiment("one")
    checkout.commit("Begin")
    checkout.git("push", "--quiet", "origin", "main")

    for words in (["run"], ["report", "--push"]):
        with checkout.process(*words) as process:
            try:
                process.wait(timeout=after_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            process.wait(timeout=LIMIT_S)
        code, said = checkout.call(*words)
        assert code == 0, said

    assert len(checkout.records()) == len(set(checkout.records())) == 2
    assert len(checkout.reports()) == 1
    assert checkout.call("run")[0] == 0
    trained = checkout.trainings()
    assert set(trained) == {"one 0 0.1", "one 1 0.1"}
    # Each at most twice: once cut off in its middle, once whole.
    assert max(trained.count(line) for line in trained) <= 2
    assert list((checkout.top / ".gitops-ml" / "results").rglob("record.json")) == []

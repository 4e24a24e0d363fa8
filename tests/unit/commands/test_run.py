"""``run``, ``status``, ``logs`` and ``cancel`` on a real repository, also when cut off."""

import functools
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops_ml.commands.run import default_jobs
from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.spec import Resources
from gitops_ml.tools import Tools
from tests.fakes.trials import trial, until

SPEC = """\
version: 1
name: {name}
run: {run}
code: {{include: [train.sh]}}
seeds: {seeds}
metrics:
  read: [out/metrics.json]
  track: [{{name: accuracy, goal: maximize}}]
"""
GOOD = "mkdir -p out\necho '{\"accuracy\": 0.5}' > out/metrics.json\necho seed $GITOPS_ML_SEED\n"


class Repo:
    """A repository with a spec, and the command line in it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._processes: list[subprocess.Popen[bytes]] = []
        # Neither the caller's git settings nor its CI.
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(top),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.top, env=self.environ, check=True, capture_output=True, timeout=60)

    def commit(self, script: str = GOOD, *, name: str = "digits", seeds: str = "[0, 1]") -> None:
        (self.top / "experiment.yaml").write_text(SPEC.format(name=name, run="bash train.sh", seeds=seeds))
        (self.top / "train.sh").write_text(script)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a state")

    def call(self, *argv: str) -> tuple[int, str, str]:
        tools = Tools(cwd=self.top, environ=self.environ, out=io.StringIO(), err=io.StringIO())
        tools.project = Project()
        code = main(argv, tools)
        assert isinstance(tools.out, io.StringIO)
        assert isinstance(tools.err, io.StringIO)
        return code, tools.out.getvalue(), tools.err.getvalue()

    def process(self, *argv: str) -> "subprocess.Popen[bytes]":
        """Start a command in a process of its own; ``said`` gives what it printed."""
        code = "import sys; from tests.unit.commands.test_run import process; process(sys.argv[1:])"
        with self._output(len(self._processes)).open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-c", code, *argv],
                cwd=self.top,
                env={"PYTHONPATH": str(Path(__file__).parents[3]), **self.environ},
                stdout=output,
                stderr=output,
            )
        self._processes.append(started)
        return started

    def said(self, process: "subprocess.Popen[bytes]") -> str:
        return self._output(self._processes.index(process)).read_text()

    def close(self) -> None:
        """Leave nothing running, whatever the test came to."""
        for process in self._processes:
            process.kill()
            process.wait(60)
        self.call("cancel", "--all")

    def _output(self, number: int) -> Path:
        return self.top / ".git" / f"said-{number}"

    def jobs(self) -> list[dict[str, object]]:
        return json.loads(self.call("status", "--format", "json")[1])

    def lines(self, name: str) -> int:
        file = self.top / name
        return len(file.read_text().splitlines()) if file.exists() else 0


def process(argv: list[str]) -> None:
    """What a command does in a process of its own."""
    tools = Tools(cwd=Path.cwd(), environ=os.environ)
    tools.project = Project()
    sys.exit(main(argv, tools))


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    repo = Repo(tmp_path)
    repo.git("init", "--quiet", "--initial-branch=main")
    (tmp_path / ".git/info/exclude").write_text("starts\ngate\n")
    yield repo
    repo.close()


def test_run__twice__trains_once_and_says_so(repo: Repo) -> None:
    repo.commit()

    first = repo.call("run")
    second = repo.call("run")

    assert first[:2] == (ExitCode.OK, "2 trials succeeded\n")
    assert second == (ExitCode.OK, "nothing to do: 2 trials planned, none to train\n", "")


def test_run__force__trains_the_next_repeat(repo: Repo) -> None:
    repo.commit(seeds="[0]")
    repo.call("run")

    code, out, _ = repo.call("run", "--force")

    assert (code, out) == (ExitCode.OK, "1 trial succeeded\n")
    assert len(repo.jobs()) == 2


def sweep(repo: Repo, script: str) -> None:
    """Commit a sweep over three points whose winner is confirmed on two fresh seeds."""
    more = "[0]\nparams: {lr: 1}\nsweep: {grid: {lr: [1, 2, 3]}, confirm: {seeds: [7, 8]}}"
    repo.commit(script, seeds=more)


LR = 'lr=$(python3 -c \'import json, os; print(json.load(open(os.environ["GITOPS_ML_PARAMS"]))["lr"])\')\n'
OF_LR = LR + 'mkdir -p out\necho "{\\"accuracy\\": 0.$lr}" > out/metrics.json\n'


def test_run__sweep__confirms_the_winner_on_both_sides_until_nothing_is_left(repo: Repo) -> None:
    sweep(repo, OF_LR)
    repo.git("switch", "--quiet", "--create", "change")
    sweep(repo, f"{OF_LR}: changed\n")

    code, out, _ = repo.call("run")

    assert (code, out) == (ExitCode.OK, "6 trials succeeded\n4 trials succeeded\n")
    planned = json.loads(repo.call("plan", "--format", "json")[1])["experiments"][0]
    for side in ("head", "base"):
        assert [(t["point"], t["seed"]) for t in planned[side][3:]] == [({"lr": 3}, 7), ({"lr": 3}, 8)]
    assert repo.call("run")[1] == "nothing to do: 10 trials planned, none to train\n"


def test_run__sweep_with_a_failing_point__confirms_the_best_of_the_others(repo: Repo) -> None:
    sweep(repo, f"{LR}test $lr != 3 || exit 7\n{OF_LR}")

    code, out, _ = repo.call("run")

    assert (code, out) == (ExitCode.TRIAL_FAILED, "2 trials succeeded, 1 trial did not succeed\n2 trials succeeded\n")
    comparison = json.loads(repo.call("compare", "--format", "json")[1])["experiments"][0]
    assert comparison["best_head"] == {"lr": 2}
    assert "best of 3 points for this change, judged on 2 fresh seeds" in comparison["notes"]
    assert repo.call("run")[1] == "1 trial did not succeed\n"  # what failed is tried again, and nothing else


def test_run__failing__shows_why_and_exits_4(repo: Repo) -> None:
    repo.commit("echo about to fail\nexit 7\n", seeds="[0]")

    code, out, err = repo.call("run")

    assert code == ExitCode.TRIAL_FAILED
    assert out == "1 trial did not succeed\n"
    assert "digits seed 0  failed: the training exited with code 7\n" in err
    assert err.count("  | about to fail\n") == 1


def test_run__files_that_git_does_not_know__are_named(repo: Repo) -> None:
    repo.commit(seeds="[0]")
    spec = repo.top / "experiment.yaml"
    spec.write_text(spec.read_text().replace("code: {include: [train.sh]}\n", ""))
    for name in ("util.py", "__pycache__/x.pyc", "out/metrics.json", "NOTES.md"):
        (repo.top / name).parent.mkdir(exist_ok=True)
        (repo.top / name).write_text("")

    notes = [line for line in repo.call("plan")[2].splitlines() if line.startswith("note: ")]

    assert notes == ["note: not part of the code, since git does not know of it: util.py; `git add` what is needed"]
    assert notes[0] in repo.call("run")[2]
    assert "note: " not in repo.call("run")[2]  # nothing is left to train


def test_run__store_git_wanted_later__is_said_until_it_is_trained_again(repo: Repo) -> None:
    script = f"{GOOD}echo '[[1]]' > out/confusion.json; head -c 2000000 /dev/zero > out/large.json\n"
    repo.commit(script)
    repo.call("run")
    spec = repo.top / "experiment.yaml"
    spec.write_text(
        f"{spec.read_text()}artifacts: [{{path: out/c*.json, store: git}}, {{path: out/l*.json, store: git}}]\n"
    )

    said = [repo.call(command)[2] for command in ("plan", "run")]
    forced = repo.call("run", "--force", "digits")[2]

    note = (
        "note: digits: 2 reused records without out/confusion.json on the ledger, where `store: git` now wants it; "
        "a record never changes: `gitops-ml run --force digits` trains new ones\n"
    )
    assert said == [note, note]
    assert note not in forced
    assert repo.call("plan")[2] == ""


def test_run__single_trial__shows_its_log(repo: Repo) -> None:
    repo.commit(seeds="[3]")

    assert "  | seed 3\n" in repo.call("run")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__signalled__ends_every_child_and_says_what_is_left(repo: Repo, number: int) -> None:
    repo.commit(f"echo $$ >> {repo.top}/starts\nsleep 600\n")
    run = repo.process("run", "--jobs", "1")
    until(lambda: repo.lines("starts"))
    pid = int((repo.top / "starts").read_text())

    run.send_signal(number)

    assert run.wait(60) == ExitCode.INTERRUPTED
    said = repo.said(run)
    assert "interrupted; the trainings that this run started are ended\n" in said
    assert "not started: digits seed 1 (" in said
    assert not Path(f"/proc/{pid}").exists()
    assert [job["state"] for job in repo.jobs()] == ["cancelled"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_run__killed_or_hung_up__the_next_run_collects_what_went_on(
    repo: Repo, number: int, request: pytest.FixtureRequest
) -> None:
    # Under nohup it would be ignored, and our children would inherit that.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)))
    os.mkfifo(repo.top / "gate")
    repo.commit(f"echo x >> {repo.top}/starts\ncat {repo.top}/gate\n{GOOD}", seeds="[0]")
    run = repo.process("run")
    until(lambda: repo.lines("starts"))
    run.send_signal(number)
    run.wait(60)
    (repo.top / "gate").write_text("go\n")

    code, out, err = repo.call("run")

    assert (code, out) == (ExitCode.OK, "1 trial succeeded\n")
    assert repo.lines("starts") == 1
    assert "attached" in err or "collected" in err
    assert repo.call("run")[1].startswith("nothing to do")


def test_run__two_at_once__train_once(repo: Repo) -> None:
    os.mkfifo(repo.top / "gate")
    repo.commit(f"echo x >> {repo.top}/starts\ncat {repo.top}/gate\n{GOOD}", seeds="[0]")
    first = repo.process("run")
    until(lambda: repo.lines("starts"))
    second = repo.process("run", "--jobs", "3")
    until(lambda: "attached to the job that is at work on it" in repo.said(second))
    (repo.top / "gate").write_text("go\n")

    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert repo.lines("starts") == 1


def test_detach__many_not_started__names_ten_and_counts_the_rest(repo: Repo) -> None:
    repo.commit("sleep 600\n", seeds=str(list(range(14))))

    code, _, err = repo.call("run", "--detach", "--jobs", "1")
    repo.call("cancel", "--all")

    assert code == ExitCode.OK
    assert err.count("not started: digits seed ") == 10
    assert "\nnot started: 3 more\n" in err


def test_detach__status_logs_cancel__by_key_and_experiment(repo: Repo) -> None:
    repo.commit(f"echo hello $GITOPS_ML_SEED\necho x >> {repo.top}/starts\nsleep 600\n")

    code, out, err = repo.call("run", "--detach", "--jobs", "2")
    until(lambda: repo.lines("starts") == 2)
    jobs = repo.jobs()
    key = str(jobs[0]["key"])
    log = repo.call("logs", key[:8])
    one = repo.call("cancel", key[:12])
    rest = repo.call("cancel", "digits")

    assert (code, out) == (ExitCode.OK, "2 trials at work\n")
    assert "`gitops-ml run` goes on from here" in err
    assert log[:2] == (ExitCode.OK, f"hello {jobs[0]['seed']}\n")
    assert one[1] == f"ended digits seed {jobs[0]['seed']} ({key[:12]})\n"
    assert rest[1].startswith("ended digits seed ")
    assert [job["state"] for job in repo.jobs()] == ["cancelled", "cancelled"]
    assert repo.call("cancel", "--all")[1] == "nothing to do: no such job is at work\n"
    over = f"digits seed {jobs[0]['seed']} ({key[:12]}) is over: cancelled"
    assert repo.call("cancel", key[:12])[1] == f"nothing to do: {over}\n"
    assert "cancelled" in repo.call("status", "digits")[1]


def test_status__sweep__tells_its_points_apart(repo: Repo) -> None:
    repo.commit(seeds="[0]\nparams: {lr: 1, size: 3}\nsweep: {grid: {lr: [1, 2]}}")
    repo.call("run")

    rows = sorted(line.split("  ")[1] for line in repo.call("status")[1].splitlines())

    assert rows == ["digits lr=1 seed 0", "digits lr=2 seed 0"]


def test_logs__no_such_job__says_what_there_is(repo: Repo) -> None:
    repo.commit(seeds="[0]")
    repo.call("run")

    assert repo.call("logs", "letters")[::2] == (
        ExitCode.USAGE,
        "no job has the experiment or key `letters`; experiments with jobs: digits\n",
    )


def test_cancel__nothing_named__is_refused(repo: Repo) -> None:
    repo.commit()

    assert repo.call("cancel")[::2] == (
        ExitCode.USAGE,
        "say which jobs to end: keys or experiments, or --all\n",
    )
    assert repo.call("status")[1] == "no jobs are known here\n"


def test_default_jobs__by_the_cpus_that_trials_ask_for() -> None:
    assert default_jobs([trial()], cpus=2) == 2
    assert default_jobs([trial()], cpus=64) == 4
    assert default_jobs([trial(resources=Resources(cpu=8)), trial(resources=Resources(cpu=2))], cpus=64) == 8
    assert default_jobs([trial(resources=Resources(cpu=8))], cpus=4) == 1

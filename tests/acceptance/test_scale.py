"""What a large ledger costs the git server: requests, counted, from every kind of clone."""

import json

import pytest

from gitops_ml.records import json_bytes, record_to_json
from tests.fakes import ledgers
from tests.fakes.githttp import GitServer
from tests.fakes.ledgers import command
from tests.fakes.repositories import commit, git, make_remote, make_repository

SPEC = """\
version: 1
name: digits
run: python train.py ${{params.lr}} ${{trial.seed}}
code: {{include: [train.py]}}
environment: {{python: "3.11", requirements: requirements.lock}}
params: {{lr: {lr}}}
sweep: {{grid: {{lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}}}
seeds: [{seeds}]
metrics:
  read: [out/metrics.json]
  track: [{{name: accuracy, goal: maximize}}]
"""


def spec(lr):
    return SPEC.format(lr=lr, seeds=", ".join(map(str, range(20))))


@pytest.fixture
def served(tmp_path):
    """A change of three commits, 20 commits of main beside it, and records of 60 of its 100 trials on the ledger."""
    (tmp_path / "srv").mkdir()
    with GitServer(tmp_path / "srv").running() as server:
        remote = make_remote(server.root / "vision.git")
        files = {"train.py": "pass", "requirements.lock": "# nothing", "experiment.yaml": spec(0.1)}
        work = make_repository(tmp_path / "work", files, remote=remote)
        for number in range(20):
            commit(work, {"notes.md": str(number)})
        git(work, "push", "-q", "origin", "main")
        git(work, "switch", "-q", "-c", "change", "HEAD~5")
        for number in range(3):
            commit(work, {"train.py": f"pass  # faster by {number}"})
        git(work, "push", "-q", "origin", "change")
        plan = json.loads(command(work, "plan", "--format", "json").out)
        keys = plan["to_run"][:60]
        assert len(plan["to_run"]) == 200
        kept = work / ".gitops-ml/results/records"
        for key in keys:
            file = kept / key[:2] / key / "record.json"
            file.parent.mkdir(parents=True)
            file.write_bytes(json_bytes({**record_to_json(ledgers.record()), "key": key}))
        assert command(work, "report", "--push").code == 0
        git(work, "switch", "-q", "-c", "merged")
        git(work, "merge", "-q", "--no-edit", "main")
        git(work, "push", "-q", "origin", "merged")
        git(work, "switch", "-q", "change")
        yield server


def cloned(server, tmp_path, *options):
    """Return a clone with these options, with the token where a checkout action leaves it."""
    header = f"http.{server.url}/.extraheader={server.header()}"
    folder = tmp_path / "clone"
    git(tmp_path, "-c", header, "clone", "-q", *options, f"{server.url}/vision.git", str(folder))
    git(folder, "config", *header.split("=", 1))
    return folder


def asked(server):
    return [f"{call.method} {call.path}" for call in server.calls]


# A clone of a part of the history has to ask for main, for the history up to the change, and for the baseline's files.
@pytest.mark.parametrize(
    ("options", "most"),
    [
        (["-b", "change"], 3),
        (["-b", "change", "--single-branch"], 6),
        (["-b", "change", "--filter=blob:none"], 6),
        (["-b", "change", "--depth=1"], 6),
        (["-b", "change", "--depth=2"], 6),
        (["-b", "change", "--depth=1", "--no-single-branch"], 6),
        (["-b", "merged", "--depth=1"], 6),
        (["-b", "main", "--depth=1"], 6),
    ],
    ids=["whole", "one branch", "without files", "one commit", "two commits", "one commit of each branch",
         "one commit of a test merge", "one commit of main"],
)  # fmt: skip
def test_plan__100_trials_on_each_side__asks_the_server_a_few_times(options, most, served, tmp_path):
    folder = cloned(served, tmp_path, *options)
    served.calls.clear()

    said = command(folder, "plan", "--format", "json")

    plan = json.loads(said.out)
    (experiment,) = plan["experiments"]
    assert (len(experiment["head"]), len(experiment["base"])) == (100, 100)
    assert [trial["action"] for trial in experiment["head"]].count("reuse") == (0 if "main" in options else 60)
    assert len(served.calls) <= most, asked(served)


def test_plan__again_in_a_clone_of_one_commit__says_the_same_in_6_requests(served, tmp_path):
    folder = cloned(served, tmp_path, "-b", "change", "--depth=1")
    first = command(folder, "plan", "--format", "json")
    served.calls.clear()

    again = command(folder, "plan", "--format", "json")

    assert again == first
    assert len(served.calls) <= 6, asked(served)


def test_log__new_results_on_the_ledger__are_fetched_in_3_requests(served, tmp_path):
    work = tmp_path / "work"
    git(work, "remote", "set-url", "origin", f"{served.url}/vision.git")
    git(work, "config", f"http.{served.url}/.extraheader", served.header())
    other = git(tmp_path, "-c", f"http.{served.url}/.extraheader={served.header()}", "clone", "-q",
                f"{served.url}/vision.git", str(tmp_path / "other"))  # fmt: skip
    assert other == ""
    assert len(json.loads(command(tmp_path / "other", "log", "--offline", "--format", "json").out)) > 0
    record = ledgers.record(0.5, seed=7)
    folder = work / ".gitops-ml/results/records" / record.key[:2] / record.key
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(json_bytes(record_to_json(record)))
    assert command(work, "report", "--push").code == 0
    git(tmp_path / "other", "config", f"http.{served.url}/.extraheader", served.header())
    served.calls.clear()

    rows = json.loads(command(tmp_path / "other", "log", "--format", "json").out)

    assert record.key in {key for row in rows for key in row["keys"]}
    assert len(served.calls) == 3

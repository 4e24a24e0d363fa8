"""A past commit or record once more: right code, right data, from git and the ledger alone."""

import gzip
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from gitops_ml.git import Repository
from gitops_ml.main import main
from gitops_ml.planning import digest
from tests.fakes.ci_jobs import PricedTools
from tests.fakes.ledgers import BRANCH, Said, command
from tests.fakes.repositories import ENVIRON, clone, commit, fingerprint, git, make_remote, make_repository, write

DIGITS = Path(__file__).parents[2] / "examples" / "digits"

TRAIN = """
import json, os, pathlib, sys

VERSION = 0
seed, lr, data = int(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3]).read_text()
pathlib.Path("out").mkdir(exist_ok=True)
metrics = {"accuracy": 0.5 + lr + seed / 1000, "rows": len(data.split()), "version": VERSION}
chance = pathlib.Path(sys.argv[4])
if chance.exists():
    metrics["accuracy"] += float(chance.read_text())
pathlib.Path("out/metrics.json").write_text(json.dumps(metrics))
"""

SPEC = """\
version: 1
name: {name}
run: python3 train.py ${{trial.seed}} ${{params.lr}} ${{data.train}} {chance}
data: [{{name: train, uri: data/train.txt}}]
params: {{lr: 0.1, act: relu}}
seeds: [0, 1]
{more}metrics:
  read: [out/metrics.json]
  track:
    - {{name: accuracy, goal: maximize, tolerance: 0.01}}
"""


@pytest.fixture
def environ(tmp_path):
    # The training's own `python3` is the one that runs the tests.
    path = f"{Path(sys.executable).parent}:{ENVIRON['PATH']}"
    return {**ENVIRON, "PATH": path, "HOME": str(tmp_path)}


@pytest.fixture
def remote(tmp_path):
    return make_remote(tmp_path / "remote.git")


@pytest.fixture
def work(tmp_path, remote):
    files = {"train.py": TRAIN, "data/train.txt": "1 2 3", "experiment.yaml": spec(tmp_path)}
    return make_repository(tmp_path / "work", files, remote=remote)


def spec(tmp_path, name="small", more=""):
    return SPEC.format(name=name, chance=tmp_path / "chance", more=more)


@pytest.fixture
def call(environ):
    def calling(folder: Path, *words: str, code: int = 0) -> Said:
        said = command(folder, *words, environ=environ)
        assert said.code == code, said.out + said.err
        return said

    return calling


def rerun(call, folder, *words):
    return json.loads(call(folder, "rerun", *words, "--format", "json").out)


def records(call, folder, *where):
    return json.loads(call(folder, "log", "--offline", "--format", "json", *where).out)


def record(call, folder, key):
    return json.loads(call(folder, "show", key, "--format", "json").out)


def test_rerun__digits_first_commit_with_todays_data__is_its_code_and_this_data(tmp_path, remote, call):
    work = make_repository(tmp_path / "work", {}, remote=remote)
    shutil.copytree(DIGITS, work, dirs_exist_ok=True)
    text = (work / "experiment.yaml").read_text()
    write(work, {"experiment.yaml": text.replace("epochs: 40", "epochs: 2").replace("seeds: [0, 1, 2]", "seeds: [0]")})
    first = commit(work, {}, "begin")
    call(work, "run")
    call(work, "report", "--push")
    rows = gzip.decompress((work / "data/digits-train.csv.gz").read_bytes()).splitlines(keepends=True)
    code = (work / "train.py").read_text()
    for number in range(1, 6):
        # Each version of the code leaves another metric, so that a record tells which one made it.
        files = {
            "train.py": code.replace("final = {", f'final = {{"version": {number}, ', 1),
            "data/digits-train.csv.gz": gzip.compress(b"".join(rows[: -10 * number]), mtime=0),
        }
        assert files["train.py"] != code
        commit(work, files, f"change {number}")
    before = fingerprint(work)

    said = rerun(call, work, first, "--data", "train=data/digits-train.csv.gz")

    (key,), (original,) = said["keys"], said["originals"]
    made, was = record(call, work, key), record(call, work, original)
    assert made["derived_from"] == original
    assert said["derived_from"] == {key: original}
    assert made["commit"] == was["commit"] == first
    assert "version" not in {scalar["name"] for scalar in made["scalars"]}
    changed = {name for name in made["document"] if made["document"][name] != was["document"][name]}
    assert changed == {"data"}
    todays = git(work, "rev-parse", "HEAD:data/digits-train.csv.gz")
    assert dict(made["document"]["data"])["train"] == f"git:{todays}"
    assert digest(made["document"]) == key
    (compared,) = said["comparison"]["experiments"]
    assert compared["name"] == "digits-mlp"
    assert [change["what"] for change in compared["changes"]] == ["data.train"]
    assert compared["metrics"][0]["base"]["mean"] != compared["metrics"][0]["head"]["mean"]
    assert fingerprint(work) == before


def test_rerun__squash_merged_branch_deleted_and_collected__works_from_a_fresh_clone(tmp_path, remote, work, call):
    git(work, "switch", "-q", "-c", "change")
    trained = commit(work, {"train.py": TRAIN.replace("VERSION = 0", "VERSION = 1")}, "try")
    git(work, "push", "-q", "origin", "change")
    call(work, "run")
    call(work, "report", "--push")
    git(work, "switch", "-q", "main")
    git(work, "merge", "-q", "--squash", "change")
    git(work, "commit", "-q", "-m", "Squashed")
    git(work, "push", "-q", "origin", "main")
    git(work, "push", "-q", "origin", "--delete", "change")
    git(remote, "config", "uploadpack.allowAnySHA1InWant", "false")
    git(remote, "reflog", "expire", "--expire=now", "--all")
    git(remote, "gc", "-q", "--prune=now")
    fresh = clone(remote, tmp_path / "fresh", "--depth=1")
    with Repository.find(fresh, ENVIRON) as repository:
        assert repository.resolve(trained) is None

    by_commit = rerun(call, fresh, trained[:9], "--param", "lr=0.2")
    key = by_commit["originals"][1]
    by_key = rerun(call, fresh, key[:10], "--seed", "5")

    assert by_commit["commit"] == by_key["commit"] == trained
    accuracies = {
        row["params"]["lr"]: row["metrics"]["accuracy"] for row in records(call, fresh) if len(row["seeds"]) == 2
    }
    assert accuracies == {0.1: pytest.approx(0.6005), 0.2: pytest.approx(0.7005)}
    made = record(call, fresh, by_key["keys"][0])
    assert (made["seed"], made["derived_from"]) == (5, key)
    assert {scalar["name"]: scalar["value"] for scalar in made["scalars"]}["version"] == 1


def test_rerun__nothing_changed__is_a_repeat_and_says_how_the_numbers_came_out(tmp_path, work, call):
    call(work, "run")

    same = call(work, "rerun", "HEAD")
    (tmp_path / "chance").write_text("0.001")
    near = call(work, "rerun", "HEAD")
    (tmp_path / "chance").write_text("0.1")
    far = call(work, "rerun", "HEAD", "--format", "json")

    assert same.out.splitlines()[-5:] == [
        "exact repeat of 2 runs: all 3 metrics are bit-equal",
        "  metric    again      largest difference",
        "  accuracy  bit-equal                   0",
        "  rows      bit-equal                   0",
        "  version   bit-equal                   0",
    ]
    assert near.out.splitlines()[-5:] == [
        "exact repeat of 2 runs: 2 metrics bit-equal, 1 metric equal within tolerance",
        "  metric    again                   largest difference",
        "  accuracy  equal within tolerance               0.001",
        "  rows      bit-equal                                0",
        "  version   bit-equal                                0",
    ]
    said = json.loads(far.out)
    assert said["repeat"][0] == {"metric": "accuracy", "result": "different", "difference": pytest.approx(0.099)}
    assert said["derived_from"] == {}
    assert {record(call, work, key)["repeat"] for key in said["keys"]} == {3}
    (row,) = records(call, work)
    assert row["derived_from"] is None


def test_rerun__same_changes_again__trains_nothing_until_forced(work, call):
    call(work, "run")
    first = rerun(call, work, "HEAD", "--param", "lr=0.3")

    shown = call(work, "show", first["keys"][0])
    call(work, "show", first["keys"][0], "--html", "record.html")
    again = call(work, "rerun", "HEAD", "--param", "lr=0.3", "--format", "json")
    forced = rerun(call, work, "HEAD", "--param", "lr=0.3", "--force")

    header, *rows = call(work, "log").out.splitlines()
    assert ["derived", "from", first["originals"][0]] in [line.split() for line in shown.out.splitlines()]
    assert first["originals"][0] in (work / "record.html").read_text()
    names = "experiment commit date point n verdict derived_from accuracy rows version cost"
    assert header.split() == names.split()
    # Both may have begun in the same second, so either may come first.
    assert sorted(first["originals"][0][:12] in row for row in rows) == [False, True]
    assert again.err.splitlines()[0] == "nothing to train: all of it has a record; --force trains it again"
    assert json.loads(again.out)["keys"] == first["keys"]
    assert {record(call, work, key)["repeat"] for key in forced["keys"]} == {1}
    assert set(forced["derived_from"].values()) == set(first["derived_from"].values())


def test_rerun__of_a_rerun_with_other_data__finds_that_data_by_its_id(work, call):
    call(work, "run")
    commit(work, {"data/train.txt": "1 2 3 4 5", "data/other.txt": "1"})
    first = rerun(call, work, "HEAD~1", "--data", "train=data/other.txt")
    made = record(call, work, first["keys"][0])
    assert {scalar["name"]: scalar["value"] for scalar in made["scalars"]}["rows"] == 1

    again = rerun(call, work, first["keys"][0])

    assert again["repeat"]
    assert {one["result"] for one in again["repeat"]} == {"bit-equal"}
    assert record(call, work, again["keys"][0])["document"] == {**made["document"], "repeat": 1}


def test_rerun__data_of_the_work_tree__is_uncommitted_and_found_again(work, call):
    call(work, "run")
    write(work, {"data/new.txt": "1 2 3 4"})

    said = rerun(call, work, "HEAD", "--data", "train=data/new.txt@worktree")
    noted = call(work, "rerun", "HEAD", "--data", "train=data/new.txt", code=2)

    made = record(call, work, said["keys"][0])
    assert made["dirty"] is True
    assert noted.err == (
        "data/new.txt is not committed; --data train=data/new.txt@worktree takes it as it lies in the work tree\n"
    )
    assert rerun(call, work, said["keys"][0])["repeat"]


def test_rerun__head_differs_from_the_work_tree__takes_head_and_says_so(work, call):
    call(work, "run")
    commit(work, {"data/train.txt": "1 2 3 4"})
    write(work, {"data/train.txt": "1 2 3 4 5 6"})

    said = call(work, "rerun", "HEAD~1", "--data", "train=@HEAD", "--format", "json")
    plain = call(work, "rerun", "HEAD~1", "--data", "train=data/train.txt", "--format", "json")

    assert json.loads(plain.out)["keys"] == json.loads(said.out)["keys"]
    assert plain.err.splitlines()[0] == (
        "note: data/train.txt is taken from HEAD; what lies in the work tree differs: "
        "--data train=data/train.txt@worktree"
    )


def test_rerun__sweep__a_swept_parameter_is_fixed_or_one_trial_named(tmp_path, remote, call):
    sweep = "sweep: {grid: {lr: [0.1, 0.2], act: [relu, gelu]}}\n"
    files = {"train.py": TRAIN, "data/train.txt": "1", "experiment.yaml": spec(tmp_path, more=sweep)}
    work = make_repository(tmp_path / "work", files, remote=remote)
    call(work, "run")

    fixed = rerun(call, work, "HEAD", "--param", "lr=0.4", "--seed", "0")
    one = rerun(call, work, fixed["originals"][0], "--param", "lr=0.5")

    made = [record(call, work, key) for key in fixed["keys"]]
    assert [(one["params"], one["point"]) for one in made] == [
        ({"lr": 0.4, "act": "relu"}, {"act": "relu"}),
        ({"lr": 0.4, "act": "gelu"}, {"act": "gelu"}),
    ]
    (key,) = one["keys"]
    made = record(call, work, key)
    assert made["params"]["lr"] == made["point"]["lr"] == 0.5
    (point,) = one["comparison"]["experiments"][0]["points"]
    assert [trial["key"] for trial in point["base_trials"]] == one["originals"]


def test_rerun__other_environment_today__finds_the_originals_and_derives(work, call, environ):
    call(work, "run")
    (row,) = records(call, work)
    folder = work / ".gitops-ml/results"
    # As if it had been trained with another installation.
    for key in row["keys"]:
        document = record(call, work, key)
        document["document"]["environment"]["interpreter"]["packages"] = ["numpy==1.0"]
        other = digest(document["document"])
        text = json.dumps(document).replace(key, other)
        file = folder / f"records/{other[:2]}/{other}/record.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        shutil.rmtree(folder / f"records/{key[:2]}/{key}")
    (row,) = records(call, work)

    said = rerun(call, work, "HEAD")

    assert said["originals"] == row["keys"]
    assert said["repeat"] is None
    assert said["derived_from"] == dict(zip(said["keys"], row["keys"]))
    changes = said["comparison"]["experiments"][0]["changes"]
    assert all(change["what"].startswith("environment.interpreter.packages") for change in changes)


def test_rerun__never_trained__trains_it_without_a_comparison(work, call):
    said = rerun(call, work, "HEAD", "--param", "lr=0.2")

    (compared,) = said["comparison"]["experiments"]
    assert compared["relation"] == "no baseline"
    assert said["originals"] == []
    assert all(said["derived_from"].values())


def test_rerun__spec_elsewhere_then_and_several__asks_which(tmp_path, remote, call):
    files = {
        "train.py": TRAIN,
        "data/train.txt": "1",
        "gitops-ml.yaml": "specs: [old/*.yaml]\n",
        "old/one.yaml": spec(tmp_path, "one"),
        "old/two.yaml": spec(tmp_path, "two"),
        "old/broken.yaml": "version: 1\n",
    }
    work = make_repository(tmp_path / "work", files, remote=remote)
    first = git(work, "rev-parse", "HEAD")
    git(work, "rm", "-q", "-r", "old", "gitops-ml.yaml")
    commit(work, {"experiment.yaml": spec(tmp_path, "new")})

    asked = call(work, "rerun", "HEAD~1", code=2)
    made = rerun(call, work, "HEAD~1", "--experiment", "two", "--seed", "0")

    assert asked.err == f"{first[:12]} has several experiments: one, two; say which: --experiment NAME\n"
    assert record(call, work, made["keys"][0])["path"] == "old/two.yaml"


def test_rerun__other_data_that_is_code_there__is_taken_and_a_bad_seed_refused(work, call):
    call(work, "run")

    said = call(work, "rerun", "HEAD", "--data", "train=train.py", "--param", "lr=0.2", "--seed", "1", code=0)
    refused = call(work, "rerun", "HEAD", "--param", "act=x", "--seed", "-1", code=2)

    assert "changed: data.train" in said.out
    assert refused.err == (
        "experiment.yaml cannot be run with these changes: "
        "item 1 of `seeds` is `-1`; it must be at least 0 [out-of-range]\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["HEAD", "--param", "lx=1"], "the spec there has no parameter `lx`; known are: lr, act"),
        (["HEAD", "--param", "lr=[]"], "--param lr=[]: `0.1` stands in the spec there; give a number"),
        (["HEAD", "--param", "lr={a: 1}"], "--param lr={a: 1}: `0.1` stands in the spec there; give a number"),
        (["HEAD", "--param", "lr=1", "--param", "lr=2"], "--param lr is given twice"),
        (["HEAD", "--data", "eval=x"], "the spec there has no data entry `eval`; known are: train"),
        (
            ["HEAD", "--data", "train=data/train.txt@nowhere"],
            ("--data train: `nowhere` names no commit here; data in the repository is given as PATH, PATH@COMMIT or "
            "PATH@worktree"),
        ),
        (["HEAD", "--backend", "moon"], "no backend is called `moon`; known are: aws-ec2, local"),
        (["HEAD", "--experiment", "big"], "no experiment is called `big` at COMMITTED; known are: small"),
        (["0123456789"], "`0123456789` is no commit and no start of a record's key; `gitops-ml log` shows both"),
        (["--", "-x"], "`-x` is no commit and no start of a record's key; `gitops-ml log` shows both"),
        (
            ["0123456789012345678901234567890123456789"],
            ("commit 012345678901 is not here or on origin; its code is needed to train it again. "
            "`report --push` keeps such commits as refs/gitops-ml/commits/*"),
        ),
    ],
)  # fmt: skip
def test_rerun__what_is_not_there__is_named(words, message, work, call):
    said = call(work, "rerun", *words, code=2)

    assert said.err.splitlines()[-1] == message.replace("COMMITTED", git(work, "rev-parse", "HEAD")[:12])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--data", "train", "train: give NAME=URI@VERSION, or NAME=PATH@COMMIT, such as train=data/train.csv"),
        ("--data", "train=x@", "train=x@: nothing stands behind the @; give a version, a commit or `worktree`"),
        ("--param", "lr", "lr: give NAME=VALUE, such as lr=0.05"),
    ],
)
def test_rerun__changes_of_another_form__are_refused(option, value, message, work, call, capsys):
    call(work, "rerun", "HEAD", option, value, code=2)

    assert capsys.readouterr().err.splitlines()[-1] == f"gitops-ml rerun: error: argument {option}: {message}"


def test_rerun__record_of_uncommitted_code__says_what_is_missing(work, call):
    write(work, {"train.py": TRAIN.replace("VERSION = 0", "VERSION = 1")})
    call(work, "run")
    keys = [key for row in records(call, work) if row["dirty"] for key in row["keys"]]
    commit = git(work, "rev-parse", "HEAD")[:12]

    said = call(work, "rerun", keys[0], code=2)

    assert said.err == (
        f"{keys[0][:12]} was trained on uncommitted work on top of {commit}, which git does not have; "
        f"`gitops-ml rerun {commit}` trains what was committed there\n"
    )


def test_rerun__record_that_cannot_be_read__is_named(work, call):
    key = "ab" * 32
    write(work, {f".gitops-ml/results/records/ab/{key}/record.json": "{"})

    said = call(work, "rerun", key[:8], code=2)

    assert said.err.splitlines()[-1] == (
        "the record abababababab cannot be read, so it is not known what it was trained with"
    )


def test_rerun__nothing_checked_out__asks_for_a_commit(work, call):
    first = git(work, "rev-parse", "HEAD")
    git(work, "switch", "-q", "--orphan", "empty")

    said = call(work, "rerun", first, "--data", "train=data/train.txt", code=2)
    fine = rerun(call, work, first, "--data", f"train=@{first}", "--seed", "0")

    assert said.err == "--data train: nothing is checked out here; give PATH@COMMIT\n"
    assert len(fine["keys"]) == 1


def test_report_push__records_of_several_commits__keeps_them_all(remote, work, call):
    call(work, "run")
    first = git(work, "rev-parse", "HEAD")
    second = commit(work, {"train.py": TRAIN.replace("VERSION = 0", "VERSION = 1")})
    call(work, "run")
    call(work, "report", "--push")

    refs = git(remote, "for-each-ref", "--format=%(refname)").splitlines()

    assert refs == [
        *sorted(f"refs/gitops-ml/commits/{one}" for one in (first, second)),
        f"refs/heads/{BRANCH}",
        "refs/heads/main",
    ]


def test_rerun__training_fails__ends_with_4_and_shows_the_comparison(work, call):
    call(work, "run")

    said = call(work, "rerun", "HEAD", "--param", "lr=0.3", "--data", "train=absent@HEAD", code=2)
    failed = call(work, "rerun", "HEAD", "--data", "train=data", "--seed", "0", code=4)

    assert said.err == f"experiment.yaml: data `train`: absent is not in commit {git(work, 'rev-parse', 'HEAD')[:12]}\n"
    assert failed.out.startswith("small: no result - 1 of 1 trial failed: the training exited with code 1; no gate\n")


def test_rerun__may_cost_more_than_the_spec_of_then_allows__is_denied(tmp_path, remote, environ):
    files = {
        "train.py": TRAIN,
        "data/train.txt": "1",
        "experiment.yaml": spec(tmp_path, more="budget: {max_cost: 5 USD}\n"),
    }
    work = make_repository(tmp_path / "work", files, remote=remote)

    def priced(*words):
        err = io.StringIO()
        return main(["rerun", "HEAD", *words], PricedTools(cwd=work, environ=environ, out=io.StringIO(), err=err)), err

    code, err = priced("--param", "lr=0.2")

    assert (code, err.getvalue()) == (
        6,
        (
            "experiment.yaml: it may cost up to 8.00 USD, and its `budget.max_cost` is 5.00 USD; "
            "raise it, or ask for less\n"
        ),
    )
    assert priced("--param", "lr=0.2", "--seed", "0")[0] == 0

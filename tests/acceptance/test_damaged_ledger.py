"""Whatever happened to the ledger: ``verify`` finds and names it, and nothing else refuses to work because of it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.fakes.ledgers import BRANCH, Said, command
from tests.fakes.repositories import ENVIRON, clone, commit, git, make_remote, make_repository, write

TRAIN = """
import json, pathlib, sys
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/metrics.json").write_text(json.dumps({"accuracy": float(sys.argv[1]) + int(sys.argv[2]) / 1000}))
"""

SPEC = """\
version: 1
name: small
run: python3 train.py ${params.lr} ${trial.seed}
params: {lr: 0.1}
seeds: [0, 1, 2]
metrics:
  read: [out/metrics.json]
  track: [{name: accuracy, goal: maximize}]
"""


def call(folder: Path, *words: str) -> Said:
    # The training's own `python3` is the one that runs the tests.
    path = f"{Path(sys.executable).parent}:{ENVIRON['PATH']}"
    return command(folder, *words, environ={**ENVIRON, "PATH": path, "HOME": str(folder.parent)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A change that was trained and reported, and a copy of it all: paths are part of a repository's state."""
    folder, copy = tmp_path_factory.mktemp("damaged"), tmp_path_factory.mktemp("copy") / "damaged"
    remote = make_remote(folder / "remote.git")
    work = make_repository(folder / "work", {"train.py": TRAIN, "experiment.yaml": SPEC}, remote=remote)
    git(work, "switch", "-q", "-c", "change")
    commit(work, {"experiment.yaml": SPEC.replace("lr: 0.1", "lr: 0.2")})
    for words in (["run"], ["report", "--push"]):
        said = call(work, *words)
        assert said.code == 0, said.err
    shutil.copytree(folder, copy, symlinks=True)
    return folder, copy


@pytest.fixture
def work(trained):
    folder, copy = trained
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return folder / "work"


@pytest.fixture
def ledger(work):
    """A clone of the ledger branch, to be damaged and pushed."""
    folder = clone(work.parent / "remote.git", work.parent / "ledger", "-b", BRANCH)
    assert len(records(folder)) == 6
    return folder


def records(ledger: Path) -> list[Path]:
    return sorted(ledger.glob("records/*/*/record.json"))


def report(ledger: Path) -> Path:
    (found,) = ledger.glob("reports/*/*/report.json")
    return found


def tampered(ledger: Path) -> list[str]:
    file = records(ledger)[0]
    file.write_text(file.read_text().replace('"lr": 0.', '"lr": 7.'))
    return ["record.json: its key document has the key", "record.json: changed by commit"]


def removed(ledger: Path) -> list[str]:
    shutil.rmtree(records(ledger)[0].parent)
    return ["record.json: removed by commit"]


def half_written(ledger: Path) -> list[str]:
    for file in ("records/ab/" + "ab" * 32 + "/series.csv", "reports/small/" + "0" * 12 + "-" + "0" * 8 + "/report.md"):
        write(ledger, {file: "half"})
    return [
        "has no record.json: half a record, which nothing reads",
        "has no report.json: half a report, which nothing reads",
    ]


def newer(ledger: Path) -> list[str]:
    key = "cd" * 32
    document = json.loads(records(ledger)[0].read_text())
    document |= {"schema": "gitops-ml/record/v9", "key": key, "colour": "blue"}
    write(ledger, {f"records/cd/{key}/record.json": json.dumps(document)})
    text = report(ledger).read_text().replace("gitops-ml/report/v1", "gitops-ml/report/v9")
    write(ledger, {f"reports/small/{'1' * 12}-{'1' * 8}/report.json": text})
    write(ledger, {f"attempts/cd/{key}/1.json": json.dumps({"schema": "gitops-ml/attempt/v9"})})
    return ["written by a newer version"] * 3


def unreadable(ledger: Path) -> list[str]:
    write(ledger, {f"records/ef/{'ef' * 32}/record.json": "{", f"reports/small/{'2' * 12}-{'2' * 8}/report.json": "[]"})
    return ["cannot be read: not valid JSON", "cannot be read: not a JSON object"]


def foreign(ledger: Path) -> list[str]:
    write(ledger, {"notes.txt": "mine", "records/README": "mine", "reports/small/x": "mine"})
    return ["notes.txt: has no place on the ledger", "records/README: has no place", "reports/small/x: has no place"]


def everything_works(work: Path, *, trains: int = 0) -> None:
    """Go through what anybody does with a ledger; each ends well, whatever it warns of."""
    for words in (
        ["log"],
        ["log", "--where", "params.lr < 1", "--format", "json"],
        ["show", "small"],
        ["plan"],
        ["run"],
        ["compare"],
        ["report", "--push"],
        ["comment"],
        ["board", str(work.parent / "board")],
        ["rerun", "HEAD", "--seed", "1", "--param", "lr=0.3"],
        ["report", "--push"],
    ):
        said = call(work, *words)
        assert said.code == 0, f"{words}: {said.out}{said.err}"
        if words == ["run"]:
            assert said.out == (
                f"{trains} trial succeeded\n" if trains else "nothing to do: 6 trials planned, none to train\n"
            )


@pytest.mark.parametrize("damage", [tampered, half_written, newer, unreadable, foreign])
def test_verify__a_damaged_ledger__is_named_and_everything_else_works(damage, work, ledger):
    wanted = damage(ledger)
    commit(ledger, {})
    git(ledger, "push", "-q", "origin", BRANCH)

    said = call(work, "verify")

    assert said.code == (0 if damage is newer else 1)
    lines = (said.out + said.err).splitlines()
    for message in wanted:
        found = next((line for line in lines if message in line), None)
        assert found is not None, f"{message} is not in: {said.out}{said.err}"
        lines.remove(found)
    everything_works(work)


def test_verify__force_pushed_ledger__is_named_and_everything_else_works(work, ledger):
    removed(ledger)
    git(ledger, "checkout", "-q", "--orphan", "other")
    commit(ledger, {}, "Begin anew")
    assert call(work, "log").code == 0
    git(ledger, "push", "-q", "--force", "origin", f"other:{BRANCH}")

    said = call(work, "verify")

    assert said.code == 1
    assert "is no longer in its history: the branch was rewritten (force-pushed)" in said.out
    everything_works(work, trains=1)


def test_verify__a_removed_record__is_named_and_is_trained_again(work, ledger):
    (message,) = removed(ledger)
    commit(ledger, {})
    git(ledger, "push", "-q", "origin", BRANCH)

    assert message in call(work, "verify").out
    everything_works(work, trains=1)
    assert len(records(clone(work.parent / "remote.git", work.parent / "again", "-b", BRANCH))) == 7

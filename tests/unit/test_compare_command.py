"""``compare`` from argv to exit code, over a real repository and records made by hand."""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gitops_ml.commands.plan import plan_for
from gitops_ml.ledger import record_path
from gitops_ml.main import main
from gitops_ml.planning import PlannedTrial
from gitops_ml.project import Project
from gitops_ml.records import json_bytes, record_to_json
from gitops_ml.tools import Tools
from tests.fakes import repositories, runs

SPEC = """\
version: 1
name: digits
run: python train.py
params: {lr: 0.1}
seeds: [0, 1, 2]
metrics:
  read: [out.json]
  track:
    - {name: acc, goal: maximize, gate: fail, tolerance: 0.01}
"""
ACCEPTED = """\
version: 1
accepted:
  - {experiment: digits, metric: acc, bound: 0.9, reason: smaller, author: Ada, expires: 2026-12-31}
"""
BASE = (0.950, 0.953, 0.947)
WORSE = (0.920, 0.925, 0.917)


class Place:
    """A repository on a branch, one parameter away from main, with records of both sides."""

    def __init__(self, folder: Path) -> None:
        self.folder = repositories.make_repository(folder, {"experiment.yaml": SPEC, "train.py": "print(1)"})
        repositories.git(self.folder, "switch", "-q", "-c", "change")
        self.head = repositories.commit(self.folder, {"experiment.yaml": SPEC.replace("0.1}", "0.2}")})

    def tools(self) -> Tools:
        tools = Tools(
            cwd=self.folder,
            environ=repositories.ENVIRON,
            out=io.StringIO(),
            err=io.StringIO(),
            now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
        )
        tools.project = Project()
        return tools

    def fill(self, head: Sequence[float], base: Sequence[float] = BASE) -> tuple[list[str], list[str]]:
        """Keep records with these values, and return the keys of base and head."""
        tools = self.tools()
        (entry,) = plan_for(argparse.Namespace(experiments=[], head=None, base=None, offline=True), tools).experiments
        return keep(tools, entry.base, base), keep(tools, entry.head, head)

    def run(self, *argv: str) -> tuple[int, str, str]:
        tools = self.tools()
        code = main(["compare", "--offline", *argv], tools)
        assert isinstance(tools.out, io.StringIO)
        assert isinstance(tools.err, io.StringIO)
        return code, tools.out.getvalue(), tools.err.getvalue()


def keep(tools: Tools, planned: Sequence[PlannedTrial], values: Sequence[float]) -> list[str]:
    files: Mapping[str, bytes] = {
        record_path(one.trial.key): json_bytes(record_to_json(runs.record(one.trial, {"acc": value})))
        for one, value in zip(planned, values, strict=False)
    }
    tools.results.keep(files)
    return [one.trial.key for one in planned]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "repository")


def test_compare__worse__is_a_finding_and_names_the_baseline(place: Place) -> None:
    place.fill(WORSE)
    code, out, _ = place.run()

    assert code == 1
    assert out.startswith("digits: worse")
    assert f"compared with {repositories.git(place.folder, 'rev-parse', 'main')[:12]}, the merge-base with main" in out


def test_compare__nothing_was_run__says_what_runs_it(place: Place) -> None:
    code, out, err = place.run()

    assert code == 1
    assert out.startswith("digits: no result - 3 of 3 trials not run; gate failed\n")
    assert err == "`gitops-ml run` trains what was not run\n"


def test_compare__as_good__is_fine(place: Place) -> None:
    place.fill((0.951, 0.953, 0.9475))

    assert place.run()[0] == 0


def test_compare__json__is_one_document_and_the_same_again(place: Place) -> None:
    place.fill(WORSE)
    code, out, _ = place.run("--format", "json")

    assert code == 1
    assert json.loads(out)["experiments"][0]["metrics"][0]["verdict"] == "worse"
    assert place.run("--format", "json") == (code, out, _)


def test_compare__accepted_at_head__passes(place: Place) -> None:
    place.fill(WORSE)
    repositories.commit(place.folder, {"gitops-ml.accepted.yaml": ACCEPTED})
    code, out, _ = place.run()

    assert code == 0
    assert "smaller (by Ada, to 0.9 at worst, until 2026-12-31)" in out


def test_compare__accepted_in_the_work_tree__counts_as_well(place: Place) -> None:
    place.fill(WORSE)
    repositories.write(place.folder, {"gitops-ml.accepted.yaml": ACCEPTED})
    repositories.git(place.folder, "add", "-A")

    assert place.run()[0] == 0


def test_compare__acceptance_is_over__is_a_finding_with_its_place(place: Place) -> None:
    place.fill(BASE)
    repositories.commit(place.folder, {"gitops-ml.accepted.yaml": ACCEPTED.replace("2026-12-31", "2026-11-22")})
    code, out, err = place.run()

    assert (code, out) == (1, "")
    assert err == (
        "gitops-ml.accepted.yaml:3:90: the acceptance of `acc` ended on 2026-11-22; "
        "remove the entry, or decide anew and set a later date [expired]\n"
    )


def test_compare__two_commits__of_any_order(place: Place) -> None:
    place.fill(WORSE)

    assert place.run("main", "change")[0] == 1
    code, out, _ = place.run("change", "main")
    assert code == 0
    assert out.startswith("digits: better")


def test_compare__two_records__are_one_run_per_side(place: Place) -> None:
    base, head = place.fill(WORSE)
    code, out, _ = place.run(base[0][:10], head[0][:10])

    assert code == 0
    assert "1 run per side, not tested" in out


def test_compare__two_reports__their_head_sides(place: Place, tmp_path: Path) -> None:
    place.fill(WORSE)
    document = json.loads(place.run("--format", "json")[1])
    for name, side in (("one", "base_trials"), ("two", "head_trials")):
        for point in document["experiments"][0]["points"]:
            point["head_trials"] = point[side]
        (place.folder / name).mkdir()
        (place.folder / name / "report.json").write_text(json.dumps(document))
        document = json.loads(place.run("--format", "json")[1])
    code, out, _ = place.run("one", "two")

    assert code == 1
    assert out.startswith("digits: worse")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("one",), "compare takes two sides or none, not 1: one"),
        (
            ("main", "nothing"),
            "`nothing` is no commit, no record's key and no report here; a key needs 4 characters, a report its folder",
        ),
        (("main", "change", "--head", "x"), "--head and --base name the same as the two sides; give one or the other"),
    ],
)
def test_compare__sides_that_make_no_sense__say_so(place: Place, argv: tuple[str, ...], message: str) -> None:
    place.fill(BASE)

    assert place.run(*argv) == (2, "", f"{message}\n")


def test_compare__commit_against_record__says_what_goes_together(place: Place) -> None:
    base, _ = place.fill(BASE)
    code, _, err = place.run("main", base[0])

    assert (code, err) == (
        2,
        "`main` is a commit and the other side is not; compare two commits, or records and reports\n",
    )


def single(place: Place, more: str = "", *, earlier: str = "2025-12-31T00:00:00Z") -> Place:
    """Leave one run per side, 0.5 from 0.95, and six earlier groups of three seeds that are 0.01 apart."""
    place.fill((0.5,), (0.95,))
    spec = runs.experiment(seeds=(0, 1, 2))
    trials = [runs.trial(spec, seed=seed, code=f"code {n}") for n in range(6) for seed in range(3)]
    records = [
        runs.record(one, {"acc": 0.9 + one.seed / 100}, attempt=runs.attempt(one, started_at=earlier)) for one in trials
    ]
    place.tools().results.keep({record_path(r.key): json_bytes(record_to_json(r)) for r in records})
    one_seed = SPEC.replace("[0, 1, 2]", "[0]") + more
    repositories.git(place.folder, "switch", "-q", "main")
    repositories.commit(place.folder, {"experiment.yaml": one_seed})
    repositories.git(place.folder, "switch", "-q", "-c", "single")
    repositories.commit(place.folder, {"experiment.yaml": one_seed.replace("0.1}", "0.2}")})
    return place


def test_compare__one_run_per_side__is_tested_with_the_noise_of_earlier_runs(place: Place) -> None:
    code, out, _ = single(place).run()

    assert code == 1
    assert "pooled t" in out
    assert "noise pooled with earlier runs (12 degrees of freedom)" in out


def test_compare__runs_that_began_later__teach_no_noise(place: Place) -> None:
    code, out, _ = single(place, earlier="2026-01-01T00:00:01Z").run()

    assert code == 0
    assert "1 run per side, not tested" in out


def test_compare__noise_from_runs_alone__leaves_one_run_per_side_untested(place: Place) -> None:
    code, out, _ = single(place, "compare: {noise: runs}\n").run()

    assert code == 0
    assert "1 run per side, not tested" in out


def test_compare__pairs__read_no_other_record(place: Place) -> None:
    place.fill(WORSE)
    trials = [runs.trial(runs.experiment(), seed=seed, code=f"code {seed}") for seed in range(20)]
    place.tools().results.keep({record_path(trial.key): b"{" for trial in trials})

    assert place.run()[2] == ""


def test_import__compare_and_what_it_calls__load_nothing_slow() -> None:
    needed = "commands.compare, gitops_ml.git, gitops_ml.ledger, gitops_ml.baselines, gitops_ml.markdown"
    slow = ("concurrent.futures", "gitops_ml.entries", "importlib.metadata", "jsonschema", "logging", "numpy")
    program = f"import sys, gitops_ml.{needed}; print(*[name for name in {slow!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "\n"

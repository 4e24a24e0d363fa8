"""``report``, ``comment`` and ``show`` after real trainings, in repositories with a remote of their own."""

import io
import json
from pathlib import Path

import pytest

from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.tools import Tools
from tests.fakes import repositories
from tests.fakes.repositories import git

SPEC = """\
version: 1
name: {name}
run: bash train.sh {name} ${{params.lr}}
code: {{include: [train.sh]}}
params: {{lr: 1}}
{more}
metrics:
  read: [out/*.json]
  track: [{{name: accuracy, goal: maximize, gate: fail, primary: true}}]
"""
TRAIN = """\
mkdir -p out
case $1 in
  fails) echo "epoch 1"; echo "the data is <b>gone</b> @ann" >&2; exit 7 ;;
  hangs) exec sleep 60 ;;
  diverges) echo '{"accuracy": NaN}' > out/metrics.json ;;
  forgets) echo done ;;
  *) echo "{\\"accuracy\\": 0.$2$GITOPS_ML_SEED}" > out/metrics.json ;;
esac
if [ $1 = sorts ]; then echo '{"labels": ["cat", "dog"], "matrix": [[40, 2], [1, 37]]}' > confusion.json; fi
"""


class Repo:
    """A repository whose main has every experiment trained, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.remote = repositories.make_remote(folder / "remote.git")
        self.top = repositories.make_repository(folder / "work", {"train.sh": TRAIN}, remote=self.remote)

    def spec(self, name: str, more: str = "", *, before: str = "", after: str = "") -> None:
        text = SPEC.format(name=name, more=more).replace(before, after)
        repositories.write(self.top, {f"experiments/{name}.yaml": text})

    def commit(self) -> str:
        return repositories.commit(self.top, {})

    def call(self, *argv: str) -> tuple[int, str, str]:
        tools = Tools(cwd=self.top, environ=repositories.ENVIRON, out=io.StringIO(), err=io.StringIO())
        tools.project = Project(backends={"local": {"grace_s": 0.2}})
        # What is installed here is no part of what is tested, and may change while the tests run.
        tools.interpreter = {"python": "3.11", "platform": "test", "packages": []}
        code = main(argv, tools)
        assert isinstance(tools.out, io.StringIO)
        assert isinstance(tools.err, io.StringIO)
        return code, tools.out.getvalue(), tools.err.getvalue()

    def fine(self, *argv: str) -> str:
        code, out, err = self.call(*argv)
        assert code == ExitCode.OK, err
        return out

    def reports(self, folder: Path | None = None) -> dict[str, bytes]:
        """Return the reports' files, kept here or in another folder, by experiment and name."""
        root = (folder or self.top / ".gitops-ml" / "results") / "reports"
        return {
            f"{file.relative_to(root).parts[0]}/{'/'.join(file.relative_to(root).parts[2:])}": file.read_bytes()
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }

    def on_ledger(self, path: str) -> str:
        return git(self.remote, "show", f"gitops-ml/reports:{path}")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """One experiment for each way in which a training can leave nothing to compare."""
    repo = Repo(tmp_path_factory.mktemp("broken"))
    for name in ("fails", "diverges", "forgets"):
        repo.spec(name)
    repo.spec("hangs", "budget: {max_duration: 1s}")
    repo.commit()
    code, _, _ = repo.call("run", "--jobs", "4")
    assert code == ExitCode.TRIAL_FAILED
    repo.fine("report")
    return repo


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "fails",
            [
                "⚠️ **fails: no result** — 1 of 1 trial failed: the training exited with code 7; gate failed",
                "| this change | 0 | failed: the training exited with code 7 |",
                "```text\nepoch 1\nthe data is <b>gone</b> @ann\n```",
            ],
        ),
        (
            "hangs",
            [
                "⚠️ **hangs: no result** — 1 of 1 trial timed out: ran longer than max&#95;duration (1s); gate failed",
                "| this change | 0 | timed out: ran longer than max&#95;duration (1s) |",
            ],
        ),
        (
            "diverges",
            [
                "⛔ **diverges: invalid** — <code>accuracy</code> is NaN (seed 0); gate failed",
                "| this change | 0 | succeeded |",
                "<code>out&#47;metrics&#46;json</code> <code>accuracy</code>: is nan",
            ],
        ),
        (
            "forgets",
            [
                "⚠️ **forgets: no result** — 1 of 1 trial failed: wrote no metrics: no file matches out/&#42;&#46;json",
                "```text\ndone\ngitops-ml: wrote no metrics: no file matches out/*.json\n```",
            ],
        ),
    ],
)
def test_report__training_left_nothing_to_compare__says_what_happened(broken, name, says):
    files = broken.reports()
    text = files[f"{name}/report.md"].decode()

    assert [part for part in says if part not in text] == []
    assert "| **fail** |" in text
    assert json.loads(files[f"{name}/report.json"])["gate"] == "fail"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A change of one parameter of two experiments, trained with two seeds on both sides; one leaves a matrix."""
    repo = Repo(tmp_path_factory.mktemp("good"))
    matrix = "seeds: [0, 1]\nartifacts: [{path: confusion.json, store: git}]"
    repo.spec("plain", "seeds: [0, 1]")
    repo.spec("sorts", matrix)
    repo.commit()
    git(repo.top, "push", "-q", "origin", "main")
    git(repo.top, "switch", "-q", "-c", "change")
    repo.spec("plain", "seeds: [0, 1]", before="lr: 1", after="lr: 5")
    repo.spec("sorts", matrix, before="lr: 1", after="lr: 5")
    repo.commit()
    repo.fine("run", "--jobs", "4")
    repo.fine("report", "--out", "left", "--html", "left")
    return repo


def test_report__again__same_bytes(repo):
    before = repo.reports()

    repo.fine("report")

    assert repo.reports() == before
    assert {name for name in before if name.startswith("plain/")} == {
        "plain/plots/cost.svg",
        "plain/report.json",
        "plain/report.md",
    }


def test_report__out__leaves_the_same_files(repo):
    left = repo.reports(repo.top / "left")

    assert left == repo.reports()
    assert (repo.top / "left" / "comparison.json").exists()
    assert "<h1>Comparison</h1>" in (repo.top / "left" / "report.html").read_text()


def test_report__artifact_in_git_is_a_confusion_matrix__is_drawn(repo):
    files = repo.reports()
    svg = files["sorts/plots/confusion-confusion.svg"].decode()

    assert all(f">{text}</text>" in svg for text in ("cat", "dog", "40", "37", "predicted"))
    assert "](plots/confusion-confusion.svg)" in files["sorts/report.md"].decode()
    assert "confusion matrix confusion" in (repo.top / "left" / "report.html").read_text()


def test_report__push__ledger_has_the_bytes_and_says_the_gate(repo):
    kept = repo.reports()

    first, again = repo.fine("report", "--push"), repo.fine("report", "--push")

    assert "files to the ledger: " in first
    assert again.startswith("nothing to push: the ledger has it all\n")
    head = git(repo.top, "rev-parse", "HEAD")[:12]
    paths = git(repo.remote, "ls-tree", "-r", "--name-only", "gitops-ml/reports").splitlines()
    (folder,) = {
        path.rpartition("/")[0] for path in paths if path.startswith(f"reports/plain/{head}-") and "plots" not in path
    }
    assert repo.on_ledger(f"{folder}/report.md") == kept["plain/report.md"].decode().strip()
    assert f"| plain | pass | {head} | [report]({folder}/report.md) |" in repo.on_ledger("README.md")


def test_report__push_without_a_remote__names_no_place_on_the_ledger(tmp_path):
    repo = Repo(tmp_path)
    git(repo.top, "remote", "remove", "origin")
    repo.spec("plain")
    repo.commit()
    repo.fine("run")

    assert repo.call("report", "--push") == (
        ExitCode.USAGE,
        "",
        (
            "there is no remote called `origin` to push results to; add one (git remote add origin URL) or name "
            "another as `ledger: {remote: ...}` in gitops-ml.yaml\n"
        ),
    )


def test_comment__again__unchanged(repo):
    first, again = repo.fine("comment"), repo.fine("comment")

    assert first.startswith(("comment created: file://", "comment unchanged: file://"))
    assert again.startswith("comment unchanged: file://")
    text = (repo.top / ".gitops-ml" / "comment.md").read_text()
    assert "✅ **sorts: better** — <code>accuracy</code> 0.105 → 0.505 (+0.400, 90 % interval" in text
    statuses = json.loads((repo.top / ".gitops-ml" / "statuses.json").read_text())
    assert {name: status["state"] for name, status in statuses[git(repo.top, "rev-parse", "HEAD")].items()} == {
        "gitops-ml/plain": "success",
        "gitops-ml/sorts": "success",
    }


def test_comment__from_what_report_left__same_tables(repo):
    repo.fine("comment")
    here = (repo.top / ".gitops-ml" / "comment.md").read_text()

    repo.fine("comment", "--from", "left", "--id", "left")

    left = (repo.top / ".gitops-ml" / "comment-left.md").read_text()
    rows = [line for line in here.splitlines() if line.startswith("| <code>")]
    assert rows
    assert [line for line in left.splitlines() if line.startswith("| <code>")] == rows


def test_comment__dry_run__prints_and_writes_nothing(repo):
    out = repo.fine("comment", "--dry-run", "--id", "dry")

    assert out.startswith("<!-- gitops-ml comment=dry -->\n")
    assert not (repo.top / ".gitops-ml" / "comment-dry.md").exists()


def test_show__commit__both_reports(repo):
    out = repo.fine("show", "HEAD")

    assert "plain: better - accuracy 0.105 → 0.505" in out
    assert "sorts: better - accuracy" in out


def test_show__folder_that_report_named__that_report_alone(repo):
    said = repo.fine("report")
    (folder,) = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("plain: ")]

    text = repo.fine("show", folder, "--format", "md")

    def words(of: str) -> list[str]:
        return [line for line in of.splitlines() if line and not line.startswith("![")]

    assert words(text) == words(repo.reports()["plain/report.md"].decode())
    assert text.startswith("# <code>plain</code>\n")
    document = json.loads(repo.fine("show", folder, "--format", "json"))
    assert [experiment["name"] for experiment in document["experiments"]] == ["plain"]


def test_show__html__writes_the_page(repo, tmp_path):
    out = repo.fine("show", "HEAD", "--html", str(tmp_path / "page.html"))

    assert out == f"page: {tmp_path / 'page.html'}\n"
    assert "<h2>sorts</h2>" in (tmp_path / "page.html").read_text()


def key_of(repo: Repo) -> str:
    plan = json.loads(repo.fine("plan", "plain", "--format", "json"))
    return str(plan["experiments"][0]["head"][0]["key"])


def test_show__start_of_a_key__the_record(repo, tmp_path):
    key = key_of(repo)

    out = repo.fine("show", key[:8])
    document = json.loads(repo.fine("show", key[:8], "--format", "json"))
    repo.fine("show", key[:8], "--html", str(tmp_path / "record.html"))

    assert ["key", key] in [line.split() for line in out.splitlines()]
    assert "accuracy" in out
    assert document["key"] == key
    assert key in (tmp_path / "record.html").read_text()


@pytest.mark.parametrize("name", ["feedfeedfeed", "no-such", "reports/plain/none", "--", "HEAD~99"])
def test_show__nothing_of_that_name__says_what_was_looked_for(repo, name):
    code, out, err = repo.call("show", "--", name)

    assert (code, out) == (ExitCode.USAGE, "")
    assert err == (
        f"nothing is called `{name}`: no record's key starts so, no report has that folder or commit, and no "
        "experiment is called so\n"
    )


def test_show__experiment__what_it_gave_last(repo):
    folder = repo.fine("report", "plain").partition(": ")[2].rstrip("\n").partition("results/")[2]

    assert repo.fine("show", "plain") == repo.fine("show", folder)
    assert repo.fine("show", "plain").startswith("plain: better - ")


def test_report__sweep__winner_points_and_plots(tmp_path):
    repo = Repo(tmp_path)
    repo.spec("plain", "sweep: {grid: {lr: [1, 5, 3]}}")
    repo.commit()
    repo.fine("run", "--jobs", "3")

    repo.fine("report")

    files = repo.reports()
    text = files["plain/report.md"].decode()
    assert "| <code>lr&#61;5</code> (best) |" in text
    assert text.count("<code>lr&#61;") >= 6
    assert "best of 3 points for this change, not confirmed on fresh seeds" in text
    assert "plain/plots/sweep-lr.svg" in files
    assert "](plots/sweep-lr.svg)" in text

"""The history as a table, from the ledger and from what is kept here."""

import csv
import io
import json
import subprocess
import sys

import pytest

from gitops_ml.commands.log import COLUMNS
from gitops_ml.git import Repository
from gitops_ml.ledger import Results, record_path
from gitops_ml.records import Scalar
from tests.fakes import ledgers
from tests.fakes.ledgers import command
from tests.fakes.repositories import ENVIRON, clone, commit, git, make_remote, make_repository


@pytest.fixture
def remote(tmp_path):
    made = make_remote(tmp_path / "remote.git")
    make_repository(tmp_path / "first", {"train.py": "pass"}, remote=made)
    return made


@pytest.fixture
def push(tmp_path, remote):
    def pushing(*files):
        with Repository.find(tmp_path / "first", ENVIRON) as repository:
            results = Results(repository, remote="origin", branch=ledgers.BRANCH)
            results.keep({path: data for some in files for path, data in some.items()})
            return results.push("Add results [skip ci]")

    return pushing


RECORDS = (
    *(ledgers.record(0.95 + seed / 1000, seed, date=f"2026-01-0{seed + 1}T00:00:00Z") for seed in range(3)),
    ledgers.record(0.5, params={"lr": 0.01, "layers": (64, 32)}, date="2026-01-05T12:30:00Z", cost_usd=2.0),
    ledgers.record(0.7, experiment="mnist", params={"act": "=cmd()"}, date="2026-01-04T00:00:00Z"),
)


def everything():
    return [*map(ledgers.record_files, RECORDS), ledgers.report_files()]


def rows(said):
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_log__text__is_newest_first_with_means_and_verdicts(tmp_path, push):
    push(*everything())

    said = command(tmp_path / "first", "log")

    assert said.code == 0
    assert said.out == (
        "experiment  commit        date              point  n  verdict  accuracy  loss      cost\n"
        "digits      aaaaaaaaaaaa  2026-01-05 12:30         1                0.5   0.3  2.00 USD\n"
        "mnist       aaaaaaaaaaaa  2026-01-04 00:00         1                0.7   0.3  0.50 USD\n"
        "digits      aaaaaaaaaaaa  2026-01-03 00:00         3  better      0.951   0.3  1.50 USD\n"
    )


SPEC = """\
version: 1
name: digits
run: python train.py
metrics:
  read: [out/metrics.json]
  track:
"""
TRACKS = {
    "gated before others": (
        ["{name: accuracy, goal: maximize}", "{name: loss, goal: minimize, gate: fail}"], "loss accuracy"
    ),
    "with a goal before others": (["{name: accuracy}", "{name: loss, goal: minimize}"], "loss accuracy"),
    "else in its order": (["{name: loss}", "{name: accuracy}"], "loss accuracy"),
    "what no record has aside": (["{name: f1, goal: maximize}", "{name: loss, goal: minimize}"], "loss accuracy"),
    "of a spec that is not valid nothing": (["{name: loss, goal: best}"], "accuracy loss"),
}  # fmt: skip


@pytest.mark.parametrize(("tracks", "columns"), TRACKS.values(), ids=TRACKS)
def test_log__before_the_first_report__spec_says_which_metric_comes_first(tracks, columns, tmp_path, push):
    work = tmp_path / "first"
    commit(work, {"experiment.yaml": SPEC + "".join(f"  - {track}\n" for track in tracks)})
    push(ledgers.record_files(RECORDS[0]))

    said = command(work, "log", "--format", "csv")

    header = said.out.splitlines()[0]
    assert header == ",".join([*COLUMNS, *(f"metrics.{name}" for name in columns.split()), "cost"])


def test_log__after_a_report__it_says_which_metric_comes_first(tmp_path, push):
    work = tmp_path / "first"
    commit(work, {"experiment.yaml": f"{SPEC}  - {{name: loss, goal: minimize}}\n"})
    push(*everything())

    said = command(work, "log", "--format", "csv", "--experiment", "digits")

    assert said.out.splitlines()[0].endswith("metrics.accuracy,metrics.loss,cost")


def test_log__metric_called_like_a_column__keeps_its_whole_name(tmp_path, push):
    push(ledgers.record_files(ledgers.record(scalars=(Scalar(name="n", value=7.0),))))

    said = command(tmp_path / "first", "log", "--columns", "n,metrics.n,metrics.loss")

    assert said.out == "n  metrics.n  loss\n1          7   0.3\n"


def test_diff__commits__says_what_compares_them(tmp_path):
    make_repository(tmp_path / "first", {"train.py": "pass"})

    said = command(tmp_path / "first", "diff", "main", "main")

    assert said.code == 2
    assert said.err == (
        "`main` is a commit and no record's key; `gitops-ml log --columns key,commit,point` shows keys, "
        "`gitops-ml compare A B` compares commits\n"
    )


@pytest.mark.parametrize(
    ("words", "accuracies"),
    [
        (["--where", "params.lr < 0.1"], [0.5]),
        (["--where", 'metrics["accuracy"] > 0.6 and n == 1'], [0.7]),
        (["--where", "params.layers == [64, 32]"], [0.5]),
        (["--where", "lowest.loss < 0.2 and highest.loss == 0.9 and data.test == 'pin' and n == 1"], [0.5, 0.7]),
        (["--where", "verdict == 'better' and gate == 'pass'"], [0.951]),
        (["--experiment", "mnist"], [0.7]),
        (["--since", "2026-01-04"], [0.5, 0.7]),
        (["--since", "5d"], [0.5]),
        (["--sort", "metrics.accuracy"], [0.5, 0.7, 0.951]),
        (["--sort", "metrics.accuracy", "--reverse"], [0.951, 0.7, 0.5]),
        (["--sort", "params.lr"], [0.5, 0.951, 0.7]),
        (["--sort", "params.lr", "--reverse"], [0.951, 0.5, 0.7]),
        (["--limit", "1"], [0.5]),
        (["--reverse", "--limit", "2"], [0.951, 0.7]),
    ],
)  # fmt: skip
def test_log__asked_twice_and_from_another_clone__gives_the_same_rows(words, accuracies, tmp_path, push, remote):
    push(*everything())
    other = clone(remote, tmp_path / "other")

    first = rows(command(other, "log", "--format", "json", *words))
    cached = rows(command(other, "log", "--format", "json", "--offline", *words))

    assert [row["metrics"]["accuracy"] for row in first] == pytest.approx(accuracies)
    assert cached == first


def test_log__kept_here_and_not_pushed__is_shown_beside_the_ledger(tmp_path, push):
    push(ledgers.record_files(RECORDS[3]))
    with Repository.find(tmp_path / "first", ENVIRON) as repository:
        kept = Results(repository, remote="origin", branch=ledgers.BRANCH)
        kept.keep(ledgers.record_files(RECORDS[0]) | ledgers.report_files())

    found = rows(command(tmp_path / "first", "log", "--format", "json"))

    assert [(row["metrics"]["accuracy"], row["verdict"]) for row in found] == [(0.5, None), (0.95, "better")]


def test_log__new_records_after_a_first_look__are_seen(tmp_path, push):
    push(ledgers.record_files(RECORDS[3]))
    assert len(rows(command(tmp_path / "first", "log", "--format", "json"))) == 1
    push(ledgers.record_files(RECORDS[4]))

    assert len(rows(command(tmp_path / "first", "log", "--format", "json"))) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"form": 1}', b'{"form":1,"records":{"x":[1]},"reports":{}}', b"\xff"]
)
def test_log__damaged_cache__is_made_anew(damage, tmp_path, push):
    push(*everything())
    before = command(tmp_path / "first", "log")
    cache = tmp_path / "first/.gitops-ml/history.json"
    whole = cache.read_bytes()
    cache.write_bytes(damage)

    assert command(tmp_path / "first", "log") == before
    assert cache.read_bytes() == whole


def test_log__broken_record_and_report__are_left_out_and_named(tmp_path, push):
    key = "0" * 64
    push(
        {record_path(key): b"{"},
        {"reports/digits/000000000000-00000000/report.json": b"[]"},
        ledgers.record_files(RECORDS[4]),
    )

    said = command(tmp_path / "first", "log", "--format", "json")

    assert len(rows(said)) == 1
    assert "warning: the record 000000000000 cannot be read and is left out: not valid JSON" in said.err
    assert "warning: reports/digits/000000000000-00000000 cannot be read and is left out: not a JSON object" in said.err
    assert command(tmp_path / "first", "log", "--format", "json") == said


def test_log__newer_repeat_of_a_seed__counts_and_both_cost(tmp_path, push):
    again = ledgers.record(0.1, repeat=1, document={"repeat": 1})
    push(*map(ledgers.record_files, [ledgers.record(0.9), again]))

    (row,) = rows(command(tmp_path / "first", "log", "--format", "json"))

    assert (row["metrics"]["accuracy"], row["seeds"], row["keys"], row["cost_usd"]) == (0.1, [0], [again.key], 1.0)


def test_import__log_and_what_it_calls__load_nothing_that_reads_specs() -> None:
    needed = "commands.log, gitops_ml.git, gitops_ml.ledger, gitops_ml.project"
    slow = ("yaml", "gitops_ml.schema", "gitops_ml.validation", "importlib.metadata", "jsonschema", "numpy")
    program = f"import sys, gitops_ml.{needed}; print(*[name for name in {slow!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "\n"


def test_log__csv__is_read_back_and_runs_nothing_in_a_spreadsheet(tmp_path, push):
    push(*everything())

    said = command(
        tmp_path / "first", "log", "--format", "csv", "--columns", 'experiment,params.act,metrics["accuracy"]'
    )

    assert list(csv.reader(io.StringIO(said.out))) == [
        ["experiment", "params.act", 'metrics["accuracy"]'],
        ["digits", "", "0.5"],
        ["mnist", "'=cmd()", "0.7"],
        ["digits", "", "0.951"],
    ]


def test_log__md__holds_hostile_values_as_code(tmp_path, push):
    push(ledgers.record_files(ledgers.record(params={"act": "| <b>@all"})))

    said = command(tmp_path / "first", "log", "--format", "md", "--columns", "experiment,params.act")

    assert said.out.splitlines()[2] == "| <code>digits</code> | <code>&#124; &#60;b&#62;&#64;<!-- -->all</code> |"


def test_log__md__numbers_and_times_can_be_read_as_they_stand(tmp_path, push):
    push(ledgers.record_files(ledgers.record(accuracy=1e-7)))

    said = command(tmp_path / "first", "log", "--format", "md", "--columns", "date,n,metrics.accuracy,cost,point")

    assert said.out.splitlines()[2] == "| 2026-01-01 00:00 | 1 | 1e-07 | 0.50 USD |   |"


def test_log__nothing_known_yet__is_said_and_fine(tmp_path):
    said = command(make_repository(tmp_path / "new", {"a": ""}), "log")

    assert (said.code, said.out, said.err) == (0, "", "no records yet\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "parms.n < 1"], "--where: column 1: unknown name `parms`; did you mean `params`?\n  parms.n < 1"),
        (["--sort", "datum"], "--sort: column 1: unknown name `datum`; did you mean `date`?\n  datum\n  ^"),
        (["--columns", ","], "--columns: no name is given; known are: "),
        (["--since", "soon"], "--since: `soon` is no time; give a day (2026-01-31), a time (2026-01-31T12:00) or "),
        (["--experiment", "digit"], "no record is of an experiment `digit`; did you mean `digits`?"),
    ],
)  # fmt: skip
def test_log__question_that_is_none__is_said(words, message, tmp_path, push):
    push(*everything())

    said = command(tmp_path / "first", "log", *words)

    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(message)


def test_diff__two_records__says_what_differs_in_all_that_counts(tmp_path, push):
    first = tmp_path / "first"
    before = git(first, "rev-parse", "HEAD")
    (first / "train.py").write_text("changed")
    git(first, "commit", "-qam", "change")
    after = git(first, "rev-parse", "HEAD")
    one = ledgers.record(0.9, commit=before)
    other = ledgers.record(
        0.95, 1, params={"lr": 0.2}, commit=after, document={"code": "new", "data": [["test", "other"]], "seed": 1}
    )
    push(ledgers.record_files(one), ledgers.record_files(other))

    said = command(first, "diff", one.key[:8], other.key[:8])

    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        "records",
        f"  digits  {one.key[:12]}  {before[:12]}",
        f"  digits  {other.key[:12]}  {after[:12]}",
        "parameters",
        "  params.lr  0.1  0.2",
        "  seed       0    1",
        "code",
        f"  git diff {before[:12]} {after[:12]}",
        "  train.py",
        "data",
        "  data.test  pin  other",
        "environment",
        "  the same",
        "metrics",
        "  accuracy  0.9  0.95  +0.05",
        "  loss      0.3  0.3   +0",
    ]
    document = json.loads(command(first, "diff", one.key[:8], other.key[:8], "--format", "json").out)
    assert document["code"] == {"changed": True, "files": ["train.py"], "note": ""}
    assert command(first, "diff", one.key[:8], other.key[:8], "--format", "md").out.startswith(
        "**records**\n\n| experiment"
    )


def test_diff__commit_that_is_not_here__is_said(tmp_path, push):
    one, other = ledgers.record(0.9), ledgers.record(0.9, document={"code": "new"})
    push(ledgers.record_files(one), ledgers.record_files(other))

    said = command(tmp_path / "first", "diff", one.key, other.key)

    assert "code\n  commit aaaaaaaaaaaa is not in this repository\n" in said.out


def test_diff__unknown_key__is_said(tmp_path, push):
    push(ledgers.record_files(RECORDS[0]))

    said = command(tmp_path / "first", "diff", RECORDS[0].key, "00000000")

    assert said.code == 2
    assert said.err.startswith("nothing is called `00000000`")


# Along main


@pytest.fixture
def grown(tmp_path, push):
    """Ten commits of main, measured: the accuracy falls with the seventh, which a report alone says."""
    work = tmp_path / "first"
    files = []
    for number in range(10):
        oid = commit(work, {"train.py": f"pass  # {number}"}, f"change {number}")
        level = 0.9 if number < 6 else 0.7
        made = ledgers.record(level + number % 3 / 1000, document={"code": f"{number:064x}"}, commit=oid)
        files.append(ledgers.record_files(made))
    git(work, "push", "-q", "origin", "main")
    git(work, "tag", "v1", "HEAD~5")
    git(work, "tag", "-a", "-m", "second", "v2", "HEAD")
    git(work, "tag", "tree", "HEAD^{tree}")
    push(*files)
    return work


def test_log_plot__a_level_that_changed__is_drawn_and_said(grown, tmp_path):
    changed = git(grown, "rev-parse", "HEAD~3")

    said = command(grown, "log", "--plot", "out/history.svg")
    again = command(clone(tmp_path / "remote.git", tmp_path / "other"), "log", "--plot", str(tmp_path / "again.svg"))
    command(grown, "log", "--plot", "history.png", "--metric", "accuracy", "--offline")

    assert said.out.splitlines() == [
        f"digits: accuracy went from 0.901 to 0.7007 at {changed[:12]} (2023-11-14)",
        f"plot: {grown}/out/history.svg",
    ]
    assert said.code == again.code == 0
    svg = (grown / "out/history.svg").read_bytes()
    assert b">v1<" in svg
    assert b">v2<" in svg
    assert f">{changed[:8]}<".encode() in svg
    # Another clone draws the same, but the tags that it does not have.
    assert again.out.splitlines()[0] == said.out.splitlines()[0]
    assert (grown / "history.png").read_bytes().startswith(b"\x89PNG")


def test_log_plot__before_the_first_report__draws_what_the_spec_says(grown):
    commit(grown, {"experiment.yaml": f"{SPEC}  - {{name: loss, goal: minimize, gate: fail}}\n"})

    assert command(grown, "log", "--plot", "history.svg").code == 0

    assert b">loss<" in (grown / "history.svg").read_bytes()


def test_log_plot__a_commit_whose_report_reuses_records__is_measured(tmp_path, push):
    work = tmp_path / "first"
    head = git(work, "rev-parse", "HEAD")
    records = [ledgers.record(0.95 + seed / 1000, seed) for seed in range(3)]  # trained at a commit that is not main's
    report = {path.replace("a" * 12, head[:12]): data for path, data in ledgers.report_files().items()}
    push(*map(ledgers.record_files, records), {p: d.replace(b"a" * 40, head.encode()) for p, d in report.items()})

    said = command(work, "log", "--plot", "h.svg")

    assert (said.code, said.out) == (0, f"plot: {work}/h.svg\n"), said.err
    assert f">{head[:8]}<".encode() in (work / "h.svg").read_bytes()


def test_log_plot__nothing_on_main__says_so_and_writes_nothing(tmp_path, push):
    push(*everything())

    said = command(tmp_path / "first", "log", "--plot", "h.svg")

    assert (said.code, said.out, said.err) == (0, "", "nothing to draw: no record is of a commit of main\n")
    assert not (tmp_path / "first/h.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plot", "h.pdf"], "--plot: h.pdf is neither an .svg nor a .png"),
        (
            ["--plot", "h.svg", "--ref", "trunk"],
            "there is no branch `trunk` here; --ref names the one whose history is drawn",
        ),
        (
            ["--plot", "h.svg", "--metric", "acuracy"],
            "--metric: no row has a metric `acuracy`; did you mean `accuracy`?",
        ),
    ],
)  # fmt: skip
def test_log_plot__what_is_not_there__is_named(words, message, tmp_path, push):
    push(*everything())

    said = command(tmp_path / "first", "log", *words)

    assert (said.code, said.err) == (2, f"{message}\n")


def on(name, pin, value, seed):
    return ledgers.record(value, seed, document={"data": [[name, pin]], "seed": seed})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["train=sha256:9f2c" + "0" * 60], [[1, 2]]),
        (["train=9f2c"], [[1, 2]]),
        (["train=0f3a5b7c9d1e2f4a6b8c0d2e4f6a8b0c2d4e6f8a+sha256:9f2c" + "0" * 60], [[1, 2]]),
        (["train=3sL4kq"], [[3]]),
        (["train=9f2d"], []),
        (["test=v1.0", "train=9f2c"], []),
    ],
)
def test_log__data_version__all_that_was_trained_on_it(tmp_path, push, asked, found):
    made = [
        on("train", "sha256:9f2c" + "0" * 60, 0.5, 1),
        on("train", "sha256:9f2c" + "0" * 60, 0.7, 2),
        on("train", "3sL4kqtJlcpXroDTDmJ", 0.9, 3),
        on("test", "v1.0", 0.1, 4),
    ]
    push(*map(ledgers.record_files, made))
    words = [word for text in asked for word in ("--data", text)]

    said = command(tmp_path / "first", "log", *words, "--format", "json")

    assert [row["seeds"] for row in rows(said)] == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train", "--data: `train`: give NAME=VERSION, such as train=sha256:9f2c, four characters at least\n"),
        ("train=9f2", "--data: `train=9f2`: give NAME=VERSION, such as train=sha256:9f2c, four characters at least\n"),
        ("tset=9f2c", "--data: no record has data called `tset`; did you mean `test`?\n"),
    ],
)
def test_log__data_that_is_none__says_what_is_accepted(tmp_path, push, text, words):
    push(*everything())

    said = command(tmp_path / "first", "log", "--data", text)

    assert (said.code, said.err) == (2, words)

import io
import json
import os

import pytest

from gitops_ml.commands.init import ci_files, spec_text
from gitops_ml.errors import ExitCode
from gitops_ml.main import main
from gitops_ml.scouting import goal_of, look
from gitops_ml.source import read_source
from gitops_ml.tools import Tools
from tests.fakes.repositories import ENVIRON, fingerprint, git, make_repository, write

ARGPARSE = """
import argparse
import model
from pkg.layers import dense
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("-w", "--weight-decay", default=-0.5)
parser.add_argument("--optimizer", default="adam: w")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--fast", action="store_true")
parser.add_argument("--output-dir", default="out")
parser.add_argument("--inf", default=1e999)
data = open("data/train.csv")
open("out/metrics.json", "w")
"""

CLICK = """
import click
@click.command()
@click.option("--epochs", default=3)
@click.option("--shout/--no-shout", default=True)
def main(epochs, shout): ...
"""

LOCK = "numpy==2.0.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"

REPOSITORIES = {
    "argparse": {
        "train.py": ARGPARSE,
        "model.py": "import helper",
        "helper.py": "",
        "pkg/__init__.py": "",
        "pkg/layers.py": "",
        "unrelated.py": "",
        "requirements.lock": LOCK,
        "data/train.csv": "a,b\n",
        "data/test.csv": "a,b\n",
        "out/metrics.json": json.dumps({"loss": 0.5, "val": {"accuracy": 0.9}, "epoch": 3}),
    },
    "click, no metrics": {"src/main.py": CLICK, "requirements.txt": "click\n"},
    "cannot be parsed": {"train.py": "print 'two'\n"},
    "null bytes": {"train.py": b"\0\xff\xfe"},
    "deep": {"train.py": "(" * 5000},
    "not UTF-8": {"train.py": "# -*- coding: latin-1 -*-\nx = '\xe9'\n".encode("latin-1")},
    "metrics that are hostile": {
        "train.py": "",
        "metrics.json": json.dumps(
            {"a: b": 1, "}, {name: x": 1, '"': 2, "null": 3, "1e5": 4, "x\ny": 5, "\u202e": 6, "# c": 7, "acc": 1}
        ),
    },
    "hostile names": {
        "train $(touch pwned) '\"; echo.py": "open('metrics.json')",
        "data/${params.lr}.csv": "",
        "data/[a].csv": "",
        "data/a-b.csv": "",
        "data/a_b.csv": "",
        "data/line\nbreak.csv": "",
        "data/\u202etxt.csv": "",
        "data/null.csv": "",
        "data/: {.csv": "",
        "data/9.csv": "",
        "data/-.csv": "",
    },
    "names like numbers": {"2024/train.py": "import argparse\nopen('true/metrics.json')", "data/.5.csv": ""},
}


def command(folder, *words):
    tools = Tools(cwd=folder, environ=ENVIRON, out=io.StringIO(), err=io.StringIO())
    code = main(words, tools)
    return code, tools.out.getvalue(), tools.err.getvalue()


@pytest.mark.parametrize("name", REPOSITORIES)
@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_init__any_repository__what_it_writes_validates(name, kind, tmp_path):
    top = make_repository(tmp_path / "r", REPOSITORIES[name])

    words = [path for path in REPOSITORIES[name] if path.endswith("echo.py")]
    code, out, err = command(top, "init", *words, "--name", "first", "--ci", kind)
    checked = command(top, "validate", "--format", "text")

    assert (code, out.count("written")) == (ExitCode.OK, 2 + len(ci_files(kind))), err
    assert checked[0] == ExitCode.OK, checked[1]


def test_init__argparse_script__spec_names_what_it_found(tmp_path):
    top = make_repository(tmp_path / "vision", REPOSITORIES["argparse"])

    code, out, err = command(top, "init")

    assert code == ExitCode.OK
    assert read_source((top / "experiments/vision.yaml").read_bytes(), "x").data == {
        "version": 1,
        "name": "vision",
        "run": "python train.py --lr ${params.lr} --weight-decay ${params.weight_decay} "
        "--optimizer ${params.optimizer} --seed ${trial.seed}",
        "code": {"include": ["train.py", "model.py", "pkg/**", "helper.py"]},
        "environment": {"requirements": "requirements.lock"},
        "data": [
            {"name": "test", "uri": "data/test.csv", "role": "eval"},
            {"name": "train", "uri": "data/train.csv", "role": "train"},
        ],
        "params": {"lr": 0.001, "weight_decay": -0.5, "optimizer": "adam: w"},
        "seeds": [0, 1, 2],
        "budget": {"max_duration": "2h"},
        "metrics": {
            "read": ["out/metrics.json"],
            "track": [
                {"name": "val/accuracy", "goal": "maximize", "tolerance": "1%", "gate": "fail", "primary": True},
                {"name": "loss", "goal": "minimize", "tolerance": "1%", "gate": "warn"},
            ],
        },
    }
    assert out.splitlines() == [
        "written  experiments/vision.yaml",
        "written  gitops-ml.yaml",
        "next: read the spec, then `gitops-ml validate`, `git add` and commit it, `gitops-ml run`",
    ]
    assert err.splitlines() == [
        "  neither GitHub nor GitLab is known here: `gitops-ml init --ci github` or `--ci gitlab` writes its file"
    ]


def test_init__click_without_seed_and_metrics__says_what_is_missing(tmp_path):
    top = make_repository(tmp_path / "r", REPOSITORIES["click, no metrics"])

    code, _, err = command(top, "init", "--ci", "none")

    spec = (top / "experiments/src.yaml").read_text(encoding="utf-8")
    assert code == ExitCode.OK
    assert 'run: "python src/main.py --epochs ${params.epochs}"\n' in spec
    assert "seeds: [0]  " in spec
    assert err.splitlines()[:3] == [
        "  requirements.txt has no hashes: `pip-compile --generate-hashes` makes a lock file to name in the spec",
        "  no metrics file was found: let the training write one, and name it under `metrics.read`",
        "  src/main.py takes no --seed: with three seeds a difference can be tested",
    ]


def test_init__run_again_or_beside_files__overwrites_nothing(tmp_path):
    top = make_repository(tmp_path / "r", {"train.py": "", "gitops-ml.yaml": "backend: local\n"})
    command(top, "init", "--ci", "github", "--name", "one")
    (top / "experiments/one.yaml").write_text("mine", encoding="utf-8")
    before = fingerprint(top)

    code, out, _ = command(top, "init", "--ci", "github", "--name", "one")

    assert code == ExitCode.OK
    assert out.splitlines()[:3] == [
        "kept     experiments/one.yaml (it is there already)",
        "kept     gitops-ml.yaml (it is there already)",
        "kept     .github/workflows/gitops-ml.yml (it is there already)",
    ]
    assert fingerprint(top) == before


@pytest.mark.parametrize(
    ("default", "written"),
    [
        ("main", "[main, master]"),
        (None, "[main, master]"),
        ("develop", "[develop]"),
        ("release/2.x", "[release/2.x]"),
        ("2.0", '["2.0"]'),
        ("true", '["true"]'),
        ("a+b", "[main, master]"),
        ("$(x)]: y", "[main, master]"),
    ],
)
def test_ci_files__default_branch__is_the_one_whose_pushes_count(default, written):
    assert f"    branches: {written}\n" in ci_files("github", default)[".github/workflows/gitops-ml.yml"]


def test_init__clone_that_knows_the_default_branch__names_it(tmp_path):
    remote = make_repository(tmp_path / "remote", {"train.py": ""})
    git(remote, "branch", "-q", "-m", "develop")
    git(tmp_path, "clone", "-q", str(remote), str(tmp_path / "clone"))
    code, out, err = command(tmp_path / "clone", "init", "--ci", "github", "--dry-run")

    assert code == ExitCode.OK, err
    assert "    branches: [develop]\n" in out
    assert "\nbaseline: {ref: develop}\ntriggers: {push: [develop]}\n" in out


def test_init__no_main_but_master__compares_with_that(tmp_path):
    top = make_repository(tmp_path / "r", {"train.py": ""})
    git(top, "branch", "-m", "main", "master")

    assert command(top, "init")[0] == ExitCode.OK

    spec = read_source((top / "experiments/r.yaml").read_bytes(), "x").data
    assert (spec["baseline"], spec["triggers"]) == ({"ref": "master"}, {"push": ["master"]})


def test_init__dry_run__writes_nothing(tmp_path):
    top = make_repository(tmp_path / "r", {"train.py": ""})
    before = fingerprint(top)

    code, out, _ = command(top, "init", "--dry-run", "--ci", "gitlab")

    assert (code, fingerprint(top)) == (ExitCode.OK, before)
    assert [line for line in out.splitlines() if line.startswith("# ---")] == [
        "# --- experiments/r.yaml",
        "# --- gitops-ml.yaml",
        "# --- .gitlab-ci.yml",
    ]


@pytest.mark.parametrize(
    ("url", "files", "written"),
    [
        ("https://github.com/acme/vision", {}, ".github/workflows/gitops-ml.yml"),
        ("git@github.example.com:acme/vision.git", {".gitlab-ci.yml": ""}, ".github/workflows/gitops-ml.yml"),
        ("https://gitlab.acme.org/a/b/c.git", {}, ".gitlab-ci.yml"),
        ("https://git.acme.org/a/b", {".github/workflows/x.yml": "on: push"}, ".github/workflows/gitops-ml.yml"),
        ("https://notgithub.org/a/b", {}, None),
        (None, {".gitlab-ci.yml": "", ".github/dependabot.yml": ""}, None),
    ],
)
def test_init__forge__by_remote_then_by_files(url, files, written, tmp_path):
    top = make_repository(tmp_path / "r", {"train.py": "", **files})
    if url:
        git(top, "remote", "add", "origin", url)

    code, out, _ = command(top, "init")

    names = [line.split()[1] for line in out.splitlines() if line.startswith(("written", "kept"))]
    assert code == ExitCode.OK
    assert names[2:] == ([written] if written == ".gitlab-ci.yml" else list(ci_files("github")) if written else [])


def test_init__gitlab_file_is_there__says_what_to_add(tmp_path):
    top = make_repository(tmp_path / "r", {"train.py": "", ".gitlab-ci.yml": "stages: [test]\n"})

    _, _, err = command(top, "init", "--name", "a")

    include = ci_files("gitlab")[".gitlab-ci.yml"].splitlines()[-1].strip()
    assert err.splitlines()[-1] == f"  add to the `include` of .gitlab-ci.yml: {include}"
    assert (top / ".gitlab-ci.yml").read_text(encoding="utf-8") == "stages: [test]\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--name", "../../etc/x"],
            "--name: '../../etc/x' is no name; use lower-case letters, digits and `-`, at most 63",
        ),
        ([], "no training script was found in {top}; name it: gitops-ml init SCRIPT"),
        (
            ["no.py"],
            (
                "no file that a spec can name is called `no.py` in {top}; give the training script's path from the "
                "repository's root"
            ),
        ),
        (
            ["../r/x.py"],
            (
                "no file that a spec can name is called `../r/x.py` in {top}; give the training script's path from the "
                "repository's root"
            ),
        ),
    ],
)
def test_init__cannot_begin__says_why(words, message, tmp_path):
    top = make_repository(tmp_path / "r", {"x.py": ""})

    code, _, err = command(top, "init", *words)

    assert (code, err) == (ExitCode.USAGE, message.format(top=top) + "\n")
    assert not (top / "gitops-ml.yaml").exists()


def test_init__links_and_pipes__are_neither_read_nor_written_through(tmp_path):
    top = make_repository(tmp_path / "r", {"main.py": ""})
    (tmp_path / "outside").mkdir()
    (tmp_path / "train.py").write_text("secret", encoding="utf-8")
    (top / "train.py").symlink_to(tmp_path / "train.py")
    os.mkfifo(top / "metrics.json")
    (top / "experiments").symlink_to(tmp_path / "outside")

    found = look(top)
    code, _, err = command(top, "init", "--name", "a")

    assert (found.script, found.metrics_files) == ("main.py", ())
    assert (code, err) == (
        ExitCode.USAGE,
        "experiments/a.yaml would be written outside of the repository: a folder in it is a link\n",
    )
    assert not list((tmp_path / "outside").iterdir())


def test_look__no_side_effects__script_is_not_run(tmp_path):
    write(tmp_path, {"train.py": f"open({str(tmp_path / 'ran')!r}, 'w')"})

    look(tmp_path)

    assert not (tmp_path / "ran").exists()


def test_look__metrics_only_named_in_the_script__are_looked_for_anywhere(tmp_path):
    write(tmp_path, {"train.py": "open(out / 'metrics.json'); SummaryWriter()"})

    assert look(tmp_path).metrics_files == ("**/metrics.json", "**/events.out.tfevents.*")


@pytest.mark.parametrize(
    ("name", "goal"),
    [("val/loss", "minimize"), ("top1", "maximize"), ("accuracy_error", "minimize"), ("lossless", None), ("", None)],
)
def test_goal_of__name__is_the_last_word_that_tells(name, goal):
    assert goal_of(name) == goal


def test_spec_text__script_with_a_hostile_name__stays_one_word_of_the_shell(tmp_path):
    name = "train $(touch pwned) '\"; echo.py"
    write(tmp_path, {name: ""})

    spec = read_source(spec_text("a", look(tmp_path, script=name)).encode(), "x").data

    assert spec["run"] == "python 'train $(touch pwned) '\"'\"'\"; echo.py'"


def test_init__script_that_names_files_from_its_own_folder__is_started_there(tmp_path):
    script = 'open("data/train.csv"); open("out/metrics.json", "w")\nimport model\n'
    files = {
        "digits/train.py": script,
        "digits/model.py": "",
        "digits/data/train.csv": "a\n",
        "requirements.lock": LOCK,
    }
    write(tmp_path, files)

    found = look(tmp_path)

    assert (found.workdir, found.script, found.lock) == ("digits", "train.py", "../requirements.lock")
    assert found.code == ("train.py", "model.py")
    assert [item.path for item in found.data] == ["data/train.csv"]
    assert 'run: "python train.py"\nworkdir: digits  # ' in spec_text("digits", found)


def test_init__script_in_a_folder_that_names_files_from_the_root__is_started_at_the_root(tmp_path):
    write(tmp_path, {"src/train.py": 'open("data/train.csv")\n', "data/train.csv": "a\n", "src/data/other.csv": "a\n"})

    found = look(tmp_path)

    assert (found.workdir, found.script) == (None, "src/train.py")

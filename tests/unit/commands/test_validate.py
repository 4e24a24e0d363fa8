import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.commands.validate import WorkTree
from gitops_ml.main import main
from gitops_ml.tools import Tools
from tests.fakes.repositories import ENVIRON, git, make_repository

TOP = Path(__file__).parents[3]
SPEC = "version: 1\nname: {}\nrun: 'true'\nmetrics: {{read: [m.json], track: [{{name: a}}]}}\n"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    (folder / "experiments" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "experiments" / "a.yaml").write_text(SPEC.format("a"))
    (folder / "experiments" / "deep" / "b.yaml").write_text(SPEC.format("b"))
    (folder / "experiments" / "notes.txt").write_text("no spec")
    return folder


def validate(cwd: Path, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(["validate", *words], Tools(cwd=cwd, environ=environ or {}, out=out, err=err))
    return code, out.getvalue(), err.getvalue()


def test_validate__no_paths__all_specs(repository):
    assert validate(repository) == (0, "2 specs: nothing found\n", "")


def test_validate__from_a_subfolder__all_specs_of_the_repository(repository):
    assert validate(repository / "experiments" / "deep") == (0, "2 specs: nothing found\n", "")


def test_validate__no_spec_anywhere__says_so(tmp_path):
    assert validate(tmp_path) == (
        0,
        "0 specs (none matches experiments/**/*.yaml, experiment.yaml): nothing found\n",
        "",
    )


def test_validate__one_name_twice__is_found_across_files(repository):
    (repository / "experiments" / "c.yaml").write_text(SPEC.format("a"))

    code, out, _ = validate(repository)

    assert code == 1
    assert out == (
        "experiments/c.yaml:2:7: the name `a` is already that of experiments/a.yaml; choose another [same-name]\n"
        "3 specs: 1 error\n"
    )


def test_validate__broken_gitops_ml_yaml__is_a_finding(repository):
    (repository / "gitops-ml.yaml").write_text("imges: none\n")

    assert validate(repository) == (
        1,
        "gitops-ml.yaml:1:1: unknown key `imges`; did you mean `images`? [unknown-key]\n2 specs: 1 error\n",
        "",
    )
    assert validate(repository, "gitops-ml.yaml")[0] == 1


def test_validate__globs_of_gitops_ml_yaml__decide(repository):
    (repository / "gitops-ml.yaml").write_text("specs: [experiments/*.yaml]\n")

    assert validate(repository)[1] == "1 spec: nothing found\n"


def test_validate__folder__its_specs_alone(repository):
    assert validate(repository, "experiments/deep")[1] == "1 spec: nothing found\n"
    assert validate(repository / "experiments", ".")[1] == "2 specs: nothing found\n"


def test_validate__file_outside_any_repository__needs_no_git(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC.format("x") + "code: {include: [train.py]}\n")

    code, out, _ = validate(tmp_path, "x.yaml", environ={"PATH": ""})

    assert (code, out) == (1, "x.yaml:5:18: there is no file `train.py` [missing-file]\n1 spec: 1 error\n")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.yaml", "there is no file missing.yaml\n"),
        ("empty", "there is no spec in empty; which files are specs says `specs` in gitops-ml.yaml\n"),
        ("pipe", "pipe is no file\n"),
    ],
)
def test_validate__path_that_cannot_be_read__is_a_usage_error(repository, path, message):
    (repository / "empty").mkdir()
    os.mkfifo(repository / "pipe")

    assert validate(repository, path) == (2, "", message)


def test_validate__format__programs_get_findings_alone(repository):
    (repository / "experiments" / "a.yaml").write_text("version: 1\nname: a\n")

    code, out, err = validate(repository, "--format", "json")

    assert code == 1
    assert [it["code"] for it in json.loads(out)] == ["missing-key", "nothing-to-compare"]
    assert err == "2 specs: 1 error, 1 warning\n"


def test_validate__in_github_actions__annotates_unless_told_otherwise(repository):
    (repository / "experiments" / "a.yaml").write_text("version: 1\n")
    actions = {"GITHUB_ACTIONS": "true"}

    assert validate(repository, environ=actions)[1].startswith("::error file=experiments/a.yaml,line=1,col=1,")
    assert validate(repository, "--format", "text", environ=actions)[1].startswith("experiments/a.yaml:1:1: ")


def test_validate__at_a_commit__judges_its_files_not_those_on_disk(repository):
    (repository / ".git").rmdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    spec = SPEC.format("c") + "code: {include: [train.py, link, away]}\n"
    (repository / "experiments" / "c.yaml").write_text(spec)
    (repository / "train.py").write_text("")
    (repository / "link").symlink_to("train.py")
    (repository / "away").symlink_to("/etc/passwd")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "one")
    (repository / "train.py").unlink()
    environ = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}

    code, out, _ = validate(repository, "--at", "main", environ=environ)
    first, second, _ = out.split("\n")

    assert code == 1
    assert first == "experiments/c.yaml:5:34: `away` leads out of the repository; paths stay inside it [outside]"
    assert second.startswith("3 specs at ")
    assert validate(repository, "--at", "main", "experiments/deep", environ=environ)[0] == 0
    assert validate(repository, "--at", "main", "nowhere", environ=environ)[0] == 2
    assert validate(repository, "--at", "no-such-branch", environ=environ)[0] == 2
    assert "`train.py`" in validate(repository, environ=environ)[1]


def test_work_tree__symlinks__inside_and_out(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("")
    (tmp_path / "in").symlink_to("data")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    tree = WorkTree(tmp_path)

    paths = ("data", "data/x", "in/x", "out", "out/passwd", "dangling", "loop", "loop/x", ".", "missing")
    assert {path: tree.kind(path) for path in paths} == {
        "data": "folder",
        "data/x": "file",
        "in/x": "file",
        "out": "outside",
        "out/passwd": "outside",
        "dangling": None,
        "loop": None,
        "loop/x": None,
        ".": "folder",
        "missing": None,
    }
    assert tree.any("data/**")
    assert not tree.any("in/**/x")  # git does not look behind a symlink either


def test_validate__valid_spec__imports_nothing_heavy(repository):
    heavy = ("numpy", "matplotlib", "scipy", "boto3", "botocore", "github", "gitlab", "requests", "jsonschema")
    program = (
        "import sys; from gitops_ml.main import entry_point\n"
        "try: entry_point()\n"
        f"finally: print([name for name in {heavy!r} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "validate"],
        cwd=repository,
        env={"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout == "2 specs: nothing found\n[]\n"


@pytest.mark.parametrize("name", ["experiment", "experiment.v1", "project"])
def test_schema__name__prints_it(tmp_path, name):
    out = io.StringIO()

    assert main(["schema", name], Tools(cwd=tmp_path, environ={}, out=out)) == 0
    assert json.loads(out.getvalue())["$id"] == f"urn:gitops-ml:schema:{name.removesuffix('.v1')}.v1"


def test_schema__unknown_name__names_the_known(tmp_path):
    err = io.StringIO()

    assert main(["schema", "experimnt.v1"], Tools(cwd=tmp_path, environ={}, err=err)) == 2
    assert err.getvalue().startswith("no schema is called `experimnt.v1`; did you mean `experiment.v1`?; known are: ")


def test_validate__spec_is_a_symbolic_link__neither_followed_nor_quoted(repository):
    (repository / "experiments" / "x.yaml").symlink_to("/etc/passwd")

    code, out, _ = validate(repository)

    assert code == 1
    assert "experiments/x.yaml:1:1: a spec is a file of its own, not a symbolic link" in out
    assert "root" not in out


COMMIT = "0" * 40
PIN = "sha256:" + "0" * 64
REMOTE = f"""\
data:
- {{name: a, uri: "s3://bucket/a.csv", version: "{PIN}", role: train}}
- {{name: b, uri: "https://data.example.org/b.csv", version: "{PIN}", role: train}}
- {{name: c, uri: "hf://datasets/acme/c/c.csv", version: "{COMMIT}", role: eval}}
backend: aws-ec2
resources: {{gpu: {{type: L4}}}}
budget: {{max_cost: 1 USD, max_duration: 1h}}
environment: {{image: "ghcr.io/acme/train@{PIN}"}}
sed: 1
"""
# Where a container may make no namespaces, a proxy that nobody answers at has to do.
NO_NETWORK = ("unshare", "--map-root-user", "--net")
NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")


def without_network() -> tuple[str, ...]:
    try:
        done = subprocess.run([*NO_NETWORK, "true"], capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        return ()
    return NO_NETWORK if done.returncode == 0 else ()


@pytest.mark.parametrize("words", [(), ("--at", "HEAD")], ids=["work tree", "commit"])
def test_validate__without_any_network__finds_the_same(words, tmp_path):
    folder = make_repository(tmp_path / "r", {"experiment.yaml": SPEC.format("a") + REMOTE})
    git(folder, "remote", "add", "origin", "https://git.example.org/acme/a.git")
    (folder / "gitops-ml.yaml").write_text("storage: s3://bucket/prefix\n")
    code, out, err = validate(folder, *words, environ=ENVIRON)

    done = subprocess.run(
        [*without_network(), sys.executable, "-m", "gitops_ml", "validate", *words],
        cwd=folder,
        env={**ENVIRON, **NO_PROXY, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert out.startswith("experiment.yaml:13:1: unknown key `sed`; did you mean `seeds`? [unknown-key]\n1 spec"), out
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err) == (1, out, "")


def test_validate__work_tree__asks_no_host_and_starts_no_process(repository):
    (repository / "experiments" / "a.yaml").write_text(SPEC.format("a") + REMOTE)
    program = (
        "import sys; from gitops_ml.main import entry_point\n"
        "def hook(event, args):\n"
        "    if event.startswith(('socket.', 'subprocess.', 'os.exec', 'os.posix_spawn', 'os.fork')):\n"
        "        print(event)\n"
        "sys.addaudithook(hook)\n"
        "entry_point()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "validate"],
        cwd=repository,
        env={"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (*validate(repository)[:2], "")
    assert "[unknown-key]" in done.stdout

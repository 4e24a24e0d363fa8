import pytest

from gitops_ml.errors import ExitCode, UserError
from gitops_ml.project import LedgerSettings, Project, load_project, project_from


def said(text: str) -> list[str]:
    project, found = project_from(text.encode())
    assert (project is None) == bool(found)
    return [f"{it.position.line}:{it.position.column}: {it.message} [{it.code}]" for it in found]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n", "policy: {}\n"])
def test_project_from__nothing_said__all_defaults(text):
    assert project_from(text.encode()) == (Project(), ())


def test_project_from__settings__are_read():
    text = (
        b"specs: [a/*.yaml]\nbackend: local\nbackends: {local: {grace_s: 2}}\nledger: {branch: results}\n"
        b"storage: /srv/ml\nimages: none\n"
    )

    assert project_from(text) == (
        Project(
            specs=("a/*.yaml",),
            backend="local",
            backends={"local": {"grace_s": 2}},
            ledger=LedgerSettings(branch="results"),
            storage="/srv/ml",
            images="none",
        ),
        (),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec: [a]\n", ["1:1: unknown key `spec`; did you mean `specs`? [unknown-key]"]),
        ("- a\n", ["1:1: the file is a list, not a mapping [wrong-type]"]),
        ("specs: []\n", ["1:8: `specs` must not be empty [empty]"]),
        ("specs: [../x]\n", ["1:9: `../x` leads out of the repository; specs are inside it [outside]"]),
        ("backend: loca\n", ["1:10: no backend is called `loca`; did you mean `local`? [unknown-backend]"]),
        ("backends: {loca: {}}\n", ["1:12: no backend is called `loca`; did you mean `local`? [unknown-backend]"]),
        ("backends: {local: {jobs: 2}}\n", ["1:20: unknown key `jobs`; known are: grace_s [unknown-key]"]),
        (
            "backends: {local: {grace_s: 10s}}\n",
            ["1:29: `grace_s` is a string, not a number [wrong-type]"],
        ),
        (
            "backends:\n  aws-ec2: {region: [eu-west-1], regions: eu-west-1}\n",
            [
                "2:13: unknown key `region`; did you mean `regions`? [unknown-key]",
                "2:43: `regions` is a string, not a list; write [eu-west-1] [wrong-type]",
            ],
        ),
        (
            "ledger: {branch: main}\n",
            [
                (
                    "1:18: `main` is a branch that people work on; results need a branch of their own, "
                    "such as `gitops-ml/reports` [ledger-branch]"
                )
            ],
        ),
        (
            "images: png\n",
            ["1:9: `images` is `png`; accepted are: auto, commit, upload, mermaid, none [unknown-value]"],
        ),
        (
            "policy: {fork: never}\n",
            ["1:10: unknown key `fork`; did you mean `forks`? [unknown-key]"],
        ),
        (
            "storage: gs://b/p\n",
            [
                (
                    "1:10: `gs://b/p` is no storage; accepted are a folder and s3://bucket/prefix, "
                    "with ?owner=ACCOUNT or without [storage]"
                )
            ],
        ),
        ("a: 1\na: 2\n", [
            "1:1: unknown key `a`; known are: specs, backend, backends, ledger, storage, images, policy [unknown-key]",
            "2:1: the key `a` is already on line 1; remove one [duplicate-key]",
        ]),
    ],
)  # fmt: skip
def test_project_from__mistakes__are_findings(text, expected):
    assert said(text) == expected


@pytest.mark.parametrize(
    "branch", ["-x", "a b", "a..b", "a~1", "refs/heads/", "x.lock", "a//b", "a@{1}", ".a", "a/.b", "a:b", "x\\y", ""]
)
def test_project_from__branch_that_git_refuses__is_a_finding(branch):
    _, found = project_from(f"ledger: {{branch: '{branch}'}}\n".encode())

    assert [it.code for it in found] == ["wrong-format"]


def test_load_project__no_file__defaults(tmp_path):
    assert load_project(tmp_path) == Project()


def test_load_project__broken_file__its_findings_as_a_configuration_error(tmp_path):
    (tmp_path / "gitops-ml.yaml").write_text("imges: none\nbackend: 3\n")

    with pytest.raises(UserError) as caught:
        load_project(tmp_path)

    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        "gitops-ml.yaml:1:1: unknown key `imges`; did you mean `images`? [unknown-key]\n"
        'gitops-ml.yaml:2:10: `backend` is the number `3`, not a string; write it in quotes: "3" [wrong-type]'
    )

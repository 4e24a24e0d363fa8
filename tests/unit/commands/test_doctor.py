import base64
import errno
import io
import json

import pytest

from gitops_ml.diagnostics import Check
from gitops_ml.errors import ExitCode, UserError
from gitops_ml.main import main
from gitops_ml.project import Project
from gitops_ml.tools import Tools
from tests.fakes.forges import place


class Backend:
    def check(self):
        yield Check(subject="python3", ok=True, found="3.11", fix="")


class Repository:
    is_shallow = False

    def __init__(self, top):
        self.top = top

    def remote_url(self, remote):
        return "https://user:hunter2@github.com/acme/vision"

    def close(self):
        pass


class Job(Tools):
    def __init__(self, there, top):
        super().__init__(cwd=top, environ=there.environ(), out=io.StringIO(), err=io.StringIO())
        self.there = there
        self.repository = Repository(top)
        self.project = Project()

    def backend(self, name):
        if name != "local":
            raise UserError(f"no backend is called `{name}`; known are: local")
        return Backend()

    def forge(self, name):
        return self.there.forge()


@pytest.fixture(params=["github", "gitlab"])
def job(request, tmp_path):
    with place(request.param, tmp_path) as there:
        yield Job(there, tmp_path)


def mend(there):
    """Set everything as doctor wants it."""
    if there.name == "github":
        there.fake.tokens["ghs_canary0"].may |= {"administration"}
        there.fake.fork_approval = "all_external_contributors"
        kinds = ("update", "deletion", "non_fast_forward")
        rule = {"ruleset_source_type": "Repository", "ruleset_source": "acme/vision", "ruleset_id": 1}
        there.fake.rules["gitops-ml/reports"] = [{"type": kind, **rule} for kind in kinds]
    else:
        there.fake.guarded_media = True
        there.fake.fork_pipelines = False
        there.fake.variables_role = "no_one_allowed"
        there.fake.protected["gitops-ml/reports"] = {"allow_force_push": False}


def found(job, *more):
    code = main(["doctor", "--format", "json", *more], job)
    return code, {one["subject"]: one for one in json.loads(job.out.getvalue())}


def test_doctor__fresh_repository__names_each_setting_to_change(job):
    code, checks = found(job)

    assert code == ExitCode.USAGE
    assert {name for name, check in checks.items() if check["ok"] is False} == {
        "github": {"rules for the ledger branch `gitops-ml/reports`"},
        "gitlab": {
            "plots in comments",
            "pipelines of forks",
            "variables of a pipeline",
            "protection of the ledger branch `gitops-ml/reports`",
        },
    }[job.there.name]
    assert all(check["fix"] for check in checks.values() if check["ok"] is False)


def test_doctor__everything_set__nothing_to_mend(job):
    mend(job.there)
    main(["doctor"], job)

    assert job.out.getvalue().endswith("nothing to mend\n")
    assert main(["doctor"], job) == ExitCode.OK


def test_doctor__read_only_folder__is_a_finding_and_the_rest_is_looked_at(job):
    def refuse(remote):
        raise OSError(errno.EROFS, "Read-only file system", "/x/.gitops-ml")

    job.repository.remote_url = refuse
    code, checks = found(job)

    assert code == ExitCode.USAGE
    assert checks["project"]["found"] == "/x/.gitops-ml: Read-only file system"
    assert "python3" in checks


def test_doctor__changes_nothing(job):
    mend(job.there)
    before = (list(job.there.own()), list(job.there.statuses()))
    main(["doctor"], job)

    assert (job.there.own(), job.there.statuses()) == before == ([], [])


def test_doctor__permissions_missing__says_which(job):
    job.there.forbid()
    code, checks = found(job)

    assert code == ExitCode.USAGE
    if job.there.name == "github":
        assert "`contents: write`" in checks["reports on the ledger"]["fix"]
        assert "`statuses: write`" in checks["commit statuses"]["fix"]
        assert "`pull-requests: write`" in checks["comments on pull requests"]["fix"]
    else:
        assert checks["role of the token"]["found"] == "access level 10"


@pytest.mark.parametrize(
    ("role", "ok", "said"),
    [
        ("no_one_allowed", True, "nobody may set any"),
        ("owner", False, "may be set by the role owner and above"),
        ("developer", False, "may be set by the role developer and above"),
        (None, None, "the setting is not shown to this token"),
    ],
)
def test_doctor__gitlab_variables_of_a_pipeline__only_nobody_is_safe(tmp_path, role, ok, said):
    with place("gitlab", tmp_path) as there:
        there.fake.variables_role = role
        _, checks = found(Job(there, tmp_path))

    assert (checks["variables of a pipeline"]["ok"], checks["variables of a pipeline"]["found"]) == (ok, said)


def test_doctor__gitlab_job_token__is_not_enough(tmp_path):
    with place("gitlab", tmp_path) as there:
        job = Job(there, tmp_path)
        environ = {name: value for name, value in there.environ().items() if name != "GITLAB_TOKEN"}
        job.forge = lambda name: there.forge(environ=environ | {"CI_JOB_TOKEN": "glcbt-canary1"})
        _, checks = found(job)

    assert checks["GitLab token"]["ok"] is False
    assert "`GITLAB_TOKEN`" in checks["GitLab token"]["fix"]


def test_doctor__token_expired__is_a_finding_not_the_end(job):
    job.there.expire()
    code, checks = found(job)

    assert code == ExitCode.USAGE
    assert any("says 401" in check["found"] for check in checks.values())


def test_doctor__unknown_backend__is_a_finding(job):
    _, checks = found(job, "--backend", "slrum", "--backend", "local")

    assert checks["backend slrum"]["found"] == "no backend is called `slrum`; known are: local"
    assert checks["python3"]["ok"] is True


def test_doctor__shows_no_secret(job):
    main(["doctor"], job)

    assert "canary" not in job.out.getvalue() + job.err.getvalue()
    assert "hunter2" not in job.out.getvalue()


# The identity that a job proves to a cloud


def token(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


def with_token(job, text):
    job.environ = {**job.environ, "GITOPS_ML_ID_TOKEN": text}
    return found(job)[1]


@pytest.mark.parametrize(
    ("issuer", "subject", "guarded"),
    [
        ("https://token.actions.githubusercontent.com", "repo:acme/digits:environment:gitops-ml", True),
        ("https://token.actions.githubusercontent.com", "repo:acme@1/digits@2:environment:gitops-ml", True),
        ("https://token.actions.githubusercontent.com", "repo:acme/digits:pull_request", None),
        ("https://gitlab.com", "project_path:acme/digits:environment_protected:true", True),
        ("https://gitlab.com", "project_path:acme/digits:ref_type:branch:ref:main", None),
    ],
)
def test_identity__of_the_job__is_told_with_what_a_role_has_to_trust(issuer, subject, guarded, job):
    checks = with_token(job, token(iss=issuer, sub=subject, aud="sts.amazonaws.com"))

    assert (checks["identity token"]["ok"], checks["identity token"]["found"]) == (guarded, subject)
    host = issuer.removeprefix("https://")
    trusted = json.dumps({"StringEquals": {f"{host}:aud": "sts.amazonaws.com", f"{host}:sub": subject}})
    assert checks["trust policy"]["fix"] == f'its "Condition" has to say: {trusted}'


def test_identity__token_that_cannot_be_read__is_a_finding(job):
    checks = with_token(job, "nonsense")

    assert (checks["identity token"]["ok"], checks["identity token"]["found"]) == (
        False,
        "the identity token cannot be read",
    )


def test_identity__promised_and_not_allowed__is_a_finding(job, tmp_path):
    job.environ = {**job.environ, "GITOPS_ML_IDENTITY_FILE": str(tmp_path / "token")}

    checks = found(job)[1]

    assert checks["identity token"]["ok"] is False
    assert checks["identity token"]["found"].startswith(
        "this job may have no identity token; give it `id-token: write`"
    )


def test_identity__outside_of_such_a_job__is_not_looked_at(job):
    assert "identity token" not in found(job)[1]


def test_doctor__job_with_a_part_of_the_history__names_the_setting(job):
    job.repository.is_shallow = True
    _, checks = found(job)
    setting = {"github": "`fetch-depth: 0` of actions/checkout", "gitlab": 'the variable `GIT_DEPTH: "0"`'}

    check = checks["history"]
    assert (check["part"], check["ok"], check["found"]) == ("CI job", False, "a part of it")
    assert check["fix"] == (
        f"check out with {setting[job.there.name]}: the baseline is a commit of the past, and an event's head may be "
        "missing"
    )


def test_doctor__identity_token_where_it_trains_itself__is_to_be_mended(job):
    job.environ = {**job.environ, "GITOPS_ML_ID_TOKEN": "e30.eyJzdWIiOiJ4In0.c2ln"}
    _, checks = found(job)

    assert checks["history"]["ok"] is True
    assert checks["training here"]["ok"] is False
    assert checks["training here"]["found"] == "refused beside an identity token"

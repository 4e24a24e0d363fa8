"""The identity token: asked for as GitHub documents it, kept fresh, private, and never shown."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gitops_ml.commands import _ci_identity as identity
from gitops_ml.errors import DeniedError, ServiceError, UserError
from tests.fakes.oidc import BEARER, TokenServer
from tests.fakes.server import Answer, Call, Fault, Server
from tests.fakes.trials import until


@pytest.fixture
def runner():
    there = TokenServer()
    with there.running():
        yield there


def count(file: Path) -> int:
    return identity.claims(file.read_text())["n"]


def test_kept_fresh__while_the_block_runs__renews_a_private_file_and_removes_it(runner, tmp_path):
    file = tmp_path / "deep" / "token"
    notes = []
    with identity.kept_fresh(runner.environ(file), notes.append, every_s=0.001):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        until(lambda: count(file) > 2)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    assert list(file.parent.iterdir()) == []
    assert notes == []
    (call, *_) = runner.calls
    assert call.query == {"api-version": "2.0", "audience": "sts.amazonaws.com"}


def test_kept_fresh__not_asked_for__asks_nobody(runner):
    with identity.kept_fresh(runner.environ(), print):
        pass

    assert runner.calls == []


def test_kept_fresh__renewal_fails__is_said_and_tried_again(runner, tmp_path):
    runner.faults.append(Fault(kind="answer", skip=1, times=2))
    notes = []
    with identity.kept_fresh(runner.environ(tmp_path / "token"), notes.append, every_s=0.001):
        until(lambda: count(tmp_path / "token") > 1)

    host = runner.url.removeprefix("http://")
    assert notes == [f"the job's identity token was not renewed: {host} gives no identity token: it says 502"] * 2


def test_kept_fresh__gitlab__writes_the_jobs_own_token(tmp_path):
    file = tmp_path / "token"
    with identity.kept_fresh({identity.FILE: str(file), identity.GITLAB_TOKEN: "a.b.c"}, print):
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("a.b.c", 0o600)
    assert not file.exists()


def test_token__job_without_the_permission__names_it(tmp_path):
    with pytest.raises(UserError) as raised, identity.kept_fresh({identity.FILE: str(tmp_path / "token")}, print):
        pass

    assert str(raised.value) == (
        "this job may have no identity token; give it `id-token: write` under `permissions:` (GitHub), or "
        "`id_tokens: {GITOPS_ML_ID_TOKEN: {aud: ...}}` (GitLab)"
    )


@pytest.mark.parametrize("kind", ["answer", "reset", "garbage", "cut", "redirect", "shell"])
def test_token__service_fails__says_so_without_the_bearer(runner, kind):
    elsewhere = TokenServer()
    answer = Answer(status=500)
    if kind == "redirect":
        answer = Answer(status=302, headers={"Location": f"{elsewhere.url}/token"})
    if kind == "shell":
        answer = Answer(body={"value": "a.b.c\n; touch pwned"})
    with elsewhere.running():
        runner.faults.append(Fault(kind="answer" if kind in ("redirect", "shell") else kind, answer=answer))
        with pytest.raises(ServiceError) as raised:
            identity.token(runner.environ())

    assert elsewhere.calls == []
    assert "gives no identity token" in str(raised.value)
    assert BEARER not in str(raised.value) + repr(raised.value.__cause__)


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "a.W10.c", "a.é.c"])
def test_claims__nonsense__is_no_crash(text):
    with pytest.raises(ServiceError):
        identity.claims(text)


@pytest.mark.parametrize("name", ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITOPS_ML_ID_TOKEN"])
def test_refuse_beside_training__local_training_beside_a_role__is_denied(name):
    with pytest.raises(DeniedError) as raised:
        identity.refuse_beside_training({name: "x"}, ["digits", "digits"])

    assert str(raised.value) == (
        "`digits` would train in the job itself (backend `local`), and this job can take on a cloud role, which "
        "whatever trains here could do too; name a cloud backend, or train it in a job without `id-token: write`"
    )
    identity.refuse_beside_training({name: "x"}, [])
    identity.refuse_beside_training({}, ["digits"])


class Sts(Server):
    """AssumeRoleWithWebIdentity, as a client of AWS sends it."""

    def handle(self, call: Call) -> Answer:
        from urllib.parse import parse_qs

        self.asked = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
        body = (
            f'<AssumeRoleWithWebIdentityResponse xmlns="{namespace}"><AssumeRoleWithWebIdentityResult><Credentials>'
            "<AccessKeyId>ASIACANARY</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
            "<Expiration>2036-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )
        return Answer(body=body.encode(), headers={"Content-Type": "text/xml"})


def test_kept_fresh__boto3_in_the_same_job__takes_on_the_role_by_itself(runner, tmp_path):
    pytest.importorskip("boto3")
    file, sts = tmp_path / "token", Sts()
    program = "import boto3; print(boto3.session.Session().get_credentials().get_frozen_credentials().access_key)"
    with sts.running(), identity.kept_fresh(runner.environ(file), print):
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": sts.url,
            "AWS_REGION": "eu-central-1",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/gitops-ml-ci",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
        }
        words = [sys.executable, "-c", program]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
        assert done.stdout == "ASIACANARY\n", done.stderr
        assert sts.asked["Action"] == "AssumeRoleWithWebIdentity"
        assert sts.asked["RoleArn"] == environ["AWS_ROLE_ARN"]
        assert identity.claims(sts.asked["WebIdentityToken"])["sub"] == "repo:acme/vision:environment:gitops-ml"

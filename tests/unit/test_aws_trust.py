"""Who gets the cloud role and who may write the ledger, by the shipped files: each run's claims, judged as AWS would.

What the tokens hold: GitHub's reference of OpenID Connect (subjects with numbers since 15 July 2026, for repositories
created, renamed or transferred since then), GitLab's page on ID token authentication.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from gitops_ml.project import LedgerSettings
from tests.fakes.iam import Push, allows, environment_opens, refused_by

ACTION = Path(__file__).parents[2] / "action"
ISSUER = "token.actions.githubusercontent.com"
WORKFLOW = "gitops-ml/gitops-ml/.github/workflows/gitops-ml-aws.yml@refs/tags/v0.1.0"
FILLED = {
    "ACCOUNT": "123456789012",
    "ORG_ID": "1001",
    "REPO_ID": "2002",
    "ORG": "acme",
    "REPO": "digits",
    "GITLAB": "gitlab.example.com",
    "WORKFLOW": WORKFLOW,
}


def shipped(name):
    text = (ACTION / name).read_text(encoding="utf-8")
    for word, value in FILLED.items():
        text = text.replace(word, value)
    return json.loads(text)


def gets_role(policy, claims, issuer=ISSUER, provider=None):
    return allows(
        policy,
        "sts:AssumeRoleWithWebIdentity",
        principal={"Federated": f"arn:aws:iam::123456789012:oidc-provider/{provider or issuer}"},
        context={f"{issuer}:{name}": value for name, value in claims.items()},
    )


def github(what, *, repository="acme/digits", owner_id=1001, repository_id=2002, numbers=True, **more):
    """Return the claims of a job on GitHub; ``what`` is the end of its subject."""
    owner, name = repository.split("/")
    whose = f"{owner}@{owner_id}/{name}@{repository_id}" if numbers else repository
    return {
        "aud": "sts.amazonaws.com",
        "sub": f"repo:{whose}:{what}",
        "repository": repository,
        "job_workflow_ref": WORKFLOW,
        **more,
    }


IN_ENVIRONMENT = "environment:gitops-ml"
POLICIES = {
    "names": ("ci-trust-github.json", False),
    "numbers": ("ci-trust-github-immutable.json", True),
    "numbers and workflow": ("ci-trust-github-workflow.json", True),
}
EDITED = {"job_workflow_ref": "acme/digits/.github/workflows/gitops-ml.yml@refs/pull/7/merge"}


@pytest.fixture(params=POLICIES)
def policy(request):
    name, numbers = POLICIES[request.param]
    return shipped(f"aws/{name}"), numbers


def test_github__job_in_the_environment__gets_the_role(policy):
    document, numbers = policy

    assert gets_role(document, github(IN_ENVIRONMENT, numbers=numbers))


STRANGERS = {
    "pull request": ("pull_request", {}),
    "pull request that edits the workflow": ("pull_request", EDITED),
    "push to the default branch": ("ref:refs/heads/main", {}),
    "push to a branch, workflow edited": ("ref:refs/heads/feature", EDITED),
    "tag": ("ref:refs/tags/v1", {}),
    "another environment": ("environment:production", {}),
    "an environment that begins alike": ("environment:gitops-ml2", {}),
    "an environment in capitals": ("environment:Gitops-ml", {}),
    "an environment and more": ("environment:gitops-ml:ref:refs/heads/main", {}),
    "another repository of the owner": (IN_ENVIRONMENT, {"repository": "acme/other", "repository_id": 2003}),
    "a fork": (IN_ENVIRONMENT, {"repository": "mallory/digits", "owner_id": 6666, "repository_id": 6667}),
    "a fork within the organization": (IN_ENVIRONMENT, {"repository": "acme/digits-fork", "repository_id": 2004}),
    "a token for somebody else": (IN_ENVIRONMENT, {"aud": "https://github.com/acme"}),
    "a subject of one's own": (IN_ENVIRONMENT, {"sub": ""}),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_github__any_other_job__gets_nothing(policy, who):
    document, numbers = policy
    what, more = STRANGERS[who]

    assert not gets_role(document, github(what, numbers=numbers, **more))


def test_github__token_without_a_subject__gets_nothing(policy):
    assert not gets_role(policy[0], {"aud": "sts.amazonaws.com"})


@pytest.mark.parametrize(
    "whose",
    [
        {"repository_id": 9999},
        {"owner_id": 9999, "repository_id": 9998},
        {"owner_id": 9999},
    ],
    ids=["repository made anew under its name", "name of the owner taken over", "transferred to an owner of that name"],
)
def test_github__name_taken_over__gets_nothing_by_numbers(whose):
    """What the numbers are for: by names alone such a repository is the old one."""
    claims = github(IN_ENVIRONMENT, **whose)

    assert not gets_role(shipped("aws/ci-trust-github-immutable.json"), claims)
    assert not gets_role(shipped("aws/ci-trust-github-workflow.json"), claims)
    assert not gets_role(shipped("aws/ci-trust-github.json"), claims), "it carries numbers: made since July 2026"
    assert gets_role(shipped("aws/ci-trust-github.json"), github(IN_ENVIRONMENT, numbers=False, **whose))


def test_github__renamed_repository__needs_its_new_name_in_the_policy():
    assert not gets_role(
        shipped("aws/ci-trust-github-immutable.json"), github(IN_ENVIRONMENT, repository="acme/letters")
    )


def test_github__workflow_edited_in_a_change__gets_the_role_only_by_the_environment():
    """Without the workflow's name in the policy, the environment's reviewers are what stands between."""
    claims = github(IN_ENVIRONMENT, **EDITED)

    assert gets_role(shipped("aws/ci-trust-github-immutable.json"), claims)
    assert not gets_role(shipped("aws/ci-trust-github-workflow.json"), claims)


@pytest.mark.parametrize(
    ("approved_by", "opens"),
    [((), False), (("author",), False), (("stranger",), False), (("reviewer",), True), (("author", "reviewer"), True)],
)
def test_environment__job_of_a_change__starts_when_somebody_else_of_the_reviewers_says_so(approved_by, opens):
    environment = shipped("github/environment.json")

    found = environment_opens(
        environment, author="author", approved_by=approved_by, reviewers=["author", "reviewer", "lead"]
    )

    assert found is opens


def test_environment__without_reviewers__stops_nobody():
    """Why docs/aws.md insists on reviewers."""
    environment = shipped("github/environment.json") | {"reviewers": []}

    assert environment_opens(environment, author="author", approved_by=(), reviewers=[])


# GitLab

GITLAB = "gitlab.example.com"


def gitlab(subject, *, project="acme/digits", aud=f"https://{GITLAB}"):
    return {"aud": aud, "sub": f"project_path:{project}:{subject}"}


def gitlab_role(name, claims, issuer=GITLAB):
    return gets_role(shipped(f"aws/{name}"), claims, issuer=issuer)


@pytest.mark.parametrize(
    ("claims", "gets"),
    [
        (gitlab("ref_type:branch:ref:main"), True),
        # A merge request's pipeline carries the branch that it comes from.
        (gitlab("ref_type:branch:ref:feature"), False),
        (gitlab("ref_type:tag:ref:main"), False),
        (gitlab("ref_type:branch:ref:main2"), False),
        (gitlab("ref_type:branch:ref:main:ref:main"), False),
        # Since GitLab 18.2.2 the token of a fork's merge request names the fork, wherever its pipeline runs.
        (gitlab("ref_type:branch:ref:main", project="mallory/digits"), False),
        (gitlab("ref_type:branch:ref:main", project="acme/other"), False),
        (gitlab("ref_type:branch:ref:main", project="acme/digits/nested"), False),
        (gitlab("ref_type:branch:ref:main", aud="https://elsewhere.example"), False),
        (gitlab("environment_protected:true"), False),
    ],
    ids=lambda it: it["sub"] if isinstance(it, dict) else "",
)
def test_gitlab__by_branch__gets_the_role_on_the_protected_branch_alone(claims, gets):
    assert gitlab_role("ci-trust-gitlab.json", claims) is gets


@pytest.mark.parametrize(
    ("claims", "gets"),
    [
        (gitlab("environment_protected:true"), True),
        (gitlab("environment_protected:false"), False),
        (gitlab("environment_protected:true", project="mallory/digits"), False),
        (gitlab("ref_type:branch:ref:main"), False),
        # A branch cannot be called so that its subject reads like the other form: that one has fewer parts.
        (gitlab("ref_type:branch:ref:x:environment_protected:true"), False),
    ],
    ids=lambda it: it["sub"] if isinstance(it, dict) else "",
)
def test_gitlab__by_environment__gets_the_role_in_a_protected_one_alone(claims, gets):
    assert gitlab_role("ci-trust-gitlab-environment.json", claims) is gets


def test_gitlab__token_of_another_server__gets_nothing():
    assert not gitlab_role("ci-trust-gitlab.json", gitlab("ref_type:branch:ref:main"), issuer="gitlab.evil.example")


# The worker


def test_worker__machines__take_the_role_and_nobody_else():
    document = shipped("aws/worker-trust.json")

    assert allows(document, "sts:AssumeRole", principal={"Service": "ec2.amazonaws.com"})
    assert not allows(document, "sts:AssumeRole", principal={"Service": "lambda.amazonaws.com"})
    assert not allows(document, "sts:AssumeRole", principal={"AWS": "arn:aws:iam::123456789012:root"})
    assert not allows(document, "sts:AssumeRoleWithWebIdentity", principal={"Service": "ec2.amazonaws.com"})


# The ledger's rulesets

LEDGER = "refs/heads/gitops-ml/reports"
ACTIONS = {"actor_type": "Integration", "actor_id": 15368}
PEOPLE = {
    "write": {"actor_type": "RepositoryRole", "actor_id": 4},
    "maintain": {"actor_type": "RepositoryRole", "actor_id": 2},
    "admin": {"actor_type": "RepositoryRole", "actor_id": 5},
    "organization's admin": {"actor_type": "OrganizationAdmin", "actor_id": 1},
    "deploy key": {"actor_type": "DeployKey", "actor_id": None},
    "another app": {"actor_type": "Integration", "actor_id": 29110},
}


@pytest.fixture
def rulesets():
    return [shipped("github/ledger-writers.json"), shipped("github/ledger-append-only.json")]


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("kinds", [("creation",), ("update",), ("update", "non_fast_forward"), ("deletion",)])
def test_ledger__push_by_anybody_but_ci__is_refused(who, kinds, rulesets):
    assert refused_by(rulesets, Push(ref=LEDGER, by=PEOPLE[who], kinds=kinds)) == set(kinds)


def test_ledger__push_by_ci__may_append_and_nothing_else(rulesets):
    assert not refused_by(rulesets, Push(ref=LEDGER, by=ACTIONS, kinds=("creation",)))
    assert not refused_by(rulesets, Push(ref=LEDGER, by=ACTIONS, kinds=("update",)))
    assert refused_by(rulesets, Push(ref=LEDGER, by=ACTIONS, kinds=("update", "non_fast_forward"))) == {
        "non_fast_forward"
    }
    assert refused_by(rulesets, Push(ref=LEDGER, by=ACTIONS, kinds=("deletion",))) == {"deletion"}


def test_ledger__workflow_of_a_branch__may_append_too(rulesets):
    """What GitHub's rulesets cannot tell apart, and docs/security.md says: any job that may write contents is CI."""
    edited = Push(ref=LEDGER, by=ACTIONS, kinds=("update",))

    assert not refused_by(rulesets, edited)


def test_ledger__other_branches__are_left_alone(rulesets):
    assert not refused_by(rulesets, Push(ref="refs/heads/main", by=PEOPLE["write"], kinds=("update", "deletion")))


def test_ledger__rulesets__are_all_that_doctor_looks_for(rulesets):
    kinds = {rule["type"] for ruleset in rulesets for rule in ruleset["rules"]}

    assert {"update", "deletion", "non_fast_forward"} <= kinds


# What the parts call the same thing


TOP = ACTION.parent


def test_environment__of_workflow_template_and_policies__has_one_name():
    workflow = yaml.safe_load((TOP / ".github/workflows/gitops-ml-aws.yml").read_text(encoding="utf-8"))
    # YAML 1.1 takes the key `on` for a truth value.
    name = workflow[True]["workflow_call"]["inputs"]["environment"]["default"]

    assert name == parameter("GithubEnvironment")
    for file, _ in POLICIES.values():
        (statement,) = shipped(f"aws/{file}")["Statement"]
        assert statement["Condition"]["StringEquals"][f"{ISSUER}:sub"].endswith(f":environment:{name}")


def test_audience__of_gitlabs_include_and_template__is_one():
    include = yaml.safe_load((ACTION / "gitlab-aws.yml").read_text(encoding="utf-8").split("\n---\n")[0])

    assert include["spec"]["inputs"]["audience"]["default"] == f"https://{parameter('GitlabHost')}"


def test_ledger__branch_of_the_rulesets__is_the_default_one(rulesets):
    branch = f"refs/heads/{LedgerSettings().branch}"

    assert {tuple(one["conditions"]["ref_name"]["include"]) for one in rulesets} == {(branch,)}


def parameter(name):
    """Return the default of the template's parameter."""
    text = (ACTION / "aws/setup.yaml").read_text(encoding="utf-8")
    return re.search(rf"^  {name}:\n(?:    .*\n)*?    Default: (\S+)$", text, re.MULTILINE)[1]

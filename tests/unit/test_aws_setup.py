"""The policies and the template that users deploy: held to the list in the code, and created on moto's server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml

from gitops_ml.agent import objects
from gitops_ml.backends.aws_ec2 import permissions
from gitops_ml.backends.aws_ec2.permissions import CI, WORKER, Places
from tests.fakes.iam import allows

AWS = Path(__file__).parents[2] / "action/aws"
TEMPLATE = (AWS / "setup.yaml").read_text(encoding="utf-8")


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms."""


def _short_form(loader, suffix, node):
    kinds = {"scalar": loader.construct_scalar, "sequence": loader.construct_sequence}
    value = kinds[node.id](node, **({} if node.id == "scalar" else {"deep": True}))
    if suffix == "GetAtt":
        value = value.split(".")
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _short_form)
DOCUMENT = yaml.load(TEMPLATE, Loader)
RESOURCES = DOCUMENT["Resources"]


def words(value):
    """Return a part of the template with the words of the files in place of its parameters."""
    names = {
        "AWS::AccountId": "ACCOUNT",
        "AWS::Partition": "aws",
        "Bucket": "BUCKET",
        "DataObjects": "DATA-BUCKET/*",
        "Repository": "ORG/REPO",
        "WorkerRole": "gitops-ml-worker",
    }
    if isinstance(value, dict) and value.keys() == {"Fn::Sub"}:
        return re.sub(r"\$\{([^}]+)\}", lambda it: names[it[1]], value["Fn::Sub"])
    if isinstance(value, dict) and value.keys() == {"Ref"}:
        return names[value["Ref"]]
    if isinstance(value, dict):
        return {key: words(one) for key, one in value.items()}
    return [words(one) for one in value] if isinstance(value, list) else value


DATA = [statement for statement in WORKER if statement.sid == "ReadData"]
ALWAYS = [statement for statement in WORKER if statement.sid != "ReadData"]


@pytest.mark.parametrize(("resource", "statements"), [("CiPolicy", CI), ("WorkerPolicy", ALWAYS), ("DataPolicy", DATA)])
def test_template__policies__are_those_of_the_code(resource, statements):
    assert words(RESOURCES[resource]["Properties"]["PolicyDocument"]) == permissions.policy(statements)


@pytest.mark.parametrize("statements", [CI, WORKER], ids=["ci", "worker"])
def test_policy__size__is_within_what_a_managed_policy_may_have(statements):
    text = json.dumps(permissions.policy(statements, Places(repository="o" * 39 + "/" + "r" * 100)))

    assert len(re.sub(r"\s", "", text)) <= 6144


@pytest.mark.parametrize("statements", [CI, WORKER], ids=["ci", "worker"])
def test_policy__no_statement__has_wildcards_in_actions_or_says_nothing_of_why(statements):
    assert not [action for statement in statements for action in statement.actions if "*" in action]
    assert all(statement.why for statement in statements)
    assert len({statement.sid for statement in statements}) == len(statements)


CALLED_AS = {
    "ec2:CreateTags": "TagSpecifications",
    "iam:PassRole": "IamInstanceProfile",
    "s3:AbortMultipartUpload": "upload_file",
    "s3:GetBucketPublicAccessBlock": "get_public_access_block",
    "s3:GetObjectVersion": "VersionId",
    "s3:ListBucket": "list_objects_v2",
}
PACKAGE = Path(permissions.__file__).parents[2]
SOURCES = "".join(
    file.read_text(encoding="utf-8")
    for part in ("agent", "backends/aws_ec2", "datasets", "storage")
    for file in (PACKAGE / part).glob("*.py")
    if file.name != "permissions.py"
)


@pytest.mark.parametrize("action", sorted(permissions.needed() | permissions.needed(worker=True)))
def test_policy__every_action__is_asked_for_by_the_code(action):
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", action.split(":")[1]).lower()

    assert re.search(rf"\b{CALLED_AS.get(action, snake)}\b", SOURCES)


def test_policy__everywhere__are_only_actions_that_look():
    everywhere = {action for statement in CI for action in statement.actions if statement.resources == ("*",)}

    assert {action.split(":")[1].split("Get")[0].split("Describe")[0] for action in everywhere} == {""}


def test_worker__policy__has_nothing_with_machines_or_roles():
    assert {action.split(":")[0] for action in permissions.needed(worker=True)} == {"s3", "ssm"}


@pytest.mark.parametrize(
    ("action", "resource", "allowed"),
    [
        ("s3:GetObject", "arn:aws:s3:::BUCKET/ORG/REPO/agents/1.zip", True),
        ("s3:PutObject", "arn:aws:s3:::BUCKET/ORG/REPO/agents/1.zip", False),
        ("s3:PutObject", "arn:aws:s3:::BUCKET/ORG/REPO/bundles/1.tar", False),
        ("s3:PutObject", "arn:aws:s3:::BUCKET/ORG/REPO/jobs/1/1/result.json", True),
        ("s3:PutObject", "arn:aws:s3:::BUCKET/ORG/OTHER/jobs/1/1/result.json", False),
        ("s3:GetObject", "arn:aws:s3:::BUCKET/ORG/REPO-2/jobs/1/1/result.json", False),
        ("s3:PutObject", "arn:aws:s3:::DATA-BUCKET/train.csv", False),
        ("s3:GetObjectVersion", "arn:aws:s3:::DATA-BUCKET/train.csv", True),
        ("ssm:GetParameters", "arn:aws:ssm:eu-central-1:ACCOUNT:parameter/gitops-ml/ORG/REPO/HF_TOKEN", True),
        ("ssm:GetParameters", "arn:aws:ssm:eu-central-1:ACCOUNT:parameter/gitops-ml/ORG/OTHER/HF_TOKEN", False),
        ("ec2:TerminateInstances", "arn:aws:ec2:eu-central-1:ACCOUNT:instance/i-1", False),
    ],
)
def test_worker__policy__keeps_a_training_to_its_own_repository(action, resource, allowed):
    assert allows(permissions.policy(WORKER), action, resource=resource) is allowed


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("boot.json", True),
        ("heartbeat.json", True),
        ("result.json", True),
        ("logs/000000000000000", True),
        ("outputs/out/metrics.json", True),
        ("lease.json", False),
        ("cancel.json", False),
        ("condemned.json", False),
        ("ending.json", False),
        ("asking/0001.tries.json", False),
    ],
)
def test_worker__policy__lets_it_write_its_results_and_nothing_that_callers_note(part, allowed):
    resource = f"arn:aws:s3:::BUCKET/ORG/REPO/{objects.attempt('ab' * 32, 1, part)}"

    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert allows(permissions.policy(WORKER), action, resource=resource) is allowed
    assert allows(permissions.policy(WORKER), "s3:GetObject", resource=resource)


@pytest.mark.parametrize(
    ("action", "resource", "context", "allowed"),
    [
        ("ec2:TerminateInstances", "instance/i-1", {"aws:ResourceTag/gitops-ml:repo": "ORG/REPO"}, True),
        ("ec2:TerminateInstances", "instance/i-1", {"aws:ResourceTag/gitops-ml:repo": "ORG/OTHER"}, False),
        ("ec2:TerminateInstances", "instance/i-1", {}, False),
        ("ec2:RunInstances", "instance/*", {"aws:RequestTag/gitops-ml:repo": "ORG/REPO"}, True),
        ("ec2:RunInstances", "instance/*", {}, False),
        ("ec2:CreateTags", "instance/i-1", {"ec2:CreateAction": "RunInstances"}, True),
        ("ec2:CreateTags", "instance/i-1", {}, False),
    ],
)
def test_ci__policy__starts_what_is_tagged_and_ends_what_is_its_own(action, resource, context, allowed):
    resource = f"arn:aws:ec2:eu-central-1:ACCOUNT:{resource}"

    assert allows(permissions.policy(CI), action, resource=resource, context=context) is allowed


def test_ci__policy__cannot_read_secrets():
    resource = "arn:aws:ssm:eu-central-1:ACCOUNT:parameter/gitops-ml/ORG/REPO/HF_TOKEN"

    for action in ("ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath", "ssm:GetParameterHistory"):
        assert not allows(permissions.policy(CI), action, resource=resource)


def test_missing__action_in_two_statements__gives_both():
    places = Places(account="123456789012", repository="acme/digits", bucket="acme-ml", prefix="acme/digits")

    assert permissions.missing("s3:PutObject", places) == (
        '{"Sid": "Objects", "Effect": "Allow", "Action": "s3:PutObject", '
        '"Resource": "arn:aws:s3:::acme-ml/acme/digits/*"}'
    )
    assert [json.loads(line)["Sid"] for line in permissions.missing("ec2:RunInstances", places).splitlines()] == [
        "LaunchWith",
        "LaunchTagged",
    ]
    assert permissions.missing("iam:CreateUser", places) == ""


def test_rendered__bucket_without_a_prefix__is_the_whole_bucket():
    places = Places(bucket="acme-ml", prefix="")

    assert json.loads(permissions.missing("s3:GetObject", places))["Resource"] == "arn:aws:s3:::acme-ml/*"


def test_template__bucket__is_closed_encrypted_and_kept():
    bucket, policy = RESOURCES["Bucket"], RESOURCES["BucketPolicy"]["Properties"]["PolicyDocument"]

    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["Properties"]["PublicAccessBlockConfiguration"]) == 4
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    (statement,) = policy["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Condition"]) == (
        "Deny",
        "*",
        {"Bool": {"aws:SecureTransport": "false"}},
    )


def test_template__bucket__forgets_what_machines_write_and_keeps_all_else():
    rules = RESOURCES["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Prefix"]["Fn::Sub"] for rule in rules if "ExpirationInDays" in rule}

    assert expiring == {f"${{Repository}}/{kind}/" for kind in ("agents", "bundles", "environments", "jobs", "known")}


def test_template__roles__have_their_policies():
    roles = {
        name: RESOURCES[name]["Properties"]["ManagedPolicyArns"]
        for name in RESOURCES
        if name.endswith("Role") and "ManagedPolicyArns" in RESOURCES[name]["Properties"]
    }

    assert roles == {
        "WorkerRole": [{"Ref": "WorkerPolicy"}],
        "GithubRole": [{"Ref": "CiPolicy"}],
        "GitlabRole": [{"Ref": "CiPolicy"}],
    }


# The template, created


@pytest.fixture(scope="module")
def cloud():
    """A way to clients of a server on loopback, in a process of its own: it warns of what is no concern of ours."""
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as server:
        try:
            endpoint = server.stdout.readline().strip()
            assert endpoint, "the server did not start"

            def client(service):
                return boto3.client(
                    service,
                    endpoint_url=endpoint,
                    region_name="eu-central-1",
                    aws_access_key_id="key",
                    aws_secret_access_key="secret",
                )

            yield client
        finally:
            server.stdin.close()


SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"


def created(cloud, **parameters):
    """Create the stack and return its resources' physical names and its outputs.

    moto makes less of a template than CloudFormation does: the tests above look at the rest.
    """
    vpc = cloud("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    formation = cloud("cloudformation")
    # The tests share a server: each stack has a name of its own.
    name = f"gitops-ml-{len(formation.describe_stacks()['Stacks'])}"
    formation.create_stack(
        StackName=name,
        TemplateBody=TEMPLATE,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value}
            for key, value in {"Repository": "acme/digits", "Vpc": vpc, "ProviderArn": PROVIDER, **parameters}.items()
        ],
    )
    (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    physical = {
        one["LogicalResourceId"]: one["PhysicalResourceId"]
        for one in formation.describe_stack_resources(StackName=name)["StackResources"]
        if "LogicalResourceId" in one
    }
    return physical, {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}


def trust(cloud, role):
    return cloud("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]


def test_template__created_for_github__makes_bucket_roles_and_group(cloud):
    physical, outputs = created(cloud, GithubOwnerId="1001", GithubRepositoryId="2002")

    bucket = physical["Bucket"]
    assert outputs["Storage"] == f"s3://{bucket}/acme/digits"
    s3 = cloud("s3")
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    (group,) = cloud("ec2").describe_security_groups(GroupIds=[outputs["SecurityGroup"]])["SecurityGroups"]
    assert group["IpPermissions"] == []
    profile = cloud("iam").get_instance_profile(InstanceProfileName=outputs["InstanceProfile"])["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [physical["WorkerRole"]]
    assert outputs["CiRole"].endswith(physical["GithubRole"])
    (statement,) = trust(cloud, physical["GithubRole"])["Statement"]
    assert statement["Principal"] == {"Federated": PROVIDER}
    assert statement["Condition"]["StringEquals"] == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": "repo:acme@1001/digits@2002:environment:gitops-ml",
    }


def test_template__workflow_named__is_asked_for_too(cloud):
    physical, _ = created(cloud, GithubWorkflow="acme/ci/.github/workflows/train.yml@refs/tags/v1")

    (statement,) = trust(cloud, physical["GithubRole"])["Statement"]
    assert statement["Condition"]["StringEquals"] == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": "repo:acme/digits:environment:gitops-ml",
        "token.actions.githubusercontent.com:job_workflow_ref": "acme/ci/.github/workflows/train.yml@refs/tags/v1",
    }


def test_template__data_elsewhere__may_be_read_by_machines(cloud):
    without, _ = created(cloud)
    physical, _ = created(cloud, DataObjects="acme-data/digits/*")

    assert "DataPolicy" not in without
    attached = cloud("iam").list_attached_role_policies(RoleName=physical["WorkerRole"])["AttachedPolicies"]
    assert physical["DataPolicy"] in {policy["PolicyArn"] for policy in attached}


def test_template__created_for_gitlab__trusts_that_server(cloud):
    physical, outputs = created(cloud, Forge="gitlab", GitlabHost="gitlab.example.com")

    assert "GithubRole" not in physical
    assert outputs["CiRole"].endswith(physical["GitlabRole"])
    (statement,) = trust(cloud, physical["GitlabRole"])["Statement"]
    assert statement["Condition"]["StringEquals"] == {
        "gitlab.example.com:aud": "https://gitlab.example.com",
        "gitlab.example.com:sub": "project_path:acme/digits:ref_type:branch:ref:main",
    }


def test_template__created_without_a_forge__has_no_role_for_ci(cloud):
    physical, outputs = created(cloud, Forge="none")

    assert not {"GithubRole", "GitlabRole", "GithubProvider", "GitlabProvider"} & physical.keys()
    assert "CiRole" not in outputs


def test_template__shipped_trust_files__are_what_it_makes(cloud):
    """The files are for those who have no use for the template; both say the same."""
    physical, _ = created(cloud, GithubOwnerId="1001", GithubRepositoryId="2002")
    text = (AWS / "ci-trust-github-immutable.json").read_text(encoding="utf-8")
    for word, value in (("ORG_ID", "1001"), ("REPO_ID", "2002"), ("ORG", "acme"), ("REPO", "digits")):
        text = text.replace(word, value)

    (shipped,), (made,) = json.loads(text)["Statement"], trust(cloud, physical["GithubRole"])["Statement"]

    assert shipped["Condition"] == made["Condition"]
    assert shipped["Action"] == made["Action"]

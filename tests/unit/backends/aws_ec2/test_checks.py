"""What `doctor` says about AWS, asked of the fake account: each fix is exact."""

import dataclasses
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest

from gitops_ml.backends.aws_ec2 import permissions
from gitops_ml.backends.aws_ec2.checks import checks
from gitops_ml.backends.aws_ec2.permissions import CI, Places
from gitops_ml.backends.aws_ec2.settings import DEFAULT_IMAGE, Settings
from tests.fakes.aws import Cloud

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
TICKS = itertools.count()
PLACES = Places(account="123456789012", repository="acme/digits", bucket="gitops-ml-fake", prefix="acme/digits")
CLOSED = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    with Cloud(tmp_path_factory.mktemp("machines"), execute=False) as cloud:
        cloud.client("s3").put_public_access_block(Bucket=cloud.bucket, PublicAccessBlockConfiguration=CLOSED)
        yield cloud
        assert cloud.violations == []


@pytest.fixture
def cloud(account):
    """The account, shared; what a test changes in it is taken back."""
    yield account
    account.clear_faults()
    account.renew()
    account.settings(quotas={"L-DB2E81BA": 768, "L-3819A6DF": 768})
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    account.enforce(caller=[allowed], machine=[allowed])


def looked(cloud, *, environ=None, storage="s3://gitops-ml-fake/acme/digits", **settings):
    found = checks(
        Settings(**settings),
        {**cloud.environ, **(environ or {})},
        repository="acme/digits",
        storage_uri=storage,
        # Each look is a microsecond after the one before.
        now=lambda: NOW + timedelta(microseconds=next(TICKS)),
        # Making a client takes longer than asking with it.
        connect=lambda service, _, region: cloud.client(service, region=region),
    )
    return {check.subject: check for check in found}


def shown(check):
    return check.ok, check.found


def test_checks__account_as_it_should_be__has_nothing_to_mend(cloud):
    found = looked(cloud)

    assert {subject: check.found for subject, check in found.items() if check.ok} == {
        "AWS region": "us-east-1",
        "AWS identity": "arn:aws:iam::123456789012:user/caller",
        "machine image": f"{cloud.images['us-east-1']}, Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) "
        f"20261101 ({DEFAULT_IMAGE})",
        "subnets": "6 in us-east-1a, us-east-1b, us-east-1c, us-east-1d, us-east-1e, us-east-1f",
        "instance types": "g4dn.xlarge in 5 of 6 zones, g6.xlarge in 5 of 6 zones, g5.xlarge in 5 of 6 zones, "
        "g6e.xlarge in 4 of 6 zones, g7.2xlarge in 4 of 6 zones",
        "list prices": "can be asked for",
        "spot prices": "can be asked for",
        "quota G spot": "768 vCPUs, 0 in use",
        "quota G on-demand": "768 vCPUs, 0 in use",
        "starting machines, on-demand": "allowed",
        "starting machines, spot": "allowed",
        "bucket": "s3://gitops-ml-fake/acme/digits/, of account 123456789012",
        "bucket region": "us-east-1",
        "bucket access": "closed to the public",
        "conditional writes": "kept",
        "secrets": "none",
    }
    assert {subject: check.found for subject, check in found.items() if not check.ok} == {
        "AWS session": "keys that do not end",
        "security groups": "the VPC's default one",
        "ending machines": "no machine of this repository is there to try it with",
    }
    assert not any(check.ok is False for check in found.values())


def test_checks__afterwards__nothing_is_left_and_nothing_was_started(cloud):
    looked(cloud)

    assert cloud.objects() == {}
    assert cloud.instances() == []


def test_region__none_anywhere__ends_the_look(cloud):
    environ = {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}

    (check,) = looked(cloud, environ=environ).values()

    assert shown(check) == (False, "none")
    assert check.fix == (
        "name one in gitops-ml.yaml, `backends: {aws-ec2: {regions: [eu-central-1]}}`, or set AWS_REGION"
    )


def test_identity__credentials_expired__ends_the_look(cloud):
    cloud.expire()

    found = looked(cloud)

    assert list(found) == ["AWS region", "AWS identity"]
    assert shown(found["AWS identity"]) == (False, "the credentials are not accepted (ExpiredToken)")
    assert found["AWS identity"].fix == (
        "here: log in (`aws sso login`, or keys in the environment); "
        "in CI: give the job its role (docs/aws.md), and check the role's trust policy"
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AWS_CREDENTIAL_EXPIRATION": "2026-11-26T12:59:45+00:00"}, (True, "ends in 60 min")),
        ({"AWS_CREDENTIAL_EXPIRATION": "2026-11-26T12:10:00Z"}, (None, "ends in 10 min")),
        ({"AWS_CREDENTIAL_EXPIRATION": "2026-11-26T11:00:00Z"}, (None, "ends in 0 min")),
        ({"AWS_CREDENTIAL_EXPIRATION": "tomorrow"}, (None, "its end cannot be read")),
        ({"AWS_CREDENTIAL_EXPIRATION": "2026-11-26T12:10:00"}, (None, "its end cannot be read")),
    ],
)
def test_session__end_in_the_environment__is_told(environ, expected, cloud):
    assert shown(looked(cloud, environ=environ)["AWS session"]) == expected


def test_image__that_is_not_there__is_named(cloud):
    ami = looked(cloud, ami="ami-0123abcd")["machine image"]
    parameter = looked(cloud, image="/acme/images/train")["image /acme/images/train"]

    assert shown(ami) == (False, "ami-0123abcd (backends.aws-ec2.ami) is not there")
    assert ami.fix == "name an image that us-east-1 has: `backends.aws-ec2.image`, or its id as `ami`"
    assert parameter.ok is False
    assert parameter.fix == ami.fix


def test_launch__without_an_image__cannot_be_tried(cloud):
    found = looked(cloud, ami="ami-0123abcd")["starting machines"]

    assert shown(found) == (None, "cannot be tried without image, subnet and instance type")


def test_subnets__that_are_not_there__are_named(cloud):
    found = looked(cloud, subnets=("subnet-0123abcd",))["subnets"]

    assert shown(found) == (False, "not all of subnet-0123abcd are there")
    assert found.fix == "`backends.aws-ec2.subnets`: name subnets of us-east-1 in account 123456789012"


def test_subnets__in_one_zone_without_a_public_address__are_remarked(cloud):
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24", AvailabilityZone="us-east-1b")["Subnet"]["SubnetId"]

    found = looked(cloud, subnets=(subnet,))

    assert shown(found["subnets"]) == (None, "1 in us-east-1b")
    assert shown(found["way out"]) == (None, f"{subnet}: machines there get no public address")
    assert found["way out"].fix == (
        "see that they reach S3, SSM and the package index by a NAT gateway or by endpoints"
    )


def test_groups__with_and_without_inbound_rules__are_told_apart(cloud):
    ec2 = cloud.client("ec2")
    closed = ec2.create_security_group(GroupName="closed", Description="closed")["GroupId"]
    opened = ec2.create_security_group(GroupName="opened", Description="opened")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=opened, IpPermissions=[rule])

    assert shown(looked(cloud, security_groups=(closed,))["security groups"]) == (True, f"{closed}, nothing comes in")
    assert shown(looked(cloud, security_groups=(closed, opened))["security groups"]) == (
        None,
        f"{opened} let something in",
    )
    assert shown(looked(cloud, security_groups=("sg-0123abcd",))["security groups"]) == (
        False,
        "not all of sg-0123abcd are there",
    )


def test_types__that_the_region_does_not_offer__are_named(cloud):
    found = looked(cloud, instance_types=("g6.xlarge", "p5e.48xlarge"))["instance types"]
    none = looked(cloud, instance_types=("p5e.48xlarge",))["instance types"]

    assert shown(found) == (None, "g6.xlarge in 5 of 6 zones; not offered: p5e.48xlarge")
    assert shown(none) == (False, "none; not offered: p5e.48xlarge")


def test_quotas__too_small__say_the_number_to_ask_for_and_where(cloud):
    cloud.settings(quotas={"L-DB2E81BA": 0, "L-3819A6DF": 4})

    found = looked(cloud, instance_types=("g6.xlarge", "g5.12xlarge"))

    assert shown(found["quota G on-demand"]) == (False, "0 vCPUs, 0 in use")
    assert found["quota G on-demand"].fix == (
        "ask for 48 or more (vCPUs, not machines; spot and on-demand are two quotas) at "
        "https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-DB2E81BA"
    )
    assert shown(found["quota G spot"]) == (False, "4 vCPUs, 0 in use")


def test_quotas__room_on_one_market__is_enough(cloud):
    cloud.settings(quotas={"L-DB2E81BA": 0, "L-3819A6DF": 4})

    found = looked(cloud)

    assert shown(found["quota G on-demand"]) == (None, "0 vCPUs, 0 in use")
    assert shown(found["quota G spot"]) == (True, "4 vCPUs, 0 in use")


def test_bucket__none_named__says_what_to_write(cloud):
    found = looked(cloud, storage=None)["bucket"]

    assert shown(found) == (False, "gitops-ml.yaml names none")
    assert found.fix == "`storage: s3://BUCKET/PREFIX` in gitops-ml.yaml (action/aws/setup.yaml makes a bucket)"


def test_bucket__that_is_not_there_or_somebody_elses__is_told(cloud):
    absent = looked(cloud, storage="s3://no-such-bucket-here/x")["bucket"]
    foreign = looked(cloud, storage="s3://gitops-ml-fake/x?owner=210987654321")["bucket"]

    assert shown(absent) == (False, "no-such-bucket-here does not exist")
    assert shown(foreign) == (False, "denied: s3:ListBucket")


def test_bucket__in_another_region__is_remarked(cloud):
    found = looked(cloud, regions=("eu-central-1",))["bucket region"]

    assert shown(found) == (None, "us-east-1")
    assert found.fix == (
        "use a bucket in eu-central-1, or machines in us-east-1: what crosses regions takes longer and costs"
    )


def test_secrets__plain_and_encrypted__are_told_apart(cloud):
    ssm = cloud.client("ssm")
    ssm.put_parameter(Name="/gitops-ml/acme/digits/HF_TOKEN", Value="canary", Type="SecureString")
    ssm.put_parameter(Name="/gitops-ml/acme/digits-2/OTHER", Value="canary", Type="SecureString")
    try:
        assert shown(looked(cloud)["secrets"]) == (True, "HF_TOKEN")
        ssm.put_parameter(Name="/gitops-ml/acme/digits/WANDB_KEY", Value="canary", Type="String")
        found = looked(cloud)["secrets"]
        assert shown(found) == (False, "not encrypted: WANDB_KEY")
        assert found.fix == (
            "store them anew, encrypted: `aws ssm put-parameter --type SecureString "
            "--name /gitops-ml/acme/digits/NAME --value ...`, with --overwrite"
        )
    finally:
        ssm.delete_parameters(Names=[f"/gitops-ml/acme/digits/{name}" for name in ("HF_TOKEN", "WANDB_KEY")])


# With the shipped policy, and with each of its actions taken away


def enforced(cloud, without=None):
    kept = [
        dataclasses.replace(statement, actions=tuple(one for one in statement.actions if one != without))
        for statement in CI
    ]
    cloud.enforce(caller=[permissions.policy([one for one in kept if one.actions], PLACES)], machine=[])


def test_permissions__shipped_policy__is_enough(cloud):
    enforced(cloud)

    assert {subject: check.found for subject, check in looked(cloud).items() if check.ok is False} == {}


TRIED = {
    "ec2:CreateTags": ("starting machines, on-demand", "starting machines, spot"),
    "ec2:DescribeImages": ("machine image",),
    "ec2:DescribeInstanceTypeOfferings": ("instance types",),
    "ec2:DescribeInstances": ("quotas", "ending machines"),
    "ec2:DescribeSubnets": ("subnets",),
    "ec2:RunInstances": ("starting machines, on-demand", "starting machines, spot"),
    "iam:PassRole": ("starting machines, on-demand", "starting machines, spot"),
    "s3:DeleteObject": ("conditional writes",),
    "s3:GetBucketLocation": ("bucket region",),
    "s3:GetBucketPublicAccessBlock": ("bucket access",),
    "s3:ListBucket": ("bucket",),
    "s3:PutObject": ("conditional writes",),
    "servicequotas:GetServiceQuota": ("quota G on-demand", "quota G spot"),
    "ssm:DescribeParameters": ("secrets",),
    "ssm:GetParameter": (f"image {DEFAULT_IMAGE}",),
}


@pytest.mark.parametrize("action", TRIED)
def test_permissions__action_taken_away__is_named_with_the_statement_to_add(action, cloud):
    enforced(cloud, without=action)

    found = {subject: check for subject, check in looked(cloud).items() if check.found == f"denied: {action}"}

    assert sorted(found) == sorted(TRIED[action])
    for check in found.values():
        assert not check.ok
        assert check.fix == f"add to the role's policy: {permissions.missing(action, PLACES)}"


@pytest.mark.parametrize("action", ["ec2:RunInstances", "s3:ListBucket", "ssm:GetParameter"])
def test_permissions__statement_that_is_said__is_what_is_missing(action, cloud):
    enforced(cloud, without=action)
    said = [check.fix for check in looked(cloud).values() if check.found == f"denied: {action}"][-1]
    added = [json.loads(line) for line in said.removeprefix("add to the role's policy: ").splitlines()]

    kept = [dataclasses.replace(one, actions=tuple(set(one.actions) - {action})) for one in CI]
    document = permissions.policy([one for one in kept if one.actions], PLACES)
    cloud.enforce(caller=[{**document, "Statement": document["Statement"] + added}], machine=[])

    assert {check.found for check in looked(cloud).values() if check.ok is False} == set()


@pytest.mark.parametrize(
    ("action", "subject"), [("pricing:GetProducts", "list prices"), ("ec2:DescribeSpotPriceHistory", "spot prices")]
)
def test_permissions__prices_that_may_not_be_asked__are_the_catalogs(action, subject, cloud):
    enforced(cloud, without=action)

    check = looked(cloud)[subject]

    assert shown(check) == (None, f"denied: {action}; the catalog's are counted with")
    assert check.fix == f"add to the role's policy: {permissions.missing(action, PLACES)}"


def test_permissions__group_that_may_not_be_looked_at__is_named(cloud):
    group = cloud.client("ec2").create_security_group(GroupName="looked-at", Description="x")["GroupId"]
    enforced(cloud, without="ec2:DescribeSecurityGroups")

    found = looked(cloud, security_groups=(group,))["security groups"]

    assert shown(found) == (False, "denied: ec2:DescribeSecurityGroups")


def test_permissions__refusal_that_nobody_decodes__is_about_what_was_asked(cloud):
    message = "You are not authorized to perform this operation. Encoded authorization failure message: b64b64"
    cloud.fault("RunInstances", "UnauthorizedOperation", status=403, message=message, times=None)
    cloud.fault("DecodeAuthorizationMessage", "AccessDenied", status=403, times=None)

    found = looked(cloud)["starting machines, spot"]

    assert shown(found) == (False, "denied: ec2:RunInstances")


def test_permissions__end_of_a_machine_of_ours__is_tried_with_one(cloud):
    ec2 = cloud.client("ec2", total_attempts=1)
    tags = [{"Key": "gitops-ml:repo", "Value": "acme/digits"}]
    launched = ec2.run_instances(
        ImageId=cloud.images["us-east-1"],
        InstanceType="g5.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"][0]["InstanceId"]
    try:
        enforced(cloud)
        assert shown(looked(cloud)["ending machines"]) == (True, "allowed")
        assert shown(looked(cloud)["quota G on-demand"]) == (True, "768 vCPUs, 4 in use")
        enforced(cloud, without="ec2:GetConsoleOutput")
        assert shown(looked(cloud)["console of machines"]) == (None, "denied: ec2:GetConsoleOutput")
        enforced(cloud, without="ec2:TerminateInstances")
        assert shown(looked(cloud)["ending machines"]) == (False, "denied: ec2:TerminateInstances")
        assert [one.live for one in cloud.instances()] == [True]
    finally:
        enforced(cloud)
        ec2.terminate_instances(InstanceIds=[launched])

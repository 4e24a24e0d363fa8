"""With the shipped policy enforced: sweeping has all that it needs, and says what it lacks."""

import dataclasses

import pytest

from gitops_ml.backends.aws_ec2 import permissions
from gitops_ml.backends.aws_ec2.permissions import CI, Places
from tests.fakes.aws import Cloud
from tests.fakes.aws.checkouts import Checkout

PAST = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("there")
    with Cloud(folder / "machines", execute=False) as cloud:
        yield cloud, Checkout(folder / "checkout", cloud)
        assert cloud.violations == []


def enforced(cloud, checkout, without=None):
    """Enforce the shipped policy, but for an action."""
    from gitops_ml.tools import Tools

    places = Places(
        account="123456789012",
        repository=Tools(cwd=checkout.top, environ=checkout.environ).repository_name,
        bucket=cloud.bucket,
        prefix="acme/digits",
    )
    kept = [dataclasses.replace(one, actions=tuple(a for a in one.actions if a != without)) for one in CI]
    cloud.enforce(caller=[permissions.policy([one for one in kept if one.actions], places)], machine=[])
    return places


def left_behind(cloud, places):
    """Leave a machine, a disk and an interface of the repository, all past their time."""
    ec2 = cloud.client("ec2", total_attempts=1)
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    cloud.enforce(caller=[everything], machine=[])
    named = {"gitops-ml:repo": places.repository, "gitops-ml:expires-at": PAST, "gitops-ml:key": "k" * 64}
    tags = [{"Key": key, "Value": value} for key, value in {**named, "gitops-ml:attempt": "1"}.items()]
    zone = "us-east-1a"
    (subnet,) = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
    ec2.create_volume(AvailabilityZone=zone, Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])
    ec2.create_network_interface(
        SubnetId=subnet["SubnetId"], TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}]
    )
    ec2.run_instances(
        ImageId=cloud.images["us-east-1"],
        InstanceType="g5.xlarge",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet["SubnetId"],
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )


def test_gc__shipped_policy__ends_all_that_was_left(there):
    cloud, checkout = there
    left_behind(cloud, enforced(cloud, checkout))
    enforced(cloud, checkout)

    swept = checkout.call("gc", "--end", hours_later=1)

    assert swept.code == 0, swept.text
    assert cloud.live() == []
    assert "nothing" in checkout.call("gc", hours_later=1).text


@pytest.mark.parametrize(
    "action",
    [
        "ec2:DeleteNetworkInterface",
        "ec2:DeleteVolume",
        "ec2:DescribeInstances",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSpotInstanceRequests",
        "ec2:DescribeVolumes",
        "ec2:TerminateInstances",
        "s3:ListBucket",
    ],
)
def test_gc__action_taken_away__is_named(action, there):
    cloud, checkout = there
    left_behind(cloud, enforced(cloud, checkout))
    enforced(cloud, checkout, without=action)

    swept = checkout.call("gc", "--end", hours_later=1)

    assert swept.code != 0, swept.text
    assert action in swept.text, swept.text
    enforced(cloud, checkout)
    assert checkout.call("gc", "--end", hours_later=1).code == 0

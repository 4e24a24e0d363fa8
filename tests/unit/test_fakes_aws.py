"""The fake AWS does what the real one is known to do."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from gitops_ml.aws import client
from tests.fakes.aws import Cloud
from tests.fakes.trials import until

PROFILE = {"Name": "gitops-ml-worker"}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path / "machines", minute_s=60) as cloud:
        yield cloud
        assert cloud.violations == []


def launch(cloud: Cloud, script: str = "true\n", *, token: str = "", zone: str = "us-east-1a", **more: Any) -> str:
    ec2 = cloud.client("ec2", total_attempts=1)
    subnets = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
    asked = {
        "ImageId": cloud.images["us-east-1"],
        "InstanceType": "g5.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": subnets[0]["SubnetId"],
        "UserData": f"#!/bin/sh\n{script}",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": PROFILE,
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": [{"Key": "gitops-ml:key", "Value": "k" * 64}]}
            for kind in ("instance", "volume", "network-interface", "spot-instances-request")
        ],
        **({"ClientToken": token} if token else {}),
        **more,
    }
    return ec2.run_instances(**asked)["Instances"][0]["InstanceId"]


def refusal(cloud: Cloud, *args: Any, **more: Any) -> str:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        launch(cloud, *args, **more)
    return caught.value.response["Error"]["Code"]


def ended(cloud: Cloud, identity: str) -> str:
    def reason() -> str:
        (found,) = [instance for instance in cloud.instances() if instance.identity == identity]
        return "" if found.live else found.reason

    return until(reason)


def test_machine__user_data__runs_until_it_shuts_down(cloud):
    identity = launch(cloud, "echo hello from $(hostname)\nshutdown -h now\nsleep 600\n")

    assert ended(cloud, identity) == "Client.InstanceInitiatedShutdown"
    assert cloud.console(identity) == f"hello from {identity}\n" or not cloud.isolated
    assert cloud.processes(identity) == []


def test_machine__gpus__are_those_of_its_type_until_one_is_lost(cloud):
    asks = "nvidia-smi --query-gpu=index,uuid,name --format=csv,noheader"
    identity = launch(
        cloud, f"{asks}\nwhile {asks} >/dev/null; do sleep 0.1; done\necho lost\n", InstanceType="g5.12xlarge"
    )

    until(lambda: len(cloud.console(identity).splitlines()) == 4)
    assert cloud.console(identity).splitlines()[3] == "3, GPU-00000000-0000-0000-0000-000000000003, NVIDIA A10G"
    cloud.lose_gpu(identity)
    until(lambda: cloud.console(identity).endswith("lost\n"))


def test_machine__dead_man__ends_a_hung_script(tmp_path):
    with Cloud(tmp_path / "machines", minute_s=0.05) as cloud:
        identity = launch(cloud, "shutdown -h +20\n(setsid sleep 600 &)\nsleep 600\n")

        assert ended(cloud, identity) == "Client.InstanceInitiatedShutdown"
        assert cloud.processes(identity) == []


def test_machine__script_ends__goes_on_costing_money(cloud):
    identity = launch(cloud, "echo done\n")

    until(lambda: cloud.console(identity) == "done\n")
    assert [instance.state for instance in cloud.instances()] == ["running"]


def test_machine__metadata__token_credentials_and_notice(cloud):
    script = """
cat >probe.py <<'TEXT'
import json, os, threading, urllib.error, urllib.request
base = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
def ask(path, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(base + path, headers=headers, method=method)
    try:
        return urllib.request.urlopen(request).read().decode()
    except urllib.error.HTTPError as error:
        return error.code
print(ask("/latest/meta-data/instance-id"))
token = ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
def look(path):
    return ask("/latest/" + path, X_aws_ec2_metadata_token=token)
print(look("meta-data/instance-type"), look("meta-data/placement/availability-zone"))
role = look("meta-data/iam/security-credentials/")
print(role, sorted(json.loads(look("meta-data/iam/security-credentials/" + role))))
print(json.loads(look("dynamic/instance-identity/document"))["region"])
print(look("meta-data/spot/instance-action"), flush=True)
while look("meta-data/spot/instance-action") == 404:
    threading.Event().wait(0.02)
print(json.loads(look("meta-data/spot/instance-action"))["action"], flush=True)
threading.Event().wait(600)
TEXT
python3 probe.py
"""
    identity = launch(cloud, script, InstanceMarketOptions={"MarketType": "spot"})

    until(lambda: cloud.console(identity).endswith("\n404\n"))
    cloud.notice(identity, seconds=1)
    until(lambda: cloud.console(identity).endswith("terminate\n"))

    assert cloud.console(identity).splitlines() == [
        "401",
        "g5.xlarge us-east-1a",
        "gitops-ml-worker ['AccessKeyId', 'Code', 'Expiration', 'LastUpdated', 'SecretAccessKey', 'Token', 'Type']",
        "us-east-1",
        "404",
        "terminate",
    ]
    assert ended(cloud, identity) == "Server.SpotInstanceTermination"
    assert cloud.processes(identity) == []


def test_machine__plug_pulled__no_process_is_left(cloud):
    identity = launch(cloud, "(setsid sleep 600 &)\necho up\nsleep 600\n")
    until(lambda: cloud.console(identity) == "up\n")

    cloud.pull_plug(identity)

    assert ended(cloud, identity) == "Server.SpotInstanceTermination"
    assert cloud.processes(identity) == []


def test_machine__terminated_by_the_caller__says_who_did_it(cloud):
    identity = launch(cloud, "sleep 600\n")
    volumes = cloud.client("ec2").describe_volumes()["Volumes"]
    assert [tag for volume in volumes if volume["Attachments"] for tag in volume["Tags"]] == [
        {"Key": "gitops-ml:key", "Value": "k" * 64}
    ]

    cloud.client("ec2").terminate_instances(InstanceIds=[identity])

    assert ended(cloud, identity) == "Client.UserInitiatedShutdown"
    found = cloud.client("ec2").describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]
    assert found["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


def test_machine__clock_set_wrong__is_what_python_sees(cloud):
    cloud.skew(3600)
    script = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp())"
    identity = launch(cloud, f'python3 -c "{script}"\nshutdown -h now\n')

    ended(cloud, identity)

    for seen in cloud.console(identity).split():
        assert 3500 < float(seen) - cloud.instances()[0].launched_at < 3700


def test_machine__deadline__can_be_let_come(cloud):
    identity = launch(cloud, "shutdown -h +45\necho up\nsleep 600\n")
    until(lambda: cloud.console(identity) == "up\n")

    assert cloud.pass_deadline(identity) == 45

    assert ended(cloud, identity) == "Client.InstanceInitiatedShutdown"


def test_token__repeated__is_the_same_instance(cloud):
    first = launch(cloud, token="one")

    assert launch(cloud, token="one") == first
    assert launch(cloud, token="two") != first
    assert refusal(cloud, "false\n", token="one") == "IdempotentParameterMismatch"
    assert launch(cloud, token="one", zone="us-east-1b") != first
    cloud.client("ec2").terminate_instances(InstanceIds=[first])
    assert refusal(cloud, token="one") == "IdempotentInstanceTerminated"
    assert len(cloud.instances()) == 3


def test_launch__what_cannot_be__is_refused(cloud):
    assert refusal(cloud, "x" * 17000) == "InvalidParameterValue"
    assert refusal(cloud, ImageId="ami-00000000000000000") == "InvalidAMIID.NotFound"
    assert refusal(cloud, InstanceType="g5.tiny") == "InvalidParameterValue"
    assert refusal(cloud, InstanceType="p6-b200.48xlarge", zone="us-east-1e") == "Unsupported"
    assert refusal(cloud, SubnetId="subnet-00000000") == "InvalidSubnetID.NotFound"
    assert refusal(cloud, IamInstanceProfile={"Name": "nobody"}) == "InvalidParameterValue"
    assert refusal(cloud, DryRun=True) == "DryRunOperation"
    assert cloud.instances() == []


def test_fault__by_zone_and_market__hits_only_those(cloud):
    cloud.no_capacity(zone="us-east-1a")
    cloud.fault("RunInstances", "MaxSpotInstanceCountExceeded", where={"market": "spot"})

    assert refusal(cloud) == "InsufficientInstanceCapacity"
    assert refusal(cloud) == "InsufficientInstanceCapacity"
    assert (
        refusal(cloud, zone="us-east-1b", InstanceMarketOptions={"MarketType": "spot"})
        == "MaxSpotInstanceCountExceeded"
    )
    assert launch(cloud, zone="us-east-1b", InstanceMarketOptions={"MarketType": "spot"})
    assert launch(cloud, zone="us-east-1b")
    assert [call.fault for call in cloud.calls if call.action == "RunInstances"] == [
        "InsufficientInstanceCapacity",
        "InsufficientInstanceCapacity",
        "MaxSpotInstanceCountExceeded",
        None,
        None,
    ]


def test_fault__connection_breaks_after_acceptance__the_machine_is_there(cloud):
    cloud.fault("RunInstances", kind="reset", when="after")

    with pytest.raises(botocore.exceptions.BotoCoreError):
        launch(cloud, token="one")

    (instance,) = cloud.instances()
    assert launch(cloud, token="one") == instance.identity
    found = cloud.client("ec2").describe_instances(Filters=[{"Name": "client-token", "Values": ["one"]}])
    assert [each["InstanceId"] for group in found["Reservations"] for each in group["Instances"]] == [instance.identity]


def test_held__request_took_effect__and_waits(cloud):
    with cloud.held("RunInstances") as held:
        thread = threading.Thread(target=launch, args=(cloud,))
        thread.start()
        assert held.reached()
        assert len(cloud.instances()) == 1
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()


def test_spot__request_of_the_machine__is_listed_with_its_tags(cloud):
    identity = launch(cloud, InstanceMarketOptions={"MarketType": "spot"})
    ec2 = cloud.client("ec2")

    (row,) = ec2.describe_spot_instance_requests(Filters=[{"Name": "tag:gitops-ml:key", "Values": ["k" * 64]}])[
        "SpotInstanceRequests"
    ]

    shown = ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]
    assert (row["InstanceId"], row["State"]) == (identity, "active")
    assert shown["SpotInstanceRequestId"] == row["SpotInstanceRequestId"]
    assert shown["InstanceLifecycle"] == "spot"


def test_facts__image_quota_price__are_there(cloud):
    name = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
    image = cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    (shown,) = cloud.client("ec2").describe_images(ImageIds=[image])["Images"]
    cloud.settings(quotas={"L-DB2E81BA": 8})
    quota = cloud.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]
    prices = cloud.client("pricing").get_products(
        ServiceCode="AmazonEC2", Filters=[{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g5.xlarge"}]
    )["PriceList"]
    spot = cloud.client("ec2").describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], ProductDescriptions=["Linux/UNIX"]
    )["SpotPriceHistory"]

    assert shown["RootDeviceName"] == "/dev/sda1"
    assert quota["Value"] == 8
    assert "1.0060000000" in prices[0]
    assert {row["SpotPrice"] for row in spot} == {"0.402400"}


def test_s3__condition_owner_and_refusal(cloud):
    s3 = cloud.client("s3")

    s3.put_object(Bucket=cloud.bucket, Key="a b/ü.txt", Body=b"1", IfNoneMatch="*", ExpectedBucketOwner="123456789012")
    with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=cloud.bucket, Key="a b/ü.txt", Body=b"2", IfNoneMatch="*")
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.put_object(Bucket=cloud.bucket, Key="b", Body=b"2", ExpectedBucketOwner="999999999999")
    cloud.refuse_s3()
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.get_object(Bucket=cloud.bucket, Key="a b/ü.txt")
    cloud.clear_faults()

    assert cloud.objects() == {"a b/ü.txt": b"1"}


def test_keys__wrong_or_expired__are_refused(cloud):
    wrong = {**cloud.environ, "AWS_SECRET_ACCESS_KEY": "wrong"}
    with pytest.raises(botocore.exceptions.ClientError, match="SignatureDoesNotMatch"):
        client("s3", wrong).list_objects_v2(Bucket=cloud.bucket)
    with pytest.raises(botocore.exceptions.ClientError, match="AuthFailure"):
        client("ec2", wrong).describe_instances()
    cloud.expire()
    with pytest.raises(botocore.exceptions.ClientError, match="RequestExpired"):
        cloud.client("ec2").describe_instances()
    with pytest.raises(botocore.exceptions.ClientError, match="ExpiredToken"):
        cloud.client("sts").get_caller_identity()
    cloud.renew()
    assert cloud.client("sts").get_caller_identity()["Account"] == "123456789012"


def statement(actions: list[str], **condition: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return {"Version": "2012-10-17", "Statement": [found | ({"Condition": condition} if condition else {})]}


def test_policies__enforced__name_the_action_and_know_tags(cloud):
    looks = statement(["ec2:Describe*", "iam:PassRole", "s3:GetObject"])
    own = {"aws:RequestTag/gitops-ml:key": "k" * 64}
    cloud.enforce(caller=[looks, statement(["ec2:RunInstances"], StringEquals=own)], machine=[])
    ec2 = cloud.client("ec2")

    assert ec2.describe_instances()["Reservations"] == []
    with pytest.raises(botocore.exceptions.ClientError, match=r"UnauthorizedOperation.*image/ami-"):
        launch(cloud)
    cloud.enforce(caller=[looks, statement(["ec2:RunInstances"])], machine=[])
    with pytest.raises(botocore.exceptions.ClientError, match=r"UnauthorizedOperation.*ec2:CreateTags"):
        launch(cloud)
    birth = statement(["ec2:CreateTags"], StringEquals={"ec2:CreateAction": "RunInstances"})
    end = statement(["ec2:TerminateInstances"], StringEquals={"aws:ResourceTag/gitops-ml:key": "k" * 64})
    cloud.enforce(caller=[looks, statement(["ec2:RunInstances"]), birth, end], machine=[])
    ours, foreign = launch(cloud), launch(cloud, TagSpecifications=[])
    ec2.terminate_instances(InstanceIds=[ours])
    with pytest.raises(botocore.exceptions.ClientError, match=r"UnauthorizedOperation.*ec2:TerminateInstances"):
        ec2.terminate_instances(InstanceIds=[foreign])


def test_policies__listing_a_prefix_only__missing_objects_are_said_to_be_missing_there_only(cloud):
    cloud.enforce(
        caller=[statement(["s3:GetObject"]), statement(["s3:ListBucket"], StringLike={"s3:prefix": "acme/*"})],
        machine=[],
    )
    s3 = cloud.client("s3")

    with pytest.raises(botocore.exceptions.ClientError, match="NoSuchKey"):
        s3.get_object(Bucket=cloud.bucket, Key="acme/none")
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.get_object(Bucket=cloud.bucket, Key="other/none")
    with pytest.raises(botocore.exceptions.ClientError, match=r"AccessDenied.*s3:ListBucket"):
        s3.list_objects_v2(Bucket=cloud.bucket)


def test_contract__unknown_parameter__is_noted(tmp_path):
    from tests.fakes.aws import wire

    body = b"Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&Colour=red"
    read = wire.read(
        "POST", "/", "", {"content-type": "application/x-www-form-urlencoded", "authorization": AUTH}, body
    )

    assert (read.service, read.action, read.parameters) == ("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1})
    assert read.problems == ["RunInstances: no parameter is called Colour"]


AUTH = f"AWS4-HMAC-SHA256 Credential=AKIA/20261101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature={'0' * 64}"


def test_machine__that_lingers__goes_on_shutting_down_when_its_end_is_asked_for_again(cloud):
    cloud.linger()
    identity = launch(cloud, "sleep 600\n")
    for _ in range(2):
        cloud.client("ec2").terminate_instances(InstanceIds=[identity])
        assert cloud.instances()[0].state == "shutting-down"

    cloud.linger(False)

    assert cloud.instances()[0].state == "terminated"

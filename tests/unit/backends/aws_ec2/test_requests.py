"""Lease and candidate -> the request: complete, tagged at birth, and the same every time."""

import base64
import dataclasses
import hashlib
import json
import re

from gitops_ml.agent.objects import lease_from, to_json
from gitops_ml.backends.aws_ec2.leases import dearest, secret_name, storage_digest, terms_of
from gitops_ml.backends.aws_ec2.requests import client_token, run_instances, tag_filter, tags_of
from tests.fakes.leases import G6, NOW, SPOT, TERMS, lease


def test_request__spot__is_whole():
    one = lease()

    tags = [
        {"Key": "Name", "Value": f"gitops-ml {one.key[:12]}"},
        {"Key": "gitops-ml:repo", "Value": "acme/digits"},
        {"Key": "gitops-ml:key", "Value": one.key},
        {"Key": "gitops-ml:attempt", "Value": "1"},
        {"Key": "gitops-ml:expires-at", "Value": "2027-01-15T11:30:00Z"},
        {"Key": "gitops-ml:owner", "Value": "ada at box"},
        {"Key": "gitops-ml:storage", "Value": "5707a9e5"},
    ]
    assert run_instances(one, SPOT, "#!/bin/sh\n") == {
        "ImageId": "ami-1",
        "InstanceType": "g6.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(one, SPOT),
        "SubnetId": "subnet-a",
        "SecurityGroupIds": ["sg-1"],
        "UserData": "#!/bin/sh\n",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Name": "worker"},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
            }
        ],
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        },
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags}
            for kind in ("instance", "volume", "network-interface", "spot-instances-request")
        ],
    }


def test_request__on_demand__names_no_market():
    request = run_instances(lease(), G6, "")

    assert "InstanceMarketOptions" not in request
    assert [spec["ResourceType"] for spec in request["TagSpecifications"]] == [
        "instance",
        "volume",
        "network-interface",
    ]


def test_request__of_a_lease_that_was_stored__is_the_same():
    one = lease()
    stored = lease_from(to_json(one))

    assert terms_of(stored) == TERMS
    assert json.dumps(run_instances(stored, SPOT, "x")) == json.dumps(run_instances(one, SPOT, "x"))


def test_request__profile_by_arn__is_named_so():
    terms = dataclasses.replace(TERMS, profile="arn:aws:iam::1:instance-profile/worker")

    assert run_instances(lease(terms=terms), G6, "")["IamInstanceProfile"] == {"Arn": terms.profile}


def test_token__every_part__makes_another():
    changes = ({"market": G6.market}, {"instance_type": "g5.xlarge"}, {"subnet": "subnet-b"})
    elsewhere = dataclasses.replace(TERMS, storage="e15e")
    leases = [lease(), lease(2), lease(key="0" * 64), lease(terms=elsewhere)]
    tokens = [client_token(one, SPOT) for one in leases]
    tokens += [client_token(lease(), dataclasses.replace(SPOT, **change)) for change in changes]

    assert len(set(tokens)) == len(tokens)
    assert client_token(lease(), SPOT) == tokens[0]
    assert all(token.isascii() and token.isalnum() and len(token) <= 64 for token in tokens)


def test_request__of_a_lease_that_names_no_storage__is_what_it_was_then():
    one = lease()
    old = dataclasses.replace(one, cloud={name: value for name, value in one.cloud.items() if name != "storage"})

    request = run_instances(old, SPOT, "")

    parts = (one.key, "1", "spot", "g6.xlarge", "subnet-a")
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    assert request["ClientToken"] == base64.b32encode(digest).decode().rstrip("=").lower()
    assert "gitops-ml:storage" not in tags_of(request["TagSpecifications"][0])


def test_storage_digest__other_spelling__is_the_same():
    one = storage_digest("s3://bucket/acme/digits")

    assert one == storage_digest("s3://bucket/acme/digits/?owner=123456789012")
    assert len({one, storage_digest("s3://bucket/acme"), storage_digest("s3://other/acme/digits")}) == 3
    assert re.fullmatch("[0-9a-f]{16}", one)


def test_tags__hostile_owner__becomes_a_value_that_ec2_takes():
    request = run_instances(lease(owner="a\n<b>&'?!" + "x" * 400), G6, "")

    (owner,) = [t["Value"] for t in request["TagSpecifications"][0]["Tags"] if t["Key"] == "gitops-ml:owner"]
    assert owner == "a__b_____" + "x" * 247


def test_filter__many_keys__is_by_repository_alone():
    repo = {"Name": "tag:gitops-ml:repo", "Values": ["acme/digits"]}

    assert tag_filter("acme/digits", ["b", "a"]) == [repo, {"Name": "tag:gitops-ml:key", "Values": ["a", "b"]}]
    assert tag_filter("acme/digits", [str(n) for n in range(201)]) == [repo]
    assert tags_of({"Tags": [{"Key": "a", "Value": "1"}]}) == {"a": "1"}
    assert tags_of({}) == {}


def test_lease__times__follow_from_the_wait_and_the_lifetime():
    one = lease()

    assert (one.wait_until, one.expires_at) == (NOW + 3600, NOW + 3600 + 140 * 60 + 600)
    assert secret_name("acme/digits", "HF_TOKEN") == "/gitops-ml/acme/digits/HF_TOKEN"


def test_dearest__a_price_that_is_not_known__is_not_guessed():
    assert dearest([SPOT, G6]) == G6.price.usd_per_hour
    assert dearest([SPOT, dataclasses.replace(G6, price=None)]) is None
    assert dearest([]) is None

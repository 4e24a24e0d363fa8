"""The settings of `aws-ec2`: what is accepted, and every refusal in its words."""

import dataclasses
import json
from decimal import Decimal

import pytest

from gitops_ml.backends.aws_ec2.settings import Settings, settings_from
from gitops_ml.errors import UserError
from gitops_ml.schema import schema_text


def test_settings__none__are_the_defaults():
    assert settings_from({}) == Settings()


def test_settings__keys_of_the_schema__are_the_same():
    schema = json.loads(schema_text("project.v1"))

    described = schema["properties"]["backends"]["properties"]["aws-ec2"]["properties"]

    assert list(described) == [field.name for field in dataclasses.fields(Settings)]


def test_settings__all__are_taken():
    assert settings_from(
        {
            "regions": ["eu-west-1", "us-gov-west-1"],
            "ami": "ami-0123abcd",
            "subnets": ["subnet-1", "subnet-1"],
            "security_groups": ["sg-2"],
            "instance_types": ["g6.xlarge", "p6-b200.48xlarge"],
            "instance_profile": "arn:aws:iam::123456789012:instance-profile/team/worker",
            "index_url": "https://packages.example:8443/simple/",
            "on_demand_fallback": False,
            "prices": {"g6.xlarge": "0.9 USD", "g5.xlarge": 1},
        }
    ) == Settings(
        regions=("eu-west-1", "us-gov-west-1"),
        ami="ami-0123abcd",
        subnets=("subnet-1",),
        security_groups=("sg-2",),
        instance_types=("g6.xlarge", "p6-b200.48xlarge"),
        instance_profile="arn:aws:iam::123456789012:instance-profile/team/worker",
        index_url="https://packages.example:8443/simple/",
        on_demand_fallback=False,
        prices={"g6.xlarge": Decimal("0.9"), "g5.xlarge": Decimal(1)},
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"region": ["eu-west-1"]}, ": unknown key `region`; did you mean `regions`?"),
        ({"ami": "ami-1", "image": "/x"}, ": `ami` and `image` say the same thing; remove one of them"),
        ({"regions": "eu-west-1"}, ".regions is `eu-west-1`; it takes regions, such as [us-east-1]"),
        ({"subnets": []}, ".subnets is `[]`; it takes ids of subnets, such as [subnet-0123abcd]"),
        ({"ami": "x"}, ".ami is `x`; it takes the id of an image, such as ami-0123abcd"),
        (
            {"index_url": "https://ada:canary@packages.example/simple"},
            (
                ".index_url is `https://***@packages.example/simple`; it takes a package index's address without a "
                "password; one with it goes into the secret PIP_INDEX_URL"
            ),
        ),
        ({"on_demand_fallback": "yes"}, ".on_demand_fallback is `yes`; it takes true or false"),
        (
            {"prices": {"g6.xlarge": "0 USD"}},
            ".prices.g6.xlarge is `0 USD`; it takes USD per hour by instance type, such as {g6.xlarge: 0.81 USD}",
        ),
    ],
    ids=["unknown key", "image twice", "no list", "empty", "no id", "a password", "no flag", "costs nothing"],
)
def test_settings__wrong__are_refused_in_words(given, said):
    with pytest.raises(UserError) as refused:
        settings_from(given)

    assert str(refused.value) == f"gitops-ml.yaml: backends.aws-ec2{said}"

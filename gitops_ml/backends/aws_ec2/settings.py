"""What ``backends.aws-ec2`` in ``gitops-ml.yaml`` may say, as a value."""

import dataclasses
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gitops_ml.errors import UserError
from gitops_ml.schema import nearest_or_all
from gitops_ml.source import shown
from gitops_ml.values import dataclass

DEFAULT_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""The public SSM parameter with the newest image that has a driver, CUDA and Docker. It boots without a GPU too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The backend's settings with their defaults; a tuple without items: whatever fits."""

    regions: tuple[str, ...] = ()
    """The first is used; none: what AWS_REGION says."""
    ami: str | None = None
    """An image's id, instead of ``image``."""
    image: str | None = None
    """Name of the SSM parameter that holds an image's id."""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    """The only ones to take, in this order."""
    instance_profile: str = "gitops-ml-worker"
    """Name or ARN of the profile that gives the machine its role."""
    index_url: str | None = None
    """The package index that lock files are installed from; none: what the image is configured with, else PyPI."""
    on_demand_fallback: bool = True
    """Whether ``spot: prefer`` takes a machine at its full price when no spot machine is to be had."""
    prices: Mapping[str, Decimal] = dataclasses.field(default_factory=dict)
    """USD per hour by instance type, instead of the catalog's."""


_PATTERNS = {
    "regions": (r"[a-z]{2}(-[a-z]+)+-[0-9]", "regions, such as [us-east-1]"),
    "subnets": (r"subnet-[0-9a-f]+", "ids of subnets, such as [subnet-0123abcd]"),
    "security_groups": (r"sg-[0-9a-f]+", "ids of security groups, such as [sg-0123abcd]"),
    "instance_types": (r"[a-z][a-z0-9-]*\.[a-z0-9-]+", "instance types, such as [g6.xlarge]"),
    "ami": (r"ami-[0-9a-f]+", "the id of an image, such as ami-0123abcd"),
    "index_url": (
        r"https?://[^\s@/?#]+(/[^\s@?#]*)?",
        "a package index's address without a password; one with it goes into the secret PIP_INDEX_URL",
    ),
    "image": (r"/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", "the name of an SSM parameter that holds an image's id"),
    "instance_profile": (r"[\w+=,.@-]{1,128}|arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[\w+=,.@/-]+", "a profile"),
}
_TEXTS = ("ami", "image", "index_url", "instance_profile")


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Return the settings.

    Raises:
        UserError: a name or a value is not accepted; the text says which and what is.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in given:
        if name not in known:
            raise UserError(f"gitops-ml.yaml: backends.aws-ec2: unknown key {shown(name)}{nearest_or_all(name, known)}")
    if "ami" in given and "image" in given:
        raise UserError("gitops-ml.yaml: backends.aws-ec2: `ami` and `image` say the same thing; remove one of them")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "prices":
            found[name] = _prices(value)
        elif name == "on_demand_fallback":
            if not isinstance(value, bool):
                raise _wrong(name, value, "true or false")
            found[name] = value
        else:
            pattern, words = _PATTERNS[name]
            values = [value] if name in _TEXTS else value
            fits = isinstance(values, list) and all(isinstance(v, str) and re.fullmatch(pattern, v) for v in values)
            if not fits or not values:
                raise _wrong(name, re.sub(r"//[^/\s]*@", "//***@", str(value)), words)
            found[name] = value if name in _TEXTS else tuple(dict.fromkeys(values))
    return Settings(**found)


def _prices(value: Any) -> Mapping[str, Decimal]:
    words = "USD per hour by instance type, such as {g6.xlarge: 0.81 USD}"
    if not isinstance(value, dict):
        raise _wrong("prices", value, words)
    found = {}
    for name, price in value.items():
        number = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,6})?)(?: USD)?", str(price))
        if not re.fullmatch(_PATTERNS["instance_types"][0], name) or not number or not Decimal(number[1]):
            raise _wrong(f"prices.{name}", price, words)
        found[name] = Decimal(number[1])
    return found


def _wrong(name: str, value: Any, words: str) -> UserError:
    return UserError(f"gitops-ml.yaml: backends.aws-ec2.{name} is {shown(str(value))}; it takes {words}")

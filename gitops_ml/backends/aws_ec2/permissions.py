"""What is asked of AWS, where, and why: the one list behind the shipped policies and every message about them.

``action/aws/ci-policy.json``, ``worker-policy.json`` and the policies inside ``setup.yaml`` are held to it by a test.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a policy; texts hold the names of ``Places`` in braces."""

    sid: str
    why: str
    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)
    conditions: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What a statement is about; the defaults are the words that stand in the files for people to replace."""

    account: str = "ACCOUNT"
    repository: str = "ORG/REPO"
    bucket: str = "BUCKET"
    prefix: str = "ORG/REPO"
    """Of the objects, without a slash at its ends; empty: the whole bucket."""
    data: str = "DATA-BUCKET/*"
    """Which objects outside of ``bucket`` trainings read."""
    worker_role: str = "gitops-ml-worker"
    partition: str = "aws"


_OWN = {"StringEquals": {"aws:ResourceTag/gitops-ml:repo": "{repository}"}}
_ARN = "arn:{partition}:"

CI: Sequence[Statement] = (
    Statement(
        sid="Look",
        why="to find out what exists, what is offered, what it costs and how much of it is allowed",
        actions=(
            "ec2:DescribeImages",
            "ec2:DescribeInstanceTypeOfferings",
            "ec2:DescribeInstances",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSpotInstanceRequests",
            "ec2:DescribeSpotPriceHistory",
            "ec2:DescribeSubnets",
            "ec2:DescribeVolumes",
            "pricing:GetProducts",
            "servicequotas:GetServiceQuota",
            "ssm:DescribeParameters",
        ),
    ),
    Statement(
        sid="Image",
        why="to look up the newest machine image; what AWS publishes is public",
        actions=("ssm:GetParameter",),
        resources=(_ARN + "ssm:*::parameter/aws/service/*",),
    ),
    Statement(
        sid="LaunchWith",
        why="to start a machine from an image, in a subnet, behind a security group",
        actions=("ec2:RunInstances",),
        resources=(
            _ARN + "ec2:*::image/*",
            _ARN + "ec2:*::snapshot/*",
            _ARN + "ec2:*:{account}:security-group/*",
            _ARN + "ec2:*:{account}:subnet/*",
        ),
    ),
    Statement(
        sid="LaunchTagged",
        why="to start a machine that carries the repository's name, and no other",
        actions=("ec2:RunInstances",),
        resources=(
            _ARN + "ec2:*:{account}:instance/*",
            _ARN + "ec2:*:{account}:network-interface/*",
            _ARN + "ec2:*:{account}:spot-instances-request/*",
            _ARN + "ec2:*:{account}:volume/*",
        ),
        conditions={"StringEquals": {"aws:RequestTag/gitops-ml:repo": "{repository}"}},
    ),
    Statement(
        sid="TagAtLaunch",
        why="to tag what is started in the same call, and nothing that exists already",
        actions=("ec2:CreateTags",),
        resources=(_ARN + "ec2:*:{account}:*/*",),
        conditions={"StringEquals": {"ec2:CreateAction": "RunInstances"}},
    ),
    Statement(
        sid="EndOwn",
        why="to end what carries the repository's name, and to read what a machine said while it started",
        actions=(
            "ec2:CancelSpotInstanceRequests",
            "ec2:DeleteNetworkInterface",
            "ec2:DeleteVolume",
            "ec2:GetConsoleOutput",
            "ec2:TerminateInstances",
        ),
        resources=(
            _ARN + "ec2:*:{account}:instance/*",
            _ARN + "ec2:*:{account}:network-interface/*",
            _ARN + "ec2:*:{account}:spot-instances-request/*",
            _ARN + "ec2:*:{account}:volume/*",
        ),
        conditions=_OWN,
    ),
    Statement(
        sid="PassWorker",
        why="to give the machine its role, which can do less than this one",
        actions=("iam:PassRole",),
        resources=(_ARN + "iam::{account}:role/{worker_role}",),
        conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    ),
    Statement(
        sid="Objects",
        why="to hand trials over, and to take logs and outputs back",
        actions=("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
        resources=(_ARN + "s3:::{bucket}/{prefix/}*",),
    ),
    Statement(
        sid="ListObjects",
        why="to list them; without it S3 also says `denied` where it should say `not there`",
        actions=("s3:ListBucket",),
        resources=(_ARN + "s3:::{bucket}",),
        conditions={"StringLike": {"s3:prefix": "{prefix/}*"}},
    ),
    Statement(
        sid="LookAtBucket",
        why="for `doctor`: where the bucket is, and that it is closed to the public",
        actions=("s3:GetBucketLocation", "s3:GetBucketPublicAccessBlock"),
        resources=(_ARN + "s3:::{bucket}",),
    ),
)
"""What the CI job that trains, or a laptop, may do."""

_WRITTEN_BY_MACHINES = (
    "environments/*",
    "jobs/*/boot.json",
    "jobs/*/checkpoints/*",
    "jobs/*/heartbeat.json",
    "jobs/*/logs/*",
    "jobs/*/outputs/*",
    "jobs/*/result.json",
)

WORKER: Sequence[Statement] = (
    Statement(
        sid="ReadObjects",
        why="to fetch the agent, the trial and its last checkpoint",
        actions=("s3:GetObject",),
        resources=(_ARN + "s3:::{bucket}/{prefix/}*",),
    ),
    Statement(
        sid="WriteResults",
        why="to bring logs, checkpoints, outputs and built environments; never the agent, nor what is to be trained, "
        "nor what callers note of price and end",
        actions=("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject"),
        resources=tuple(_ARN + "s3:::{bucket}/{prefix/}" + place for place in _WRITTEN_BY_MACHINES),
    ),
    Statement(
        sid="ListObjects",
        why="to find the last checkpoint; without it S3 also says `denied` where it should say `not there`",
        actions=("s3:ListBucket",),
        resources=(_ARN + "s3:::{bucket}",),
        conditions={"StringLike": {"s3:prefix": "{prefix/}*"}},
    ),
    Statement(
        sid="ReadData",
        why="to fetch data that specs name as `s3://`; leave it out when there is none",
        actions=("s3:GetObject", "s3:GetObjectVersion"),
        resources=(_ARN + "s3:::{data}",),
    ),
    Statement(
        sid="Secrets",
        why="to read the secrets that specs of this repository may name",
        actions=("ssm:GetParameters",),
        resources=(_ARN + "ssm:*:{account}:parameter/gitops-ml/{repository}/*",),
    ),
)
"""What the machine may do, and so the training on it. Nothing with EC2: it ends itself by shutting down."""


def policy(statements: Sequence[Statement], places: Places = Places()) -> dict[str, Any]:
    """Return the policy document."""
    return {"Version": "2012-10-17", "Statement": [rendered(statement, places) for statement in statements]}


def rendered(statement: Statement, places: Places, *actions: str) -> dict[str, Any]:
    """Return the statement as it stands in a policy; with ``actions`` for these alone."""

    def filled(text: str) -> str:
        for name, value in _words(places).items():
            text = text.replace(f"{{{name}}}", value)
        return text

    named = list(actions or statement.actions)
    resources = [filled(resource) for resource in statement.resources]
    document: dict[str, Any] = {
        "Sid": statement.sid,
        "Effect": "Allow",
        "Action": named[0] if len(named) == 1 else named,
        "Resource": resources[0] if len(resources) == 1 else resources,
    }
    if statement.conditions:
        document["Condition"] = {
            test: {key: filled(value) for key, value in keys.items()} for test, keys in statement.conditions.items()
        }
    return document


def missing(action: str, places: Places, *, worker: bool = False) -> str:
    """Return the statements to add to the role's policy so that it may do ``action``, as one line of JSON each."""
    found = [rendered(statement, places, action) for statement in _with(action, WORKER if worker else CI)]
    return "\n".join(json.dumps(statement) for statement in found)


def needed(*, worker: bool = False) -> frozenset[str]:
    """Return all actions of a role."""
    return frozenset(action for statement in (WORKER if worker else CI) for action in statement.actions)


def _with(action: str, statements: Sequence[Statement]) -> Iterator[Statement]:
    return (statement for statement in statements if action in statement.actions)


def _words(places: Places) -> Mapping[str, str]:
    words: dict[str, str] = dataclasses.asdict(places)
    return words | {"prefix/": f"{places.prefix}/" if places.prefix else ""}

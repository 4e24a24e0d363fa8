"""What exists in the account, from one start to the next: moto's backends, and what they do not keep."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moto.backends import get_backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import StateReason

from tests.fakes.aws.machines import Machine

ACCOUNT = "123456789012"
REGIONS = ("us-east-1", "us-west-2", "eu-central-1")
BUCKET = "gitops-ml-fake"
ROLE = "gitops-ml-worker"


class World:
    """Everything that exists in the account, from one start to the next."""

    def __init__(self, orders: Mapping[str, Any], url: str) -> None:
        self.url = url
        self.folder = Path(orders["folder"])
        self.execute: bool = orders["execute"]
        self.minute_s: float = orders["minute_s"]
        self.nap_s: float | None = orders["nap_s"]
        self.python = Path(orders["python"])
        self.machine_environ: Mapping[str, str] = orders["machine_environ"]
        self.skew_s = 0.0
        self.calls: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.holds: dict[str, dict[str, Any]] = {}
        self.violations: list[str] = []
        self.machines: dict[str, Machine] = {}
        self.launched: dict[str, dict[str, Any]] = {}
        """By instance id: what was asked for, zone, market, token, spot request."""
        self.tokens: dict[tuple[str, str, str], tuple[str, list[str], bytes]] = {}
        self.keys: dict[str, tuple[str, str, str]] = {}
        """Access key id -> secret, who, session token."""
        self.expired: set[str] = set()
        self.granted: dict[str, dict[str, str]] = {}
        self.quotas: dict[str, float] = {}
        self.prices: dict[str, float] = {}
        self.policies: Mapping[str, Sequence[Any]] | None = None
        """Of ``caller`` and ``machine``; None: everybody may everything."""
        self.lingering = False
        self.images: dict[str, str] = {}
        self._found()

    def _found(self) -> None:
        """Make what the account has from the start: bucket, user, role, images."""
        for service in ("ec2", "iam", "s3", "ssm", "sts"):
            get_backend(service).reset()
        get_backend("s3")[ACCOUNT]["aws"].create_bucket(BUCKET, "us-east-1")
        iam = get_backend("iam")[ACCOUNT]["aws"]
        iam.create_user("us-east-1", "caller")
        self.caller = iam.create_access_key("caller")
        self.keys[self.caller.access_key_id] = (self.caller.secret_access_key, "caller", "")
        trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        iam.create_role(
            role_name=ROLE,
            assume_role_policy_document=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            path="/",
            permissions_boundary=None,
            description="",
            tags=[],
            max_session_duration=3600,
        )
        iam.create_instance_profile(name=ROLE, path="/", role_names=[ROLE])
        for region in REGIONS:
            ec2 = get_backend("ec2")[ACCOUNT][region]
            identity = f"ami-0{region.encode().hex()[:16]:0<16}"
            ec2.amis[identity] = Ami(
                ec2,
                identity,
                name="Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261101",
                owner_id="898082745236",
                owner_alias="amazon",
                public=True,
                virtualization_type="hvm",
                architecture="x86_64",
                root_device_type="ebs",
                region_name=f"{region}a",
            )
            self.images[region] = identity

    def ec2(self, region: str) -> Any:
        return get_backend("ec2")[ACCOUNT][region]

    def instance(self, identity: str) -> Any:
        return self.ec2(self.launched[identity]["region"]).get_instance(identity)

    def has(self, bucket: str, key: str) -> bool:
        found = get_backend("s3")[ACCOUNT]["aws"].buckets.get(bucket)
        return found is not None and type(found.keys.get(key)).__name__ == "FakeKey"

    def tags_of(self, region: str, identity: str) -> Mapping[str, str]:
        """Return the tags of something in EC2; none: it is not there."""
        for about in self.launched.values():
            if about["spot_request"] == identity:
                return about["spot_tags"]
        return {tag["key"]: tag["value"] for tag in self.ec2(region).describe_tags({"resource-id": [identity]})}

    def end(self, identity: str, code: str, message: str) -> None:
        """The instance is no more, for this reason."""
        instance = self.instance(identity)
        if instance.state != "terminated":
            instance.terminate()
        instance.state_reason = StateReason(message, code)
        instance._reason = f"{message} ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} GMT)"
        self.launched[identity]["ended_at"] = time.time()
        if self.lingering:
            self.shutting_down(identity)

    def shutting_down(self, identity: str) -> None:
        """The instance is not gone yet."""
        state = self.instance(identity)._state
        state.name, state.code = "shutting-down", 32

    def close(self) -> None:
        machines = list(self.machines.values())
        for machine in machines:
            machine.power_off()

"""A lease and one of its candidates -> the arguments of ``RunInstances``. Pure: the same lease, the same bytes."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2.candidates import Candidate, Market
from gitops_ml.backends.aws_ec2.leases import terms_of

TAG_REPO = "gitops-ml:repo"
TAG_KEY = "gitops-ml:key"
TAG_ATTEMPT = "gitops-ml:attempt"
TAG_EXPIRES = "gitops-ml:expires-at"
TAG_OWNER = "gitops-ml:owner"
TAG_STORAGE = "gitops-ml:storage"
USER_DATA_BYTES = 16_384
"""What EC2 takes, before encoding."""


def client_token(lease: Lease, candidate: Candidate) -> str:
    """Return the token under which EC2 starts one machine, however often it is asked.

    It holds the attempt, since a token whose machine is gone is spent, the candidate, since another request under the
    same token is refused, or in another zone starts a second machine, and the storage, since in another one the same
    attempt is another.
    """
    parts = [lease.key, str(lease.number), candidate.market.value, candidate.instance_type, candidate.subnet]
    if storage := terms_of(lease).storage:
        parts.append(storage)
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()


def run_instances(lease: Lease, candidate: Candidate, user_data: str) -> dict[str, Any]:
    """Return the arguments that ask for one machine."""
    assert len(user_data.encode()) <= USER_DATA_BYTES
    terms = terms_of(lease)
    kinds = ["instance", "volume", "network-interface"]
    request: dict[str, Any] = {
        "ImageId": terms.image.id,
        "InstanceType": candidate.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(lease, candidate),
        "SubnetId": candidate.subnet,
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Arn" if terms.profile.startswith("arn:") else "Name": terms.profile},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [
            {
                "DeviceName": terms.image.root_device,
                "Ebs": {
                    "VolumeSize": terms.disk_gib,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
    }
    if terms.security_groups:
        request["SecurityGroupIds"] = list(terms.security_groups)
    if candidate.market is Market.SPOT:
        # No MaxPrice: AWS advises against one, and what may be spent is bounded by the lifetime.
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
        kinds.append("spot-instances-request")
    request["TagSpecifications"] = [{"ResourceType": kind, "Tags": tags(lease)} for kind in kinds]
    return request


def tags(lease: Lease) -> list[dict[str, str]]:
    """Return the tags that every resource of the lease is born with."""
    expires = datetime.fromtimestamp(lease.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {
        "Name": f"gitops-ml {lease.key[:12]}",
        TAG_REPO: lease.repository,
        TAG_KEY: lease.key,
        TAG_ATTEMPT: str(lease.number),
        TAG_EXPIRES: expires,
        TAG_OWNER: lease.owner,
    }
    if storage := terms_of(lease).storage:
        values[TAG_STORAGE] = storage
    return [{"Key": key, "Value": _tag_value(value)} for key, value in values.items()]


def tag_filter(repository: str, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the filters that find a repository's resources; with keys, those of these trials."""
    filters: list[dict[str, Any]] = [{"Name": f"tag:{TAG_REPO}", "Values": [_tag_value(repository)]}]
    if 0 < len(keys) <= _VALUES_PER_FILTER:
        filters.append({"Name": f"tag:{TAG_KEY}", "Values": sorted(keys)})
    return filters


_VALUES_PER_FILTER = 200


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return a described resource's tags."""
    return {
        str(tag.get("Key")): str(tag.get("Value", "")) for tag in resource.get("Tags") or resource.get("TagSet") or ()
    }


def _tag_value(text: str) -> str:
    return re.sub(r"[^\w .:/=+\-@]", "_", text)[:256]

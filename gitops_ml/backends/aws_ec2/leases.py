"""The lease of an attempt: made once from the trial and what the cloud offers; all that follows reads it. Pure."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2.candidates import Candidate, from_json, to_json
from gitops_ml.backends.aws_ec2.money import Bound
from gitops_ml.backends.base import Asked
from gitops_ml.planning import Trial
from gitops_ml.values import dataclass

DEFAULT_WAIT_S = 3600.0
"""How long capacity is waited for without ``budget.max_wait``."""
SLACK_S = 600.0
"""Between the end of a machine's time and the moment from which others end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a machine boots."""

    id: str
    root_device: str
    size_gib: int
    source: str
    """Where its id is from, for people: an SSM parameter, or the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every request of the lease is made of: the typed form of ``Lease.cloud``."""

    region: str
    image: Image
    disk_gib: int
    profile: str
    security_groups: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    bounded_by: str
    """What sets the lifetime, as messages name it."""
    worst_usd: Decimal | None
    """What all attempts of the trial may cost together; None: not known."""
    place: str
    """Which checkout on which host created it: a process there can tell whether the creator still lives."""
    storage: str = ""
    """Digest of the storage's address, see ``storage_digest``; empty: made by a version that did not note it."""


def lease_for(
    trial: Trial,
    number: int,
    terms: Terms,
    *,
    bound: Bound,
    bundle: str,
    agent: str,
    repository: str,
    owner: str,
    now: float,
    secrets: Mapping[str, str],
    asked: Asked | None = None,
) -> Lease:
    """Return the lease of an attempt that starts now."""
    budget = trial.experiment.budget
    wait_until = now + (budget.max_wait_s if budget.max_wait_s is not None else DEFAULT_WAIT_S)
    return Lease(
        key=trial.key,
        number=number,
        repository=repository,
        created_at=now,
        owner=owner,
        bundle=bundle,
        agent=agent,
        wait_until=wait_until,
        lifetime_min=bound.lifetime_min,
        expires_at=wait_until + bound.lifetime_min * 60 + SLACK_S,
        secrets=secrets,
        asked={} if asked is None else dataclasses.asdict(asked),
        cloud={
            **{
                field: getattr(terms, field)
                for field in ("region", "disk_gib", "profile", "bounded_by", "place", "storage")
            },
            "worst_usd": None if terms.worst_usd is None else str(terms.worst_usd),
            "image": dataclasses.asdict(terms.image),
            "security_groups": list(terms.security_groups),
            "candidates": [to_json(one) for one in terms.candidates],
        },
    )


def terms_of(lease: Lease) -> Terms:
    """Return what the lease's requests are made of."""
    cloud: Mapping[str, Any] = lease.cloud
    return Terms(
        region=cloud["region"],
        image=Image(**cloud["image"]),
        disk_gib=cloud["disk_gib"],
        profile=cloud["profile"],
        security_groups=tuple(cloud["security_groups"]),
        candidates=tuple(from_json(one) for one in cloud["candidates"]),
        bounded_by=cloud["bounded_by"],
        worst_usd=None if cloud["worst_usd"] is None else Decimal(cloud["worst_usd"]),
        place=cloud["place"],
        storage=cloud.get("storage", ""),
    )


def asked_of(lease: Lease) -> Asked | None:
    """Return for what the lease's attempt was asked for; None: for nothing in CI."""
    head, change = lease.asked.get("head"), lease.asked.get("change")
    if not isinstance(head, str):
        return None
    number = change if isinstance(change, int) and not isinstance(change, bool) else None
    return Asked(head=head, change=number, fork=lease.asked.get("fork") is not False)


def storage_digest(uri: str) -> str:
    """Return what tells a storage's machines from those of another one, however its address is written."""
    place = uri.partition("?")[0].rstrip("/")
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def secret_name(repository: str, name: str) -> str:
    """Return the SSM parameter in which a repository's secret is."""
    return f"/gitops-ml/{repository}/{name}"


def dearest(candidates: Sequence[Candidate]) -> Decimal | None:
    """Return the highest hourly price; None: one is not known."""
    prices = [one.price.usd_per_hour for one in candidates if one.price is not None]
    return max(prices) if prices and len(prices) == len(candidates) else None

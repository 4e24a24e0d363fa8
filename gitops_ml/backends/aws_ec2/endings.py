"""How an attempt ended and what it used, as it is kept when its machine is gone. Pure."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gitops_ml.backends.aws_ec2.candidates import Candidate
from gitops_ml.backends.aws_ec2.leases import terms_of
from gitops_ml.backends.aws_ec2.money import LEAST_BILLED_S
from gitops_ml.backends.aws_ec2.verdicts import PREEMPTED, Instance, Seen, time_of
from gitops_ml.backends.base import JobState, JobStatus, Machine
from gitops_ml.records import Hardware, RecordError, Usage, usage_from_json, usage_to_json
from gitops_ml.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of an attempt."""

    status: JobStatus | None
    """None: it was refused, and there never was a machine."""
    zone: str = ""
    at: float = 0

    @property
    def billed_s(self) -> float:
        """How long its machine was paid for."""
        return self.status.usage.billed_s if self.status is not None and self.status.usage is not None else 0.0

    @property
    def preempted(self) -> bool:
        """Its machine was taken away."""
        return self.status is not None and self.status.state is JobState.PREEMPTED


def ending_to_json(status: JobStatus, *, zone: str, at: float) -> bytes:
    """Return the bytes of ``ending.json``."""
    document = {
        "state": status.state.value,
        "reason": status.reason,
        "exit_code": status.exit_code,
        "attempt": status.attempt,
        "started_at": status.started_at and status.started_at.timestamp(),
        "ended_at": status.ended_at and status.ended_at.timestamp(),
        "cost_usd": status.cost_usd,
        "hardware": status.hardware and dataclasses.asdict(status.hardware),
        "machine": status.machine.value,
        "progress": status.progress,
        "usage": status.usage and usage_to_json(status.usage),
        "zone": zone,
        "at": at,
    }
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()


def ending_from(key: str, data: Mapping[str, Any]) -> Ending:
    """Return the ending that a document holds; what is not understood was no ending that we wrote."""
    if "refused" in data:
        return Ending(status=None, at=float(data.get("at") or 0))
    try:
        hardware = data.get("hardware")
        usage = data.get("usage")
        status = JobStatus(
            key=key,
            state=JobState(data["state"]),
            reason=str(data["reason"]),
            exit_code=data["exit_code"],
            attempt=int(data["attempt"]),
            started_at=time_of(data["started_at"]),
            ended_at=time_of(data["ended_at"]),
            cost_usd=float(data["cost_usd"]),
            hardware=None if hardware is None else Hardware(**{**hardware, "gpus": tuple(hardware["gpus"])}),
            machine=Machine(data["machine"]),
            progress=str(data["progress"]),
            usage=None if usage is None else usage_from_json(usage),
        )
    except (KeyError, ValueError, TypeError, RecordError):
        reason = "what is written about its end cannot be read"
        return Ending(status=JobStatus(key=key, state=JobState.LOST, reason=reason, machine=Machine.GONE))
    return Ending(status=status, zone=str(data.get("zone") or ""), at=float(data.get("at") or 0))


def usage_of(seen: Seen) -> Usage | None:
    """Return what the attempt has used so far; None: nothing, and nothing was asked for."""
    instance, asking = seen.instance, seen.asking
    if instance is None and not asking.refused:
        return None
    terms = terms_of(seen.lease)
    candidate = next((one for one in terms.candidates if _is(one, instance)), None)
    price = candidate.price if candidate is not None else None
    idle = (seen.result or {}).get("idle_share")
    known = isinstance(idle, int | float) and not isinstance(idle, bool) and 0 <= idle <= 1
    return Usage(
        provider="aws",
        region=terms.region,
        zone=instance.zone if instance is not None else "",
        instance_id=instance.id if instance is not None else "",
        instance_type=instance.instance_type if instance is not None else "",
        market=instance.market if instance is not None else "",
        image=terms.image.id,
        usd_per_hour=None if price is None else float(price.usd_per_hour),
        price_source="" if price is None else price.source,
        price_date="" if price is None else price.date,
        billed_s=0.0 if instance is None else billed_s(seen, instance),
        final_state=instance.state if instance is not None else "none",
        worst_usd=None if terms.worst_usd is None else float(terms.worst_usd),
        tries=asking.refused,
        idle_share=float(idle) if known and idle is not None else None,
    )


def billed_s(seen: Seen, instance: Instance) -> float:
    """Return how long the machine was paid for, up to now: from its launch to its end, a minute at least."""
    return round(max(LEAST_BILLED_S, _paid_until(seen, instance) - instance.launched_at), 3)


def _paid_until(seen: Seen, instance: Instance) -> float:
    if instance.live:
        return seen.now
    if instance.ended_at is not None:
        return instance.ended_at
    # EC2 does not say when. Its own end comes at the latest when its time is over.
    latest = min(seen.now, instance.launched_at + seen.lease.lifetime_min * 60)
    if seen.result is None and instance.reason not in PREEMPTED:
        return latest
    # What the machine says of times may be what a training wrote: the storage knows when it wrote last.
    signs = [(seen.result or {}).get("ended_at"), seen.heartbeat.at if seen.heartbeat is not None else None]
    known = [moment.timestamp() for sign in signs if (moment := time_of(sign)) is not None]
    known += [seen.written_at] if seen.written_at is not None else []
    return min(latest, max(known)) if known else latest


def began_at(seen: Seen, result: Mapping[str, Any]) -> datetime | None:
    """Return when the training began: as its machine says, but not before there was one, nor after now."""
    instance = seen.instance
    said = time_of(result.get("training_started_at") or result.get("started_at"))
    first = instance.launched_at if instance is not None else seen.lease.created_at
    if said is None:
        return time_of(first) if instance is not None else None
    return time_of(min(max(said.timestamp(), first), seen.now))


def remembered(seen: Seen) -> Instance | None:
    """Return a machine that EC2 has forgotten, an hour after its end, as others know it; None: there was none."""
    said = (seen.result or {}).get("machine")
    said = said if isinstance(said, dict) else {}
    asking, beat = seen.asking, seen.heartbeat
    identity = asking.started or str(said.get("id") or "") or (beat.machine if beat is not None else "")
    if not identity:
        return None
    of = asking.candidate
    begun = time_of((seen.result or {}).get("started_at"))
    return Instance(
        id=identity,
        state="terminated",
        reason="",
        instance_type=of.instance_type if of is not None else str(said.get("type") or ""),
        zone=of.zone if of is not None else str(said.get("zone") or ""),
        market=of.market.value if of is not None else str(said.get("market") or ""),
        launched_at=asking.started_at or (begun.timestamp() if begun is not None else seen.lease.created_at),
        ended_at=None,
        key=seen.lease.key,
        attempt=seen.lease.number,
    )


def hardware_of(result: Mapping[str, Any], instance_type: str) -> Hardware | None:
    """Return what the machine says that it has, under the name that EC2 gives it; None: it said nothing sensible."""
    said = result.get("hardware")
    if not isinstance(said, dict):
        return None
    cpus, memory, gpus = said.get("cpus"), said.get("memory_bytes"), said.get("gpus")
    if isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 1:
        return None
    return Hardware(
        machine=instance_type or str(said.get("machine") or ""),
        cpus=cpus,
        memory_bytes=memory if isinstance(memory, int) and not isinstance(memory, bool) and memory >= 0 else None,
        gpus=tuple(map(str, gpus)) if isinstance(gpus, list) else (),
    )


def _is(candidate: Candidate, instance: Instance | None) -> bool:
    return instance is not None and (candidate.instance_type, candidate.zone, candidate.market.value) == (
        instance.instance_type,
        instance.zone,
        instance.market,
    )

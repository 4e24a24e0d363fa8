"""Two witnesses -> how a job stands: what the machine left in storage, and what the cloud says of the machine. Pure."""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gitops_ml.agent.objects import Heartbeat, Lease
from gitops_ml.backends.aws_ec2.candidates import Candidate
from gitops_ml.backends.aws_ec2.leases import SLACK_S, terms_of
from gitops_ml.backends.base import JobState, Machine
from gitops_ml.values import dataclass

SUSPECT_S = 180.0
"""Silence after which it is shown."""
SILENT_S = 600.0
"""Silence after which a machine is given up."""
BOOT_S = 900.0
"""How long a machine may take to say something at all."""
UNSEEN_S = 90.0
"""How long a machine that was started may be missing from the cloud's answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine as EC2 describes it."""

    id: str
    state: str
    """pending, running, stopping, stopped, shutting-down or terminated."""
    reason: str
    """Code of EC2's reason for the state, such as Server.SpotInstanceTermination."""
    instance_type: str
    zone: str
    market: str
    launched_at: float
    ended_at: float | None
    """When it began to end, as far as EC2 says."""
    key: str
    attempt: int
    expires: str = ""
    """The tag that says until when it may live, as it stands there."""
    storage: str = ""
    """The tag that says in which storage its attempt is, see ``storage_digest``; empty: it carries none."""

    @property
    def live(self) -> bool:
        """It costs money, or may again."""
        return self.state in ("pending", "running", "stopping", "stopped")

    def is_of(self, lease: Lease) -> bool:
        """Say whether it is a machine of the lease's trial: in another storage the same key is another's."""
        return self.key == lease.key and self.storage == terms_of(lease).storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How far the asking for a machine is."""

    refused: tuple[str, ...] = ()
    """Each request that got none, with EC2's code."""
    started: str = ""
    """Id of the instance that a request got."""
    started_at: float = 0
    candidate: Candidate | None = None
    """What was started."""
    spent: bool = False
    """A request's token had its machine already, and that is gone."""
    busy_until: float = 0
    """Until then somebody may be asking."""
    retry_at: float = 0
    """When all are asked again; 0: nothing was refused yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that is known of an attempt. Times are Unix seconds."""

    lease: Lease
    now: float
    heartbeat: Heartbeat | None = None
    silent_s: float = 0
    """How long the heartbeat has not changed, as the one who looks has seen."""
    result: Mapping[str, Any] | None = None
    cancel: Mapping[str, Any] | None = None
    condemned: str | None = None
    """Why the machine was given up."""
    instance: Instance | None = None
    asking: Asking = Asking()
    written_at: float | None = None
    """When the machine wrote last, by the storage's clock; looked up where EC2 has forgotten the machine."""


class Act(enum.StrEnum):
    """What the one who looks does about it."""

    NOTHING = "nothing"
    END = "end"
    """End the machine: its work is over, or nobody wants it."""
    GIVE_UP = "give up"
    """Write down why, then end the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a job stands, and what is to be done about its machine."""

    state: JobState
    reason: str = ""
    machine: Machine = Machine.NONE
    act: Act = Act.NOTHING
    progress: str = ""


def verdict(seen: Seen) -> Verdict:
    """Return how the attempt stands."""
    machine = _machine(seen)
    if seen.result is not None:
        return _with_result(seen, seen.result, machine)
    if seen.cancel is not None:
        if machine is Machine.LIVE:
            return Verdict(state=JobState.COLLECTING, reason="being cancelled", machine=machine, act=Act.END)
        if machine is Machine.NONE and seen.asking.busy_until > seen.now:
            # A request may be under way; whose machine it gets is ended as soon as it is seen.
            return Verdict(state=JobState.COLLECTING, reason="being cancelled", machine=machine)
        return Verdict(state=JobState.CANCELLED, reason=_cancelled(seen.cancel), machine=machine)
    if seen.instance is None:
        return _without_machine(seen)
    if seen.instance.live:
        return _alive(seen, seen.instance)
    if machine is Machine.RELEASING:
        # A result may still come: what was in flight when the machine began to end.
        return Verdict(state=JobState.COLLECTING, reason="its machine is going", machine=machine)
    return _gone(seen, seen.instance)


def _machine(seen: Seen) -> Machine:
    if seen.instance is None:
        if seen.asking.started and seen.now - seen.asking.started_at < UNSEEN_S:
            return Machine.LIVE
        return Machine.GONE if seen.asking.started or seen.heartbeat is not None else Machine.NONE
    if seen.instance.live:
        return Machine.LIVE
    return Machine.RELEASING if seen.instance.state == "shutting-down" else Machine.GONE


def _with_result(seen: Seen, result: Mapping[str, Any], machine: Machine) -> Verdict:
    if machine in (Machine.LIVE, Machine.RELEASING):
        act = Act.END if machine is Machine.LIVE else Act.NOTHING
        progress = _short(result.get("progress"), 300)
        return Verdict(state=JobState.COLLECTING, machine=machine, act=act, progress=progress)
    try:
        state = JobState(str(result.get("outcome")))
    except ValueError:
        state = JobState.WAITING
    if not state.final:
        return Verdict(state=JobState.FAILED, reason="its result names no known outcome", machine=machine)
    cause = result.get("cause")
    if cause == "deadline":
        return _out_of_time(seen, machine)
    code = seen.instance.reason if seen.instance is not None else ""
    # All that the machine knows then is that it was to shut down.
    if cause == "shutdown" and seen.instance is not None and (seen.condemned is not None or code in _TOLD):
        return _gone(seen, seen.instance)
    return Verdict(
        state=state,
        reason=_short(result.get("reason"), 4000),
        machine=machine,
        progress=_short(result.get("progress"), 300),
    )


def _short(said: object, limit: int) -> str:
    """Return what a machine said; a training may have written it, and of any length."""
    return str(said or "")[:limit]


def _cancelled(cancel: Mapping[str, Any]) -> str:
    by = str(cancel.get("by") or "")
    return f"cancelled by {by}" if by else "cancelled"


def _without_machine(seen: Seen) -> Verdict:
    asking = seen.asking
    if seen.condemned is not None:
        return Verdict(state=JobState.LOST, reason=seen.condemned, machine=Machine.GONE)
    if seen.heartbeat is not None:
        # EC2 names a machine for an hour after its end: one that spoke just now is there, whatever is answered.
        if abs(seen.now - seen.heartbeat.at) < UNSEEN_S and seen.silent_s < UNSEEN_S:
            return Verdict(
                state=_state(seen.heartbeat), machine=Machine.LIVE, progress=_short(seen.heartbeat.progress, 300)
            )
        return Verdict(state=JobState.LOST, reason="its machine is gone and left no result", machine=Machine.GONE)
    if _machine(seen) is Machine.LIVE:
        return Verdict(state=JobState.STARTING, machine=Machine.LIVE)
    if asking.started:
        reason = f"its machine {asking.started} is gone and left no result"
        return Verdict(state=JobState.LOST, reason=reason, machine=Machine.GONE)
    if asking.spent:
        reason = "its machine was started and has ended already, without a result"
        return Verdict(state=JobState.LOST, reason=reason, machine=Machine.GONE)
    if seen.now > max(seen.lease.wait_until, asking.busy_until):
        tried = f"; tried: {_listed(asking.refused)}" if asking.refused else "; nothing could be asked"
        waited = max(0, round((seen.lease.wait_until - seen.lease.created_at) / 60))
        reason = f"no machine was to be had within max_wait ({waited} min){tried}"
        return Verdict(state=JobState.TIMED_OUT, reason=reason)
    last = f"waits for a machine: {asking.refused[-1]}" if asking.refused else ""
    return Verdict(state=JobState.WAITING, progress=last)


def _listed(refused: tuple[str, ...]) -> str:
    """Return the tries, each once with how often it was made."""
    counts: dict[str, int] = {}
    for one in refused:
        counts[one] = counts.get(one, 0) + 1
    return ", ".join(one if count == 1 else f"{one} ({count} times)" for one, count in counts.items())


def _alive(seen: Seen, instance: Instance) -> Verdict:
    def given_up(reason: str) -> Verdict:
        return Verdict(state=JobState.COLLECTING, reason=reason, machine=Machine.LIVE, act=Act.GIVE_UP)

    if seen.condemned is not None:
        return Verdict(state=JobState.COLLECTING, reason=seen.condemned, machine=Machine.LIVE, act=Act.END)
    age_s = seen.now - instance.launched_at
    if age_s > seen.lease.lifetime_min * 60 + SLACK_S:
        return given_up(f"its machine outlived its {seen.lease.lifetime_min} min")
    if instance.state in ("stopping", "stopped"):
        return given_up("its machine was stopped from outside")
    if seen.heartbeat is None:
        if age_s > BOOT_S:
            return given_up(f"its machine said nothing within {BOOT_S / 60:.0f} min of its start")
        return Verdict(state=JobState.STARTING, machine=Machine.LIVE)
    if seen.silent_s > SILENT_S:
        return given_up(f"its machine fell silent for {SILENT_S / 60:.0f} min")
    progress = _short(seen.heartbeat.progress, 300)
    if seen.silent_s > SUSPECT_S:
        progress = f"no sign of life for {seen.silent_s / 60:.0f} min; {progress}".removesuffix("; ")
    return Verdict(state=_state(seen.heartbeat), machine=Machine.LIVE, progress=progress)


def _state(heartbeat: Heartbeat) -> JobState:
    """Return the state that the machine names, as far as it is one that a living machine can have."""
    try:
        state = JobState(heartbeat.state)
    except ValueError:
        return JobState.RUNNING
    return JobState.COLLECTING if state.final else state


def _gone(seen: Seen, instance: Instance) -> Verdict:
    def over(state: JobState, reason: str) -> Verdict:
        return Verdict(state=state, reason=reason, machine=Machine.GONE)

    code = instance.reason
    if code in PREEMPTED:
        return over(JobState.PREEMPTED, f"AWS took the spot machine back ({code})")
    if seen.condemned is not None:
        return over(JobState.LOST, seen.condemned)
    if code in NEVER_RAN:
        state, words = NEVER_RAN[code]
        return over(state, f"{words} ({code})")
    lived_s = (instance.ended_at or seen.now) - instance.launched_at
    if code == "Client.InstanceInitiatedShutdown":
        if lived_s >= seen.lease.lifetime_min * 60 - 60:
            return _out_of_time(seen, Machine.GONE)
        return over(JobState.LOST, "its machine shut itself down and left no result")
    if code == _BY_SOMEBODY:
        return over(JobState.CANCELLED, "somebody ended its machine")
    if code.startswith("Client."):
        return over(JobState.FAILED, f"its machine could not be started ({code})")
    return over(JobState.LOST, f"its machine is gone and left no result ({code or 'no reason is given'})")


def _out_of_time(seen: Seen, machine: Machine) -> Verdict:
    by = terms_of(seen.lease).bounded_by
    state = JobState.OVER_BUDGET if by == "budget.max_cost" else JobState.TIMED_OUT
    reason = f"its machine reached its {seen.lease.lifetime_min} min, which {by} sets"
    return Verdict(state=state, reason=reason, machine=machine)


PREEMPTED = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")
_BY_SOMEBODY = "Client.UserInitiatedShutdown"
_TOLD = (*PREEMPTED, _BY_SOMEBODY)
# What EC2 finds out only after it has accepted the request.
NEVER_RAN: Mapping[str, tuple[JobState, str]] = {
    "Server.InsufficientInstanceCapacity": (JobState.LOST, "AWS had no such machine after all"),
    "Server.InternalError": (JobState.LOST, "AWS could not start the machine"),
    "Client.InternalError": (
        JobState.FAILED,
        "the machine could not be started, often for want of a right to a disk's key",
    ),
    "Client.VolumeLimitExceeded": (JobState.FAILED, "the account's quota of disks is used up"),
    "Client.InvalidSnapshot.NotFound": (JobState.FAILED, "the image's disk is not there"),
}


def time_of(seconds: object) -> datetime | None:
    """Return the moment; None for what is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None

"""How jobs stand: look at what both witnesses say, do what the verdict asks for, and write the end down."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gitops_ml.agent.objects import Heartbeat, Lease
from gitops_ml.backends.aws_ec2 import money
from gitops_ml.backends.aws_ec2.cloud import Cloud
from gitops_ml.backends.aws_ec2.endings import (
    Ending,
    began_at,
    ending_from,
    ending_to_json,
    hardware_of,
    remembered,
    usage_of,
)
from gitops_ml.backends.aws_ec2.journal import Journal, asking_of
from gitops_ml.backends.aws_ec2.leases import asked_of, terms_of
from gitops_ml.backends.aws_ec2.together import each
from gitops_ml.backends.aws_ec2.verdicts import Act, Asking, Instance, Seen, Verdict, time_of, verdict
from gitops_ml.backends.base import JobState, JobStatus, Machine

WATCH_S = (0.5, 5.0)
"""How long an answer is good: briefly at first, a twentieth of the time that nothing has changed later."""


class Watcher:
    """What one process knows of jobs, and how it finds out more."""

    def __init__(
        self,
        cloud_in: Callable[[str], Cloud],
        journal: Journal,
        *,
        repository: str,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._cloud_in = cloud_in
        self._journal = journal
        self._repository = repository
        self._now = now
        self._clock = clock
        self._watched: dict[str, Watched] = {}
        self._absent: set[str] = set()
        self._watching = threading.Lock()

    def watched(self, key: str) -> "Watched | None":
        """Return what is known of a job's newest attempt."""
        return self._watched.get(key)

    def look(self, keys: Sequence[str], *, anew: bool = False) -> dict[str, JobStatus]:
        """Return the jobs' states: of all machines in one question, of the objects side by side."""
        wanted = list(dict.fromkeys(keys))
        now = self._clock()
        due = [key for key in wanted if anew or (w := self._watched.get(key)) is None or now >= w.due_at]
        leases = {key: lease for key, lease in zip(due, each(self._current, due), strict=True) if lease is not None}
        pending = [key for key in leases if self._watched[key].ending is None]
        machines = self.machines([leases[key] for key in pending])

        def judge(key: str) -> None:
            watched = self._watched[key]
            status = self._status(watched, machines.get(key, []))
            now = self._clock()
            watched.changed_at = watched.changed_at if _alike(status, watched.status) else now
            watched.status = status
            watched.due_at = now + min(WATCH_S[1], max(WATCH_S[0], (now - watched.changed_at) * 0.05))

        each(judge, leases)
        known = {key: self._watched[key].status for key in wanted if key in self._watched}
        return {key: status for key, status in known.items() if status is not None}

    def _current(self, key: str) -> Lease | None:
        """Return the newest attempt's lease, and watch it."""
        watched = self._watched.get(key)
        if watched is not None and watched.ending is None:
            return watched.lease  # the next attempt begins only when this one is over
        lease = self._journal.newest(key, known=watched.lease.number if watched is not None else 0)
        if lease is not None:
            self.watch(lease)
            self.ending(lease)
        else:
            self._absent.add(key)
        return lease

    def was_absent(self, key: str) -> bool:
        """Say whether there was no attempt when it was last looked for; says so once."""
        absent = key in self._absent
        self._absent.discard(key)
        return absent

    def _status(self, watched: "Watched", machines: Sequence[Instance]) -> JobStatus | None:
        lease = watched.lease
        if watched.ending is not None:
            number, status = lease.number, watched.ending.status
            # It was refused and never ran: what is known is an attempt before it.
            while status is None and (number := number - 1) > 0:
                before = self._journal.lease(lease.key, number)
                earlier = self.ending(before) if before is not None else None
                status = earlier.status if earlier is not None else None
            return None if status is None else dataclasses.replace(status, asked=asked_of(lease))
        ours = [one for one in machines if one.attempt == lease.number]
        # Of several the one that we know stays, else the first: EC2 tells their times in whole seconds.
        known = [one for one in ours if one.id == watched.instance]
        instance = next((one for one in (*known, *ours) if one.live), ours[-1] if ours else None)
        for other in machines:
            # Somebody else may have seen this attempt's end, and be at the next one already.
            if other.live and other is not instance and other.attempt <= lease.number:
                self._cloud(lease).terminate(other.id)
        seen = self._seen(watched, instance)
        found = verdict(seen)
        self._act(found, seen)
        if found.state.final and found.machine in (Machine.GONE, Machine.NONE):
            return self._settled(found, seen)
        return self.as_status(found, seen)

    def _seen(self, watched: "Watched", instance: Instance | None) -> Seen:
        lease, journal = watched.lease, self._journal
        if instance is not None:
            watched.instance = instance.id
        heartbeat = journal.heartbeat(lease)
        return Seen(
            lease=lease,
            now=self._now(),
            heartbeat=heartbeat,
            silent_s=watched.silence(heartbeat, self._clock()),
            result=journal.document(lease, "result.json"),
            cancel=journal.document(lease, "cancel.json"),
            condemned=self._condemned(lease) if instance is None or not instance.live else None,
            instance=instance,
            asking=asking_of(lease, journal.turns(lease)) if instance is None and heartbeat is None else Asking(),
        )

    def _condemned(self, lease: Lease) -> str | None:
        found = self._journal.document(lease, "condemned.json")
        return None if found is None else str(found.get("reason") or "it was given up")

    def _act(self, found: Verdict, seen: Seen) -> None:
        if found.act is Act.NOTHING:
            return
        if found.act is Act.GIVE_UP:
            console = (
                self._cloud(seen.lease).console(seen.instance.id)
                if seen.instance is not None and not seen.heartbeat
                else ""
            )
            reason = f"{found.reason}; its console ends with:\n{console}" if console else found.reason
            data = json.dumps({"reason": reason, "at": seen.now}, sort_keys=True).encode()
            self._journal.create(self._journal.name(seen.lease, "condemned.json"), data)
        if machine := seen.instance.id if seen.instance is not None else seen.asking.started:
            self._cloud(seen.lease).terminate(machine)

    def as_status(self, found: Verdict, seen: Seen) -> JobStatus:
        result = seen.result if seen.result is not None and found.state.final else {}
        usage = usage_of(seen)
        instance = seen.instance
        code = result.get("exit_code")
        return JobStatus(
            key=seen.lease.key,
            state=found.state,
            reason=found.reason,
            exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
            attempt=seen.lease.number,
            started_at=began_at(seen, result),
            ended_at=_ended_at(seen, result) if found.state.final else None,
            cost_usd=_cost(seen, usage.usd_per_hour, usage.billed_s) if usage is not None else 0.0,
            hardware=hardware_of(result, instance.instance_type if instance is not None else ""),
            machine=found.machine,
            progress=found.progress,
            retry_at=time_of(max(seen.asking.retry_at, seen.now)) if found.state is JobState.WAITING else None,
            usage=usage,
            asked=asked_of(seen.lease),
        )

    def _settled(self, found: Verdict, seen: Seen) -> JobStatus:
        """Write the end down, once for all who ask later: the cloud forgets its machines."""
        lease = seen.lease
        seen = dataclasses.replace(seen, asking=asking_of(lease, self._journal.turns(lease)))
        known = seen.instance
        if known is None:
            written_at = self._journal.written_at(lease, "heartbeat.json", "result.json")
            seen = dataclasses.replace(seen, instance=remembered(seen), written_at=written_at)
        status = self.as_status(found, seen)
        if found.state is JobState.LOST and seen.heartbeat is None:
            boot = self._journal.document(lease, "boot.json")
            if boot is not None:
                reason = f"its machine could not start the agent: {boot.get('reason')}"
                if "403" in reason:
                    reason += "; allow s3:GetObject on the storage to the role of the machines"
                status = dataclasses.replace(status, reason=reason)
            elif known is not None and (console := self._cloud(lease).console(known.id)):
                status = dataclasses.replace(status, reason=f"{status.reason}; its console ends with:\n{console}")
        zone = seen.instance.zone if seen.instance is not None else ""
        data = ending_to_json(status, zone=zone, at=seen.now)
        self._journal.create(self._journal.name(lease, "ending.json"), data)
        ending = self.ending(lease)
        status = ending.status if ending is not None and ending.status is not None else status
        return dataclasses.replace(status, asked=asked_of(lease))

    def ending(self, lease: Lease) -> Ending | None:
        watched = self._watched.get(lease.key)
        if watched is not None and watched.lease.number == lease.number and watched.ending is not None:
            return watched.ending
        data = self._journal.document(lease, "ending.json")
        if data is None:
            return None
        ending = ending_from(lease.key, data)
        if watched is not None and watched.lease.number == lease.number:
            watched.ending = ending
        return ending

    def machines(self, leases: Iterable[Lease]) -> dict[str, list[Instance]]:
        """Return the machines of these trials by key, each looked for where its lease asks for it."""
        by_region: dict[str, dict[str, Lease]] = {}
        for lease in leases:
            by_region.setdefault(terms_of(lease).region, {})[lease.key] = lease
        found: dict[str, list[Instance]] = {}
        for region, of in by_region.items():
            for one in self._cloud_in(region).instances(self._repository, list(of)):
                if one.key in of and one.is_of(of[one.key]):
                    found.setdefault(one.key, []).append(one)
        return found

    def _cloud(self, lease: Lease) -> Cloud:
        return self._cloud_in(terms_of(lease).region)

    def watch(self, lease: Lease) -> "Watched":
        with self._watching:
            watched = self._watched.get(lease.key)
            if watched is None or watched.lease.number != lease.number:
                watched = self._watched[lease.key] = Watched(lease, self._clock())
            return watched

    def known_number(self, key: str) -> int:
        watched = self._watched.get(key)
        return watched.lease.number if watched is not None else 0

    def forget(self, key: str) -> None:
        if (watched := self._watched.get(key)) is not None:
            watched.due_at = 0.0


class Watched:
    """What this process knows of a job's newest attempt."""

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self.instance = ""
        self.ending: Ending | None = None
        self.status: JobStatus | None = None
        self.due_at = 0.0
        self.changed_at = now
        self._beat = 0
        self._beat_at = now

    def silence(self, heartbeat: Heartbeat | None, now: float) -> float:
        """Return how long the heartbeat has not changed before our eyes; its own times may be wrong."""
        beat = heartbeat.beat if heartbeat is not None else 0
        if beat != self._beat:
            self._beat, self._beat_at = beat, now
        return now - self._beat_at


def _alike(one: JobStatus | None, other: JobStatus | None) -> bool:
    """Say whether nothing has happened in between but that money was spent."""
    if one is None or other is None:
        return one is other
    return one == dataclasses.replace(other, usage=one.usage, cost_usd=one.cost_usd)


def _cost(seen: Seen, usd_per_hour: float | None, billed_s: float) -> float:
    if usd_per_hour is None:
        return 0.0
    return money.cost_usd(Decimal(str(usd_per_hour)), terms_of(seen.lease).disk_gib, billed_s)


def _ended_at(seen: Seen, result: Mapping[str, Any]) -> datetime:
    moments = [result.get("ended_at"), (seen.cancel or {}).get("at"), seen.instance and seen.instance.ended_at]
    found = next((moment for one in moments if (moment := time_of(one)) is not None), None)
    return found or datetime.fromtimestamp(seen.now, UTC)

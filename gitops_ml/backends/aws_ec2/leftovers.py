"""What outlived what it is for: machines, disks, interfaces, requests and objects of this repository, and no other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from gitops_ml.agent import objects
from gitops_ml.backends.aws_ec2.cloud import Cloud, Resource
from gitops_ml.backends.aws_ec2.journal import Journal
from gitops_ml.backends.aws_ec2.leases import terms_of
from gitops_ml.backends.aws_ec2.requests import TAG_EXPIRES, TAG_KEY
from gitops_ml.backends.aws_ec2.together import each
from gitops_ml.backends.aws_ec2.verdicts import Instance, time_of
from gitops_ml.backends.base import Job, Leftover

KEEP_S = 30 * 86_400.0
"""How long a job's objects stay after its last attempt must have ended."""
FLOOR_S = 600.0
"""What is younger is nobody's leftover: it may be about to be used."""


def leftovers(
    cloud_in: Callable[[str], Cloud],
    regions: Iterable[str],
    journal: Journal,
    repository: str,
    storage: str,
    jobs: Sequence[Job],
    now: datetime,
) -> Iterator[Leftover]:
    """Find what outlived what it is for, in these regions and in those where a known job may have a machine.

    What is past its time is found by the repository's tag alone: it may belong to a storage that is used no more, or
    come from a version that did not name one. Whether work is over earlier can be told of ``storage`` alone.
    """
    moment = now.timestamp()
    leases = dict(zip((job.key for job in jobs), each(lambda job: journal.newest(job.key), jobs), strict=True))
    used = {terms_of(lease).region for lease in leases.values() if lease is not None}
    live: set[str] = set()
    for region in sorted({*regions, *used}):
        yield from _in_region(cloud_in(region), journal, repository, storage, moment, live)
    for job in jobs:
        lease = leases[job.key]
        until = lease.expires_at if lease is not None else job.submitted_at.timestamp()
        if job.key not in live and moment > until + KEEP_S:
            yield Leftover(
                kind="objects in the storage",
                identity=f"jobs/{job.key}",
                key=job.key,
                since=time_of(until) or now,
                end=_sweep_of(journal, job.key),
            )


def _in_region(
    cloud: Cloud, journal: Journal, repository: str, storage: str, moment: float, live: set[str]
) -> Iterator[Leftover]:
    """Find machines, disks, interfaces and requests; the keys of all machines that live go into ``live``."""
    now = datetime.fromtimestamp(moment, UTC)
    for one in cloud.instances(repository):
        if not one.live:
            continue
        ours = one.storage in ("", storage)
        if ours:
            live.add(one.key)
        since = _expired(one.expires, one.launched_at, moment)
        if since is not None or (ours and _is_over(journal, one, moment)):
            yield Leftover(
                kind="machine",
                identity=f"{one.id} ({one.instance_type} in {one.zone}, {one.state})",
                key=one.key or None,
                since=time_of(since or one.launched_at) or now,
                end=_ending_of(cloud, one.id),
            )
    for resource in cloud.resources(repository):
        since = _expired(resource.tags.get(TAG_EXPIRES, ""), resource.created_at, moment)
        if since is not None:
            yield Leftover(
                kind=resource.kind,
                identity=resource.id,
                key=resource.tags.get(TAG_KEY),
                since=time_of(since) or now,
                end=_removal_of(cloud, resource),
            )


def _is_over(journal: Journal, one: Instance, now: float) -> bool:
    """Say whether a machine's attempt has ended, so that it stands there for nothing."""
    if now - one.launched_at < FLOOR_S or not one.key:
        return False
    lease = journal.lease(one.key, one.attempt)
    if lease is None:
        return False  # without the tag it may be of another storage's jobs; past its time it is found
    name = journal.name
    return any(journal.get(name(lease, part)) for part in ("result.json", "cancel.json", "ending.json"))


def _expired(expires: str, born_at: float | None, now: float) -> float | None:
    """Return since when something is overdue; None: it is not. Without a readable tag it may last for 8 days."""
    if born_at is not None and now - born_at < FLOOR_S:
        return None
    try:
        until = datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        if born_at is None:
            return None
        until = born_at + 8 * 86_400
    return until if now > until else None


def _ending_of(cloud: Cloud, machine: str) -> Callable[[], None]:
    return lambda: cloud.terminate(machine)


def _removal_of(cloud: Cloud, resource: Resource) -> Callable[[], None]:
    return lambda: cloud.remove(resource)


def _sweep_of(journal: Journal, key: str) -> Callable[[], None]:
    def sweep() -> None:
        # What says that there is something comes last: who is interrupted finds it again.
        journal.delete([*journal.names(f"jobs/{key}/"), objects.job(key)])

    return sweep

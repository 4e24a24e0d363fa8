"""Jobs on rented machines of AWS EC2: one machine per trial, which ends itself.

Needs ``pip install 'gitops-ml[aws]'``, credentials that boto3 finds, a bucket, and a role for the machines;
``docs/aws.md`` sets them up in one step, and ``gitops-ml doctor --backend aws-ec2`` says what is missing.

    storage: s3://acme-training/digits      # where machines and we meet
    backend: aws-ec2
    backends:
      aws-ec2:                              # all of it optional
        regions: [us-east-1]                # the first is used; else AWS_REGION
        image: /aws/service/...             # SSM parameter with the image's id; else NVIDIA's driver on Ubuntu 24.04
        ami: ami-0123abcd                   # or the image's id itself
        subnets: [subnet-0123abcd]          # else the default ones
        security_groups: [sg-0123abcd]      # else the default one
        instance_types: [g6.xlarge]         # the only ones to take, in this order; else the cheapest that fit
        instance_profile: gitops-ml-worker  # name or ARN of the machines' profile
        index_url: https://pypi.example/simple  # where packages come from the first time; else as the image says
        on_demand_fallback: true            # `spot: prefer` pays the full price when there is no spot machine
        prices: {g6.xlarge: 0.81 USD}       # per hour, instead of the catalog's

``resources`` choose the machine: GPU types in the order of the spec, of each the two cheapest instance types that
fit, in every zone that offers them; with ``spot: prefer`` or ``only`` first as spot machines, the cheapest zone first.
When none is to be had, they are asked for again after a minute, then less often, until ``budget.max_wait`` (1 h).

A machine ends itself ``budget.max_duration`` and 20 minutes after its boot, whatever happens: its first command says
so, and needs no network and no permission. Without ``max_duration`` that is the trial's share of ``budget.max_cost``,
else 24 h. Attempts of one trial share that time. So nothing costs more than ``plan`` said; what is lost to everybody
is found by ``gitops-ml gc``.

Secrets that a spec names are SSM parameters: ``/gitops-ml/REPOSITORY/NAME``, read by the machine alone.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gitops_ml import ci
from gitops_ml.agent import objects
from gitops_ml.agent.files import Lock
from gitops_ml.agent.objects import Heartbeat, Lease
from gitops_ml.backends.aws_ec2 import money, prices
from gitops_ml.backends.aws_ec2.candidates import Candidate, Market, candidates, fitting_types, markets
from gitops_ml.backends.aws_ec2.cloud import Cloud, Resource
from gitops_ml.backends.aws_ec2.endings import Ending, ending_from, ending_to_json, hardware_of, usage_of
from gitops_ml.backends.aws_ec2.journal import Journal, Turn, asking_of, lines
from gitops_ml.backends.aws_ec2.launching import Launcher, NoMachineError
from gitops_ml.backends.aws_ec2.leases import Terms, lease_for, secret_name, terms_of
from gitops_ml.backends.aws_ec2.permissions import Places
from gitops_ml.backends.aws_ec2.requests import TAG_EXPIRES, TAG_KEY
from gitops_ml.backends.aws_ec2.settings import DEFAULT_IMAGE, settings_from
from gitops_ml.backends.aws_ec2.verdicts import Act, Asking, Instance, Seen, Verdict, time_of, verdict
from gitops_ml.backends.base import Bundle, Context, Job, JobState, JobStatus, Leftover, Machine
from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError, TrialError, UserError
from gitops_ml.planning import Estimate, Trial

AT_A_TIME = 10
"""How many objects are read side by side: as many connections as botocore keeps."""
AVOID_S = 900.0
"""How long a zone is asked last that took a spot machine away."""
KEEP_S = 30 * 86_400.0
"""How long a job's objects stay after its last attempt must have ended."""
FLOOR_S = 600.0
"""What is younger is nobody's leftover: it may be about to be used."""
_WATCH_S = (0.5, 5.0)
_EXIT_S = 5.0
_T = TypeVar("_T")
_R = TypeVar("_R")


class AwsEc2Backend:
    """Runs each trial on a machine of its own."""

    far = True

    def __init__(
        self,
        context: Context,
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._context = context
        self._settings = settings_from(context.settings)
        self._wait = wait
        self._clock = clock
        self._journal = Journal(context.storage)
        environ = context.environ
        regions = self._settings.regions
        self._region = regions[0] if regions else environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
        self._cloud_ = Cloud(self._region, environ, clock=clock, wait=wait)
        self._launcher = Launcher(
            self._cloud_, self._journal, places=self._places(), now=self._now, wait=wait, jitter=jitter
        )
        self._watched: dict[str, _Watched] = {}
        self._watching = threading.Lock()
        self._uploaded: set[str] = set()

    # What the contract asks for

    def check(self) -> Iterator[Check]:
        """Look at account, permissions, quotas, image, network and bucket."""
        from gitops_ml.backends.aws_ec2.checks import checks

        context = self._context
        yield from checks(
            self._settings,
            context.environ,
            repository=context.repository,
            storage_uri=context.storage_uri,
            now=context.now,
        )

    def estimate(self, trial: Trial, *, live: bool = False) -> Estimate:
        """Return what the trial may cost, from the catalog; ``live``: at today's prices."""

        def price_of(names: Sequence[str]) -> prices.PriceOf:
            if not live:
                return prices.offline_prices(self._settings, self._region)
            spot = trial.experiment.resources.spot != "never"
            return prices.live_prices(self._settings, self._cloud, names, spot=spot)

        return prices.estimate(trial, self._settings, self._region, price_of)

    def submit(self, trial: Trial, bundle: Bundle) -> JobStatus:
        """Ask for a machine, unless an attempt is at work or has succeeded."""
        self._refuse(trial)
        folder = self._context.state / "aws-ec2"
        folder.mkdir(parents=True, exist_ok=True)
        # Of this checkout only one process at a time cares for a key: whose lock it is knows that no other is alive.
        with Lock(folder / f"{trial.key}.lock"):
            for _ in range(3):
                last = self._journal.newest(trial.key, known=self._known(trial.key))
                if last is not None:
                    ending = self._ending(last)
                    if ending is None:
                        self._help_on(last)
                    status = ending.status if ending is not None else self._look([trial.key], anew=True)[trial.key]
                    if status is not None and (not status.state.final or status.state is JobState.SUCCEEDED):
                        return status
                lease = self._lease(trial, bundle, last)
                if self._journal.create(self._journal.name(lease, "lease.json"), objects.to_json(lease)):
                    self._watch(lease)
                    turn = self._ask(lease, Turn(number=1, place=terms_of(lease).place, at=lease.created_at), [])
                    # Nothing that is worth asking for can have happened since.
                    seen = Seen(lease=lease, now=self._now(), asking=asking_of(lease, [turn]))
                    found = verdict(seen)
                    if not found.state.final:
                        return self._as_status(found, seen)
                    return self._look([trial.key], anew=True)[trial.key]
        raise ServiceError(f"the job {trial.key[:12]} is started again and again by somebody else; try again")

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        """Return how the known ones of the jobs stand; asks anew at most twice a second, and less often in time."""
        return self._look(keys)

    def jobs(self) -> Sequence[Job]:
        """Return the repository's jobs, oldest first."""

        def read(name: str) -> Job | None:
            key = name.removeprefix("known/")
            data = self._journal.get(objects.job(key))
            try:
                found = json.loads(data or b"")
                if found["repository"] != self._context.repository:
                    return None
                return Job(
                    key=key,
                    experiment=str(found["experiment"]),
                    seed=int(found["seed"]),
                    params=dict(found["params"]),
                    submitted_at=datetime.fromtimestamp(found["submitted_at"], UTC),
                )
            except (ValueError, KeyError, TypeError):
                return None

        found = [job for job in _each(read, self._journal.names("known/")) if job is not None]
        return sorted(found, key=lambda job: (job.submitted_at, job.key))

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        """Yield the newest attempt's lines."""
        lease = self._journal.newest(key, known=self._known(key))
        if lease is not None:
            yield from lines(self._pieces(lease, follow=follow))

    def collect(self, key: str, into: Path) -> None:
        """Bring the outputs that the result vouches for, each with the digest that it names."""
        lease = self._journal.newest(key, known=self._known(key))
        result = self._journal.document(lease, "result.json") if lease is not None else None
        if lease is None or result is None:
            raise TrialError(f"the job {key[:12]} left nothing to collect in the storage")
        into.mkdir(parents=True, exist_ok=True)

        def bring(entry: Any) -> None:
            path, digest = _checked(entry, key)
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._journal.get_file(self._journal.name(lease, f"outputs/{path}"), target):
                raise TrialError(f"the job {key[:12]} no longer has its output {path} in the storage")
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise TrialError(f"the output {path} of the job {key[:12]} is not what its machine sent")

        files = result.get("files")
        _each(bring, files if isinstance(files, list) else ())

    def cancel(self, key: str) -> None:
        """Say that nobody wants it any more, and end its machine. Two requests, and never more than five seconds."""
        watched = self._watched.get(key)
        lease = watched.lease if watched is not None else self._journal.newest(key)
        if lease is None or (watched.ending if watched is not None else self._ending(lease)) is not None:
            return
        marker = json.dumps({"by": self._owner(), "reason": f"cancelled by {self._owner()}", "at": self._now()})
        name = self._journal.name(lease, "cancel.json")
        found = watched.instance if watched is not None else None

        def end() -> None:
            machines = [found] if found else [one.id for one in self._machines([key]).get(key, ()) if one.live]
            for one in machines:
                self._cloud.terminate(one, quick=True)

        errors = _within(_EXIT_S, [lambda: self._journal.put(name, marker.encode()), end])
        self._forget(key)
        # One is enough: the machine looks for the marker, and without a machine nobody trains.
        if len(errors) == 2:
            raise errors[0]

    def leftovers(self, now: datetime) -> Iterator[Leftover]:
        """Find machines, disks, interfaces, requests and objects that outlived what they are for."""
        moment = now.timestamp()
        machines = self._cloud.instances(self._context.repository)
        for one in machines:
            since = _expired(one.expires, one.launched_at, moment)
            if one.live and (since is not None or self._is_over(one, moment)):
                yield Leftover(
                    kind="machine",
                    identity=f"{one.id} ({one.instance_type} in {one.zone}, {one.state})",
                    key=one.key or None,
                    since=time_of(since or one.launched_at) or now,
                    end=_ending_of(self._cloud, one.id),
                )
        for resource in self._cloud.resources(self._context.repository):
            since = _expired(resource.tags.get(TAG_EXPIRES, ""), resource.created_at, moment)
            if since is not None:
                yield Leftover(
                    kind=resource.kind,
                    identity=resource.id,
                    key=resource.tags.get(TAG_KEY),
                    since=time_of(since) or now,
                    end=_removal_of(self._cloud, resource),
                )
        live = {one.key for one in machines if one.live}
        for job in self.jobs():
            lease = self._journal.newest(job.key)
            until = lease.expires_at if lease is not None else job.submitted_at.timestamp()
            if job.key not in live and moment > until + KEEP_S:
                yield Leftover(
                    kind="objects in the storage",
                    identity=f"jobs/{job.key}",
                    key=job.key,
                    since=time_of(until) or now,
                    end=_sweep_of(self._journal, job.key),
                )

    # Before a machine is asked for

    @property
    def _cloud(self) -> Cloud:
        if not self._region:
            raise UserError(
                "backends.aws-ec2: no region is named; write `backends: {aws-ec2: {regions: [us-east-1]}}` in "
                "gitops-ml.yaml, or set AWS_REGION"
            )
        return self._cloud_

    def _refuse(self, trial: Trial) -> None:
        """Refuse what this backend cannot do, before anything is started."""
        experiment = trial.experiment
        if experiment.resources.nodes > 1:
            raise UserError(f"{experiment.path}: resources.nodes: the backend `aws-ec2` rents one machine per trial")
        if not (self._context.storage_uri or "").startswith("s3://"):
            raise UserError("gitops-ml.yaml: the backend `aws-ec2` needs `storage: s3://bucket/prefix`")
        if not self._context.repository:
            raise UserError("the backend `aws-ec2` needs to know whose jobs these are: add a remote to the repository")

    def _lease(self, trial: Trial, bundle: Bundle, last: Lease | None) -> Lease:
        """Make the next attempt's lease, and put into the storage what its machine will look for."""
        from gitops_ml.agent import archive

        experiment, settings = trial.experiment, self._settings
        secrets = {name: secret_name(self._context.repository, name) for name in experiment.environment.secrets}
        if missing := self._cloud.missing_secrets(list(secrets.values())):
            raise UserError(
                f"{experiment.path}: environment.secrets: there is no SSM parameter {', '.join(missing)} in "
                f"{self._region}; `aws ssm put-parameter --type SecureString --name NAME --value ...` makes it"
            )
        image = self._cloud.image(ami=settings.ami, parameter=settings.image or DEFAULT_IMAGE)
        asked = self._candidates(trial, self._endings_before(trial.key, last))
        gib = money.disk_gib(experiment, image.size_gib)
        hourly = prices.dearest_hourly([one.price for one in asked], gib)
        if hourly is None and experiment.budget.max_cost_usd is not None:
            raise UserError(
                f"{experiment.path}: budget.max_cost cannot be kept: the price of a machine in {self._region} is not "
                "known; write it to backends.aws-ec2.prices in gitops-ml.yaml"
            )
        limit = money.bound(experiment, hourly)
        used_s = [ending.billed_s for ending in self._endings_before(trial.key, last)]
        left = money.left_min(limit, used_s)
        if left < min(money.OVERHEAD_MIN, limit.lifetime_min) or left < 1:
            raise TrialError(
                f"{experiment.path}: of the {limit.total_min} min of machine time that {limit.by} allows the trial "
                f"{trial.key[:12]}, {max(0, left)} are left after {len(used_s)} attempts; raise the budget"
            )
        terms = Terms(
            region=self._region,
            image=image,
            disk_gib=gib,
            profile=settings.instance_profile,
            security_groups=settings.security_groups,
            candidates=asked,
            bounded_by=limit.by,
            worst_usd=None if hourly is None else money.worst_usd(limit, hourly),
            place=self._place(),
        )
        agent = archive.built()
        if agent.digest not in self._uploaded:
            if not self._journal.has(objects.agent(agent.digest)):
                self._journal.put(objects.agent(agent.digest), agent.data)
            self._uploaded.add(agent.digest)
        if bundle.digest not in self._uploaded:
            self._upload(bundle)
            self._uploaded.add(bundle.digest)
        now = self._now()
        if last is None:
            self._describe(trial, now)
        lease = lease_for(
            trial,
            last.number + 1 if last is not None else 1,
            terms,
            bound=money.Bound(lifetime_min=left, total_min=left, by=limit.by),
            bundle=bundle.digest,
            agent=agent.digest,
            repository=self._context.repository,
            owner=self._owner(),
            now=now,
            secrets=secrets,
        )
        return dataclasses.replace(lease, index_url=settings.index_url or "")

    def _candidates(self, trial: Trial, before: Sequence[Ending]) -> tuple[Candidate, ...]:
        experiment, settings = trial.experiment, self._settings
        types = fitting_types(experiment, settings)
        order = markets(experiment.resources, settings)
        names = [one.name for one in types]
        zones = self._cloud.zones(names, settings.subnets)
        price = prices.live_prices(settings, self._cloud, names, spot=Market.SPOT in order)
        since = self._now() - AVOID_S
        avoid = {ending.zone for ending in before if ending.preempted and ending.at > since}
        found = candidates(types, order, zones.__getitem__, price, key=trial.key, avoid=avoid)
        if not found:
            raise UserError(
                f"{experiment.path}: none of {', '.join(names)} is offered where there is a subnet of ours in "
                f"{self._region}; name other `subnets`, `instance_types` or `regions`"
            )
        return found

    def _upload(self, bundle: Bundle) -> None:
        name = objects.bundle(bundle.digest)
        if self._journal.has(name):
            return
        with bundle.open() as source, tempfile.NamedTemporaryFile(prefix="gitops-ml-") as spool:
            shutil.copyfileobj(source, spool, 1 << 20)
            spool.flush()
            self._journal.put_file(name, Path(spool.name))

    def _describe(self, trial: Trial, now: float) -> None:
        """Write down for people which trial it is."""
        document = {
            "repository": self._context.repository,
            "experiment": trial.experiment.name,
            "seed": trial.seed,
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in trial.params.items()},
            "submitted_at": now,
        }
        self._journal.create(objects.job(trial.key), json.dumps(document, sort_keys=True).encode())
        self._journal.put(f"known/{trial.key}", b"")

    def _endings_before(self, key: str, last: Lease | None) -> list[Ending]:
        numbers = range(1, last.number + 1) if last is not None else ()
        leases = [lease for number in numbers if (lease := self._journal.lease(key, number)) is not None]
        return [ending for lease in leases if (ending := self._ending(lease)) is not None]

    # Asking for one

    def _help_on(self, lease: Lease) -> None:
        """Go on asking for the attempt's machine if nobody else does. The lock on its key is ours."""
        name = self._journal.name
        if any(self._journal.get(name(lease, part)) for part in ("heartbeat.json", "result.json", "cancel.json")):
            return
        turns = self._journal.turns(lease)
        last, now = turns[-1], self._now()
        if any(turn.started or turn.spent for turn in turns) or now > lease.wait_until:
            return
        # Its holder was of this checkout, and does not hold the lock that we have: it is dead.
        orphaned = not last.closed and last.place == self._place()
        if now < last.free_at() and not orphaned:
            return
        if self._machines([lease.key]).get(lease.key):
            return
        turn = self._journal.open_turn(lease, last.number + 1, self._place(), now)
        if turn is not None:
            self._ask(lease, turn, turns)

    def _ask(self, lease: Lease, turn: Turn, earlier: list[Turn]) -> Turn:
        """Use the turn and return how far it came."""
        from gitops_ml.agent.bootstrap import user_data

        try:
            text = user_data(lease, self._context.storage_uri or "", self._region)
        except ValueError as error:
            raise UserError(f"gitops-ml.yaml: storage: {error}") from error
        try:
            done = self._launcher.ask(lease, text, turn, earlier)
        except NoMachineError as refused:
            self._close(lease, refused.error)
            raise refused.error from refused
        if done.started:
            self._watch(lease).instance = done.started
        return done

    def _close(self, lease: Lease, error: UserError) -> None:
        """Write down that the attempt was refused and has no machine, so that the next submission starts another."""
        self._journal.create(
            self._journal.name(lease, "ending.json"),
            json.dumps({"refused": str(error), "at": self._now()}, sort_keys=True).encode(),
        )
        self._ending(lease)

    # How jobs stand

    def _look(self, keys: Sequence[str], *, anew: bool = False) -> dict[str, JobStatus]:
        """Return the jobs' states: of all machines in one question, of the objects side by side."""
        wanted = list(dict.fromkeys(keys))
        now = self._clock()
        due = [key for key in wanted if anew or (w := self._watched.get(key)) is None or now >= w.due_at]
        leases = {key: lease for key, lease in zip(due, _each(self._current, due), strict=True) if lease is not None}
        pending = [key for key in leases if self._watched[key].ending is None]
        machines = self._machines(pending) if pending else {}

        def judge(key: str) -> None:
            watched = self._watched[key]
            status = self._status(watched, machines.get(key, []))
            now = self._clock()
            watched.changed_at = watched.changed_at if _alike(status, watched.status) else now
            watched.status = status
            watched.due_at = now + min(_WATCH_S[1], max(_WATCH_S[0], (now - watched.changed_at) * 0.05))

        _each(judge, leases)
        known = {key: self._watched[key].status for key in wanted if key in self._watched}
        return {key: status for key, status in known.items() if status is not None}

    def _current(self, key: str) -> Lease | None:
        """Return the newest attempt's lease, and watch it."""
        watched = self._watched.get(key)
        if watched is not None and watched.ending is None:
            return watched.lease  # the next attempt begins only when this one is over
        lease = self._journal.newest(key, known=watched.lease.number if watched is not None else 0)
        if lease is not None:
            self._watch(lease)
            self._ending(lease)
        return lease

    def _machines(self, keys: Sequence[str]) -> dict[str, list[Instance]]:
        found: dict[str, list[Instance]] = {}
        for one in self._cloud.instances(self._context.repository, keys):
            found.setdefault(one.key, []).append(one)
        return found

    def _status(self, watched: "_Watched", machines: Sequence[Instance]) -> JobStatus | None:
        lease = watched.lease
        if watched.ending is not None:
            number, status = lease.number, watched.ending.status
            # It was refused and never ran: what is known is an attempt before it.
            while status is None and (number := number - 1) > 0:
                before = self._journal.lease(lease.key, number)
                earlier = self._ending(before) if before is not None else None
                status = earlier.status if earlier is not None else None
            return status
        ours = [one for one in machines if one.attempt == lease.number]
        instance = next((one for one in ours if one.live), ours[-1] if ours else None)
        for other in machines:
            if other.live and other is not instance:
                self._cloud.terminate(other.id)
        seen = self._seen(watched, instance)
        found = verdict(seen)
        self._act(found, seen)
        if found.state.final and found.machine in (Machine.GONE, Machine.NONE):
            return self._settled(found, seen)
        return self._as_status(found, seen)

    def _seen(self, watched: "_Watched", instance: Instance | None) -> Seen:
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
            console = self._cloud.console(seen.instance.id) if seen.instance is not None and not seen.heartbeat else ""
            reason = f"{found.reason}; its console ends with:\n{console}" if console else found.reason
            data = json.dumps({"reason": reason, "at": seen.now}, sort_keys=True).encode()
            self._journal.create(self._journal.name(seen.lease, "condemned.json"), data)
        if machine := seen.instance.id if seen.instance is not None else seen.asking.started:
            self._cloud.terminate(machine)

    def _as_status(self, found: Verdict, seen: Seen) -> JobStatus:
        result = seen.result if seen.result is not None and found.state.final else {}
        usage = usage_of(seen)
        instance = seen.instance
        started = result.get("training_started_at") or result.get("started_at")
        if started is None:
            started = instance.launched_at if instance is not None else None
        code = result.get("exit_code")
        return JobStatus(
            key=seen.lease.key,
            state=found.state,
            reason=found.reason,
            exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
            attempt=seen.lease.number,
            started_at=time_of(started),
            ended_at=_ended_at(seen, result) if found.state.final else None,
            cost_usd=_cost(seen, usage.usd_per_hour, usage.billed_s) if usage is not None else 0.0,
            hardware=hardware_of(result, instance.instance_type if instance is not None else ""),
            machine=found.machine,
            progress=found.progress,
            retry_at=time_of(max(seen.asking.retry_at, seen.now)) if found.state is JobState.WAITING else None,
            usage=usage,
        )

    def _settled(self, found: Verdict, seen: Seen) -> JobStatus:
        """Write the end down, once for all who ask later: the cloud forgets its machines."""
        lease = seen.lease
        seen = dataclasses.replace(seen, asking=asking_of(lease, self._journal.turns(lease)))
        status = self._as_status(found, seen)
        if found.state is JobState.LOST and seen.heartbeat is None:
            boot = self._journal.document(lease, "boot.json")
            if boot is not None:
                reason = f"its machine could not start the agent: {boot.get('reason')}"
                status = dataclasses.replace(status, reason=reason)
        zone = seen.instance.zone if seen.instance is not None else ""
        data = ending_to_json(status, zone=zone, at=seen.now)
        self._journal.create(self._journal.name(lease, "ending.json"), data)
        ending = self._ending(lease)
        return ending.status if ending is not None and ending.status is not None else status

    def _ending(self, lease: Lease) -> Ending | None:
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

    def _is_over(self, one: Instance, now: float) -> bool:
        """Say whether a machine's attempt has ended, so that it stands there for nothing."""
        if now - one.launched_at < FLOOR_S or not one.key:
            return False
        lease = self._journal.lease(one.key, one.attempt)
        if lease is None:
            return True
        name = self._journal.name
        return any(self._journal.get(name(lease, part)) for part in ("result.json", "cancel.json", "ending.json"))

    # Logs

    def _pieces(self, lease: Lease, *, follow: bool) -> Iterator[bytes]:
        """Yield the log's pieces; each says where the next one begins, so that nothing is lost or comes twice."""
        offset = 0
        names = self._journal.names(self._journal.name(lease, "logs/"))
        for group in _batches(names):
            for piece in _each(self._journal.get, group):
                if piece:
                    offset += len(piece)
                    yield piece
        while follow:
            over = self._look([lease.key]).get(lease.key)
            is_over = over is None or over.state.final or over.attempt != lease.number
            got = False
            while piece := self._journal.get(objects.log_piece(lease.key, lease.number, offset)):
                offset += len(piece)
                got = True
                yield piece
            if is_over:
                return
            if not got:
                self._wait(_WATCH_S[0])

    # Small things

    def _watch(self, lease: Lease) -> "_Watched":
        with self._watching:
            watched = self._watched.get(lease.key)
            if watched is None or watched.lease.number != lease.number:
                watched = self._watched[lease.key] = _Watched(lease, self._clock())
            return watched

    def _known(self, key: str) -> int:
        watched = self._watched.get(key)
        return watched.lease.number if watched is not None else 0

    def _forget(self, key: str) -> None:
        if (watched := self._watched.get(key)) is not None:
            watched.due_at = 0.0

    def _now(self) -> float:
        return self._context.now().timestamp()

    def _place(self) -> str:
        return f"{socket.gethostname()}:{self._context.state.absolute()}"

    def _owner(self) -> str:
        context = ci.context(self._context.environ)
        if context is not None and context.run_url:
            return context.run_url
        return f"{self._context.environ.get('USER') or os.getuid()} at {socket.gethostname()}"

    def _places(self) -> Places:
        bucket, _, prefix = (self._context.storage_uri or "").removeprefix("s3://").partition("?")[0].partition("/")
        return Places(
            repository=self._context.repository or "ORG/REPO", bucket=bucket or "BUCKET", prefix=prefix.strip("/")
        )


class _Watched:
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


def _checked(entry: Any, key: str) -> tuple[str, str]:
    """Return an output's path and digest. Whoever trained may have written what stands there."""
    if isinstance(entry, dict):
        path, digest = entry.get("path"), entry.get("sha256")
        if isinstance(path, str) and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
            parts = PurePosixPath(path).parts
            if path and "\0" not in path and ".." not in parts and not path.startswith("/") and "//" not in path:
                return path, digest
    raise TrialError(f"the job {key[:12]} names an output that is no file below its workdir")


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
        journal.delete([*journal.names(f"jobs/{key}/"), f"known/{key}"])

    return sweep


def _each(call: Callable[[_T], _R], of: Iterable[_T]) -> list[_R]:
    """Return the answers in order; the calls go side by side."""
    items = list(of)
    if len(items) < 2:
        return [call(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(min(AT_A_TIME, len(items))) as pool:
        return list(pool.map(call, items))


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + AT_A_TIME] for start in range(0, len(names), AT_A_TIME))


def _within(seconds: float, calls: Sequence[Callable[[], None]]) -> list[UserError]:
    """Make the calls side by side, wait no longer than that, and return what failed."""
    errors: list[UserError] = []

    def attempt(call: Callable[[], None]) -> None:
        try:
            call()
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(errors)

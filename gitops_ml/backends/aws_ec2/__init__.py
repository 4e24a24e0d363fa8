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

import functools
import hashlib
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from gitops_ml import aws, ci
from gitops_ml.agent import objects
from gitops_ml.agent.files import Lock
from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2 import prices
from gitops_ml.backends.aws_ec2.cloud import Cloud
from gitops_ml.backends.aws_ec2.journal import Journal, Turn, asking_of, lines
from gitops_ml.backends.aws_ec2.launching import Launcher, NoMachineError
from gitops_ml.backends.aws_ec2.leases import storage_digest, terms_of
from gitops_ml.backends.aws_ec2.leftovers import leftovers
from gitops_ml.backends.aws_ec2.permissions import Places
from gitops_ml.backends.aws_ec2.preparing import Preparer
from gitops_ml.backends.aws_ec2.settings import settings_from
from gitops_ml.backends.aws_ec2.together import AT_A_TIME, each, within
from gitops_ml.backends.aws_ec2.verdicts import Seen, verdict
from gitops_ml.backends.aws_ec2.watching import WATCH_S, Watcher
from gitops_ml.backends.base import Bundle, Context, Job, JobState, JobStatus, Leftover
from gitops_ml.diagnostics import Check
from gitops_ml.errors import ServiceError, TrialError, UserError
from gitops_ml.planning import Estimate, Trial

_EXIT_S = 5.0


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
        self._jitter = jitter
        self._cloud_in = functools.cache(lambda region: Cloud(region, environ, clock=clock, wait=wait))
        self._watcher = Watcher(
            self._cloud_in, self._journal, repository=context.repository, now=self._now, clock=clock
        )
        self._preparer = Preparer(
            context,
            self._settings,
            lambda: self._cloud,
            self._journal,
            ending_of=self._watcher.ending,
            place=self._place(),
            owner=self._owner(),
        )

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
        self._preparer.refuse(trial)
        folder = self._context.state / "aws-ec2"
        folder.mkdir(parents=True, exist_ok=True)
        # Of this checkout only one process at a time cares for a key: whose lock it is knows that no other is alive.
        with Lock(folder / f"{trial.key}.lock"):
            for _ in range(3):
                number = self._watcher.known_number(trial.key)
                # What was not there a moment ago is not looked for again: creating the lease shows if it is now.
                last = None if self._watcher.was_absent(trial.key) else self._journal.newest(trial.key, known=number)
                if last is not None:
                    ending = self._watcher.ending(last)
                    if ending is None:
                        self._help_on(last)
                    status = (
                        ending.status if ending is not None else self._watcher.look([trial.key], anew=True)[trial.key]
                    )
                    if status is not None and (not status.state.final or status.state is JobState.SUCCEEDED):
                        return status
                lease = self._preparer.lease(trial, bundle, last)
                if self._journal.create(self._journal.name(lease, "lease.json"), objects.to_json(lease)):
                    self._watcher.watch(lease)
                    turn = self._ask(lease, Turn(number=1, place=terms_of(lease).place, at=lease.created_at), [])
                    # Nothing that is worth asking for can have happened since.
                    seen = Seen(lease=lease, now=self._now(), asking=asking_of(lease, [turn]))
                    found = verdict(seen)
                    if not found.state.final:
                        return self._watcher.as_status(found, seen)
                    return self._watcher.look([trial.key], anew=True)[trial.key]
        raise ServiceError(f"the job {trial.key[:12]} is started again and again by somebody else; try again")

    def poll(self, keys: Sequence[str]) -> Mapping[str, JobStatus]:
        """Return how the known ones of the jobs stand; asks anew at most twice a second, and less often in time."""
        return self._watcher.look(keys)

    def jobs(self, key: str = "") -> Sequence[Job]:
        """Return the repository's jobs whose keys begin so, oldest first."""

        def read(name: str) -> Job | None:
            whole = name.removeprefix("known/").removesuffix(".json")
            data = self._journal.get(name)
            try:
                found = json.loads(data or b"")
                if found["repository"] != self._context.repository:
                    return None
                return Job(
                    key=whole,
                    experiment=str(found["experiment"]),
                    seed=int(found["seed"]),
                    params=dict(found["params"]),
                    submitted_at=datetime.fromtimestamp(found["submitted_at"], UTC),
                )
            except (ValueError, KeyError, TypeError):
                return None

        found = [job for job in each(read, self._journal.names(f"known/{key}")) if job is not None]
        return sorted(found, key=lambda job: (job.submitted_at, job.key))

    def logs(self, key: str, *, follow: bool) -> Iterator[str]:
        """Yield the newest attempt's lines."""
        lease = self._journal.newest(key, known=self._watcher.known_number(key))
        if lease is not None:
            yield from lines(self._pieces(lease, follow=follow))

    def collect(self, key: str, into: Path) -> None:
        """Bring the outputs that the result vouches for, each with the digest that it names."""
        lease = self._journal.newest(key, known=self._watcher.known_number(key))
        result = self._journal.document(lease, "result.json") if lease is not None else None
        if lease is None or result is None:
            raise TrialError(f"the job {key[:12]} left nothing to collect in the storage")
        into.mkdir(parents=True, exist_ok=True)

        def bring(entry: Any) -> None:
            path, digest = _checked(entry, key)
            target = into / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:  # one output below another, or a name that no disk takes
                raise TrialError(
                    f"the output {path[:200]} of the job {key[:12]} cannot be written here: {error.strerror}"
                ) from error
            if not self._journal.get_file(self._journal.name(lease, f"outputs/{path}"), target):
                raise TrialError(f"the job {key[:12]} no longer has its output {path} in the storage")
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise TrialError(f"the output {path} of the job {key[:12]} is not what its machine sent")

        files = result.get("files")
        each(bring, files if isinstance(files, list) else ())

    def cancel(self, key: str) -> None:
        """Say that nobody wants it any more, and end its machine. Two requests, and never more than five seconds."""
        watched = self._watcher.watched(key)
        lease = watched.lease if watched is not None else self._journal.newest(key)
        if lease is None or (watched.ending if watched is not None else self._watcher.ending(lease)) is not None:
            return
        marker = json.dumps({"by": self._owner(), "reason": f"cancelled by {self._owner()}", "at": self._now()})
        name = self._journal.name(lease, "cancel.json")
        found = watched.instance if watched is not None else None

        def end() -> None:
            known = () if found else self._watcher.machines([lease]).get(key, ())
            for one in [found] if found else [one.id for one in known if one.live]:
                self._cloud_in(terms_of(lease).region).terminate(one, quick=True)

        errors = within(_EXIT_S, [lambda: self._journal.put(name, marker.encode()), end])
        self._watcher.forget(key)
        # One is enough: the machine looks for the marker, and without a machine nobody trains.
        if len(errors) == 2:
            raise errors[0]

    def leftovers(self, now: datetime) -> Iterator[Leftover]:
        """Find machines, disks, interfaces, requests and objects that outlived what they are for."""
        right = now + timedelta(seconds=aws.clock_offset_s())
        regions = {self._cloud.region, *self._settings.regions}
        context = self._context
        storage = storage_digest(context.storage_uri or "")
        yield from leftovers(self._cloud_in, regions, self._journal, context.repository, storage, self.jobs(), right)

    @property
    def _cloud(self) -> Cloud:
        if not self._region:
            raise UserError(
                "backends.aws-ec2: no region is named; write `backends: {aws-ec2: {regions: [us-east-1]}}` in "
                "gitops-ml.yaml, or set AWS_REGION"
            )
        return self._cloud_in(self._region)

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
        if any(one.attempt == lease.number for one in self._watcher.machines([lease]).get(lease.key, ())):
            return
        turn = self._journal.open_turn(lease, last.number + 1, self._place(), now)
        if turn is not None:
            self._ask(lease, turn, turns)

    def _ask(self, lease: Lease, turn: Turn, earlier: list[Turn]) -> Turn:
        """Use the turn and return how far it came."""
        from gitops_ml.agent.bootstrap import user_data

        region = terms_of(lease).region
        try:
            text = user_data(lease, self._context.storage_uri or "", region)
        except ValueError as error:
            raise UserError(f"gitops-ml.yaml: storage: {error}") from error
        try:
            done = Launcher(
                self._cloud_in(region),
                self._journal,
                places=self._places(),
                now=self._now,
                wait=self._wait,
                jitter=self._jitter,
            ).ask(lease, text, turn, earlier)
        except NoMachineError as refused:
            self._close(lease, refused.error)
            raise refused.error from refused
        if done.started:
            self._watcher.watch(lease).instance = done.started
        return done

    def _close(self, lease: Lease, error: UserError) -> None:
        """Write down that the attempt was refused and has no machine, so that the next submission starts another."""
        self._journal.create(
            self._journal.name(lease, "ending.json"),
            json.dumps({"refused": str(error), "at": self._now()}, sort_keys=True).encode(),
        )
        self._watcher.ending(lease)

    # Logs

    def _pieces(self, lease: Lease, *, follow: bool) -> Iterator[bytes]:
        """Yield the log's pieces; each says where the next one begins, so that nothing is lost or comes twice."""
        offset = 0
        names = self._journal.names(self._journal.name(lease, "logs/"))
        for group in _batches(names):
            for piece in each(self._journal.get, group):
                if piece:
                    offset += len(piece)
                    yield piece
        while follow:
            over = self._watcher.look([lease.key]).get(lease.key)
            is_over = over is None or over.state.final or over.attempt != lease.number
            got = False
            while piece := self._journal.get(objects.log_piece(lease.key, lease.number, offset)):
                offset += len(piece)
                got = True
                yield piece
            if is_over:
                return
            if not got:
                self._wait(WATCH_S[0])

    # Small things

    def _now(self) -> float:
        # As AWS says that it is, where this machine's clock is so wrong that a request was refused.
        return self._context.now().timestamp() + aws.clock_offset_s()

    def _place(self) -> str:
        return f"{socket.gethostname()}:{_boot()}:{self._context.state.absolute()}"

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


def _boot() -> str:
    """Return what tells this machine from others of the same name, as those of a CI service are; empty: nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _checked(entry: Any, key: str) -> tuple[str, str]:
    """Return an output's path and digest. Whoever trained may have written what stands there."""
    if isinstance(entry, dict):
        path, digest = entry.get("path"), entry.get("sha256")
        if isinstance(path, str) and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
            parts = PurePosixPath(path).parts
            if path and "\0" not in path and ".." not in parts and not path.startswith("/") and "//" not in path:
                return path, digest
    raise TrialError(f"the job {key[:12]} names an output that is no file below its workdir")


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + AT_A_TIME] for start in range(0, len(names), AT_A_TIME))

"""What precedes a machine: refuse what cannot be, find candidates and prices, bring the trial into the storage."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gitops_ml import aws
from gitops_ml.agent import objects
from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2 import money, prices
from gitops_ml.backends.aws_ec2.candidates import Candidate, Market, candidates, fitting_types, markets
from gitops_ml.backends.aws_ec2.cloud import Cloud
from gitops_ml.backends.aws_ec2.endings import Ending
from gitops_ml.backends.aws_ec2.journal import Journal
from gitops_ml.backends.aws_ec2.leases import Terms, lease_for, secret_name, storage_digest
from gitops_ml.backends.aws_ec2.settings import DEFAULT_IMAGE, Settings
from gitops_ml.backends.base import Bundle, Context
from gitops_ml.datasets import CREDENTIALS
from gitops_ml.errors import TrialError, UserError
from gitops_ml.planning import Trial

AVOID_S = 900.0
"""How long a zone is asked last that took a spot machine away."""
UPLOADED_S = 86_400.0
"""How long an object that was there is taken to be there; the bucket's rules delete after a week at the earliest."""


class Preparer:
    """One process's preparing of attempts; what was uploaded once is not looked for again."""

    def __init__(
        self,
        context: Context,
        settings: Settings,
        cloud: Callable[[], Cloud],
        journal: Journal,
        *,
        ending_of: Callable[[Lease], Ending | None],
        place: str,
        owner: str,
    ) -> None:
        self._context = context
        self._settings = settings
        self._cloud = cloud
        self._journal = journal
        self._ending_of = ending_of
        self._place = place
        self._owner = owner
        self._uploaded: dict[str, float] = {}
        """Name of an object -> when we last knew that it was there."""

    def refuse(self, trial: Trial) -> None:
        """Refuse what this backend cannot do, before anything is started."""
        experiment = trial.experiment
        if experiment.resources.nodes > 1:
            raise UserError(f"{experiment.path}: resources.nodes: the backend `aws-ec2` rents one machine per trial")
        if not (self._context.storage_uri or "").startswith("s3://"):
            raise UserError("gitops-ml.yaml: the backend `aws-ec2` needs `storage: s3://bucket/prefix`")
        if not self._context.repository:
            raise UserError("the backend `aws-ec2` needs to know whose jobs these are: add a remote to the repository")

    def lease(self, trial: Trial, bundle: Bundle, last: Lease | None) -> Lease:
        """Make the next attempt's lease, and put into the storage what its machine will look for."""
        from gitops_ml.agent import archive

        experiment, settings = trial.experiment, self._settings
        secrets = {name: secret_name(self._context.repository, name) for name in experiment.environment.secrets}
        missing = self._cloud().missing_secrets(list(secrets.values()))
        if missing:
            raise UserError(
                f"{experiment.path}: environment.secrets: there is no SSM parameter {', '.join(missing)} in "
                f"{self._region}; `aws ssm put-parameter --type SecureString --name NAME --value ...` makes it"
            )
        secrets |= self._for_data(bundle)
        image = self._cloud().image(ami=settings.ami, parameter=settings.image or DEFAULT_IMAGE)
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
            place=self._place,
            storage=storage_digest(self._context.storage_uri or ""),
        )
        agent = archive.built()
        # The attempt before may have ended because one was gone: the bucket's rules delete what is old.
        anew = last is not None
        name = objects.agent(agent.digest)
        self._uploaded_once(name, lambda: self._journal.put(name, agent.data), anew=anew)
        name_of_bundle = objects.bundle(bundle.digest)
        self._uploaded_once(name_of_bundle, lambda: self._upload(name_of_bundle, bundle), anew=anew)
        now = self._now()
        self._describe(trial, now)
        lease = lease_for(
            trial,
            last.number + 1 if last is not None else 1,
            terms,
            bound=money.Bound(lifetime_min=left, total_min=left, by=limit.by),
            bundle=bundle.digest,
            agent=agent.digest,
            repository=self._context.repository,
            owner=self._owner,
            now=now,
            secrets=secrets,
            asked=bundle.asked,
        )
        return dataclasses.replace(lease, index_url=settings.index_url or "")

    def _for_data(self, bundle: Bundle) -> dict[str, str]:
        """Return where the credentials are that fetching data may need, of those that are there; S3's is the role."""
        names = sorted(name for name in CREDENTIALS.intersection(bundle.variables) if not name.startswith("AWS_"))
        places = {name: secret_name(self._context.repository, name) for name in names}
        absent = self._cloud().missing_secrets(list(places.values()))
        return {name: place for name, place in places.items() if place not in absent}

    def _candidates(self, trial: Trial, before: Sequence[Ending]) -> tuple[Candidate, ...]:
        experiment, settings = trial.experiment, self._settings
        types = fitting_types(experiment, settings)
        order = markets(experiment.resources, settings)
        names = [one.name for one in types]
        zones = self._cloud().zones(names, settings.subnets)
        price = prices.live_prices(settings, self._cloud(), names, spot=Market.SPOT in order)
        since = self._now() - AVOID_S
        avoid = {ending.zone for ending in before if ending.preempted and ending.at > since}
        found = candidates(types, order, zones.__getitem__, price, key=trial.key, avoid=avoid)
        if not found:
            raise UserError(
                f"{experiment.path}: none of {', '.join(names)} is offered where there is a subnet of ours in "
                f"{self._region}; name other `subnets`, `instance_types` or `regions`"
            )
        return found

    def _uploaded_once(self, name: str, upload: Callable[[], None], *, anew: bool) -> None:
        """See that an object is there; ``anew``: look also if it was there a moment ago."""
        if anew or self._now() - self._uploaded.get(name, 0) > UPLOADED_S:
            if not self._journal.has(name):
                upload()
            self._uploaded[name] = self._now()

    def _upload(self, name: str, bundle: Bundle) -> None:
        with bundle.open() as source, tempfile.NamedTemporaryFile(prefix="gitops-ml-") as spool:
            shutil.copyfileobj(source, spool, 1 << 20)
            spool.flush()
            self._journal.put_file(name, Path(spool.name))

    def _describe(self, trial: Trial, now: float) -> None:
        """Write down for people which trial it is; with each attempt anew, so that it is no older than those."""
        document = {
            "repository": self._context.repository,
            "experiment": trial.experiment.name,
            "seed": trial.seed,
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in trial.params.items()},
            "submitted_at": now,
        }
        self._journal.put(objects.job(trial.key), json.dumps(document, sort_keys=True).encode())

    def _endings_before(self, key: str, last: Lease | None) -> list[Ending]:
        numbers = range(1, last.number + 1) if last is not None else ()
        leases = [lease for number in numbers if (lease := self._journal.lease(key, number)) is not None]
        return [ending for lease in leases if (ending := self._ending_of(lease)) is not None]

    @property
    def _region(self) -> str:
        return self._cloud().region

    def _now(self) -> float:
        return self._context.now().timestamp() + aws.clock_offset_s()

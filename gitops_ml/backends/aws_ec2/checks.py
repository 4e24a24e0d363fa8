"""What ``doctor`` asks AWS: who we are, what we may do, and whether a machine can be had, each with the exact fix.

Nothing is started and nothing is left: permissions are tried with ``DryRun``, conditional writes with an object that is
removed again.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gitops_ml import aws
from gitops_ml.backends.aws_ec2 import permissions
from gitops_ml.backends.aws_ec2.candidates import Market
from gitops_ml.backends.aws_ec2.catalog import InstanceType, catalog, family_of, gpus
from gitops_ml.backends.aws_ec2.cloud import PRICING_REGION
from gitops_ml.backends.aws_ec2.failures import QUOTAS, Scope, scope_of
from gitops_ml.backends.aws_ec2.leases import secret_name
from gitops_ml.backends.aws_ec2.permissions import Places
from gitops_ml.backends.aws_ec2.requests import TAG_REPO
from gitops_ml.backends.aws_ec2.settings import DEFAULT_IMAGE, Settings
from gitops_ml.diagnostics import Check

QUOTA_LINK = "https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"
SOON_S = 15 * 60
"""A session that ends within this is said to end soon."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What earlier checks found out, for later ones."""

    image: str | None = None
    subnets: tuple[tuple[str, str], ...] = ()
    """(zone, subnet) that can be used."""
    offered: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Instance type -> zones among those."""


def checks(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    repository: str,
    storage_uri: str | None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    connect: Callable[..., Any] = aws.client,
) -> Iterator[Check]:
    """Yield one line for each thing that was looked at, what others depend on first."""
    region = settings.regions[0] if settings.regions else environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region:
        fix = "name one in gitops-ml.yaml, `backends: {aws-ec2: {regions: [eu-central-1]}}`, or set AWS_REGION"
        yield Check(subject="AWS region", ok=False, found="none", fix=fix)
        return
    yield Check(subject="AWS region", ok=True, found=region)
    looker = _Looker(settings, environ, region, repository, storage_uri, now, connect)
    for check in looker.identity():
        yield check
        if check.ok is False:
            return
    yield from looker.look()


class _RefusedError(Exception):
    """A call was refused: what ``doctor`` says of it."""

    def __init__(self, found: str, fix: str = "", *, ok: bool | None = False) -> None:
        super().__init__(found)
        self._found, self._fix, self._ok = found, fix, ok

    def check(self, subject: str) -> Check:
        """Return it as the finding about a subject."""
        return Check(subject=subject, ok=self._ok, found=self._found, fix=self._fix)


class _Looker:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        region: str,
        repository: str,
        storage_uri: str | None,
        now: Callable[[], datetime],
        connect: Callable[..., Any],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._region = region
        self._repository = repository
        place = re.fullmatch(r"s3://([^/?]+)/?([^?]*?)/*(?:\?owner=(\d+))?", storage_uri or "")
        self._bucket: str | None = place[1] if place else None
        self._prefix: str = place[2] if place else ""
        self._owner: str | None = place[3] if place else None
        self._now = now
        self._connect = connect
        self._clients: dict[str, Any] = {}
        self._account = ""
        self._found = _Found()

    def identity(self) -> Iterator[Check]:
        """Say who we are, and for how long."""
        subject = "AWS identity"
        fix = (
            "here: log in (`aws sso login`, or keys in the environment); "
            "in CI: give the job its role (docs/aws.md), and check the role's trust policy"
        )
        try:
            answer = self._ask("sts:GetCallerIdentity", self._client("sts").get_caller_identity)
        except _RefusedError as refused:
            yield dataclasses.replace(refused.check(subject), fix=fix)
            return
        self._account = str(answer["Account"])
        yield Check(subject=subject, ok=True, found=f"{answer['Arn']}")
        yield self._session()

    def look(self) -> Iterator[Check]:
        """Look at everything else."""
        for subject, ask in (
            ("machine image", self._image),
            ("subnets", self._subnets),
            ("security groups", self._groups),
            ("instance types", self._offers),
            ("list prices", self._list_prices),
            ("spot prices", self._spot_prices),
            ("quotas", self._quotas),
            ("starting machines", self._launch),
            ("ending machines", self._ending),
            ("bucket", self._storage),
            ("secrets", self._secrets),
        ):
            try:
                yield from ask()
            except _RefusedError as refused:
                yield refused.check(subject)

    def _session(self) -> Check:
        subject = "AWS session"
        expires = self._environ.get("AWS_CREDENTIAL_EXPIRATION") or self._environ.get("AWS_SESSION_EXPIRATION")
        if expires:
            try:
                left_s = (datetime.fromisoformat(expires) - self._now()).total_seconds()
            except (ValueError, TypeError):
                return Check(subject=subject, ok=None, found="its end cannot be read")
            found = f"ends in {max(0, left_s) / 60:.0f} min"
            fix = "log in again before a long run; what is running then goes on without it"
            return Check(subject=subject, ok=left_s >= SOON_S or None, found=found, fix=fix)
        key = self._environ.get("AWS_ACCESS_KEY_ID", "")
        if key and not self._environ.get("AWS_SESSION_TOKEN"):
            fix = "in CI use a role that a job takes by OpenID Connect (docs/aws.md): keys that do not end get lost"
            return Check(subject=subject, ok=None, found="keys that do not end", fix=fix)
        found = "temporary, given by the environment: how long is not known" if key else "renewed when it ends"
        return Check(subject=subject, ok=True, found=found)

    def _image(self) -> Iterator[Check]:
        names = [self._settings.image or DEFAULT_IMAGE]
        found: dict[str, str] = {}
        if self._settings.ami:
            found["backends.aws-ec2.ami"] = self._settings.ami
        else:
            for name in names:
                try:
                    answer = self._ask("ssm:GetParameter", self._client("ssm").get_parameter, Name=name)
                    found[name] = str(answer["Parameter"]["Value"])
                except _RefusedError as refused:
                    fix = f"name an image that {self._region} has: `backends.aws-ec2.image`, or its id as `ami`"
                    check = refused.check(f"image {name}")
                    missing = check.found.startswith("ParameterNotFound")
                    yield dataclasses.replace(check, ok=False, fix=fix) if missing else check
        for source, identity in found.items():
            answer = self._ask(
                "ec2:DescribeImages",
                self._client("ec2").describe_images,
                absent=("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"),
                ImageIds=[identity],
            )
            images = answer["Images"] if answer else []
            if not images:
                fix = f"name an image that {self._region} has: `backends.aws-ec2.image`, or its id as `ami`"
                yield Check(subject="machine image", ok=False, found=f"{identity} ({source}) is not there", fix=fix)
                continue
            self._found = dataclasses.replace(self._found, image=self._found.image or identity)
            yield Check(subject="machine image", ok=True, found=f"{identity}, {images[0].get('Name')} ({source})")

    def _subnets(self) -> Iterator[Check]:
        wanted = self._settings.subnets
        choice: Mapping[str, Any] = (
            {"SubnetIds": list(wanted)} if wanted else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
        )
        answer = self._ask(
            "ec2:DescribeSubnets",
            self._client("ec2").describe_subnets,
            absent=("InvalidSubnetID.NotFound", "InvalidSubnetId.Malformed"),
            **choice,
        )
        if answer is None:
            fix = f"`backends.aws-ec2.subnets`: name subnets of {self._region} in account {self._account}"
            yield Check(subject="subnets", ok=False, found=f"not all of {', '.join(wanted)} are there", fix=fix)
            return
        subnets = sorted(answer["Subnets"], key=lambda one: (one["AvailabilityZone"], one["SubnetId"]))
        if not subnets:
            fix = "`aws ec2 create-default-vpc`, or name subnets: `backends.aws-ec2.subnets`"
            yield Check(subject="subnets", ok=False, found=f"{self._region} has no default VPC", fix=fix)
            return
        usable = tuple((s["AvailabilityZone"], s["SubnetId"]) for s in subnets if s["AvailableIpAddressCount"] > 0)
        self._found = dataclasses.replace(self._found, subnets=usable)
        zones = ", ".join(sorted({zone for zone, _ in usable}))
        full = [one["SubnetId"] for one in subnets if one["AvailableIpAddressCount"] <= 0]
        words = f"{len(usable)} in {zones}" if usable else "none with a free address"
        words += f"; full: {', '.join(full)}" if full and usable else ""
        fix = "name subnets with free addresses, in several zones: a zone without capacity is then no obstacle"
        several = len({zone for zone, _ in usable}) > 1
        yield Check(subject="subnets", ok=bool(usable) and (several or None), found=words, fix=fix)
        if closed := [one["SubnetId"] for one in subnets if one.get("MapPublicIpOnLaunch") is False]:
            found = f"{', '.join(closed)}: machines there get no public address"
            fix = "see that they reach S3, SSM and the package index by a NAT gateway or by endpoints"
            yield Check(subject="way out", ok=None, found=found, fix=fix)

    def _groups(self) -> Iterator[Check]:
        wanted = self._settings.security_groups
        subject = "security groups"
        if not wanted:
            found = "the VPC's default one"
            fix = "`backends.aws-ec2.security_groups`: one without any inbound rule (action/aws/setup.yaml makes it)"
            yield Check(subject=subject, ok=None, found=found, fix=fix)
            return
        answer = self._ask(
            "ec2:DescribeSecurityGroups",
            self._client("ec2").describe_security_groups,
            absent=("InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidSecurityGroupID.NotFound"),
            GroupIds=list(wanted),
        )
        if answer is None:
            fix = f"`backends.aws-ec2.security_groups`: name groups of {self._region} in account {self._account}"
            yield Check(subject=subject, ok=False, found=f"not all of {', '.join(wanted)} are there", fix=fix)
            return
        if opened := [one["GroupId"] for one in answer["SecurityGroups"] if one.get("IpPermissions")]:
            fix = "remove their inbound rules: nothing ever connects to a machine"
            yield Check(subject=subject, ok=None, found=f"{', '.join(opened)} let something in", fix=fix)
            return
        yield Check(subject=subject, ok=True, found=f"{', '.join(wanted)}, nothing comes in")

    def _offers(self) -> Iterator[Check]:
        names = [one.name for one in self._types()]
        answer = self._ask(
            "ec2:DescribeInstanceTypeOfferings",
            self._client("ec2").describe_instance_type_offerings,
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": names}],
        )
        zones = {zone for zone, _ in self._found.subnets}
        offered = {
            name: tuple(
                sorted(
                    one["Location"]
                    for one in answer["InstanceTypeOfferings"]
                    if one["InstanceType"] == name and (one["Location"] in zones or not zones)
                )
            )
            for name in names
        }
        self._found = dataclasses.replace(self._found, offered={k: v for k, v in offered.items() if v})
        there = [f"{name} in {len(where)} of {len(zones) or '?'} zones" for name, where in offered.items() if where]
        gone = [name for name, where in offered.items() if not where]
        words = ", ".join(there) or "none"
        if gone:
            words += f"; not offered: {', '.join(gone)}"
        # Without a list of one's own the others are only what would be nice to have.
        asked_for = bool(self._settings.instance_types)
        fine = bool(there) and (not gone or not asked_for or None)
        fix = "`backends.aws-ec2.instance_types`: name what the region offers; or add subnets in its other zones"
        yield Check(subject="instance types", ok=fine, found=words, fix=fix)

    def _list_prices(self) -> Iterator[Check]:
        """See whether today's prices can be had; `run` counts with the catalog's where not."""
        client = self._client("pricing", PRICING_REGION)
        wanted = {"instanceType": self._first(), "regionCode": self._region, "operatingSystem": "Linux"}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        yield self._prices(
            "list prices", "pricing:GetProducts", client.get_products, ServiceCode="AmazonEC2", Filters=filters
        )

    def _spot_prices(self) -> Iterator[Check]:
        ec2 = self._client("ec2")
        yield self._prices(
            "spot prices",
            "ec2:DescribeSpotPriceHistory",
            ec2.describe_spot_price_history,
            InstanceTypes=[self._first()],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=self._now(),
        )

    def _prices(self, subject: str, action: str, call: Callable[..., Any], **asked: Any) -> Check:
        try:
            self._ask(action, call, **asked)
        except _RefusedError as refused:
            check = refused.check(subject)
            return dataclasses.replace(check, ok=None, found=f"{check.found}; the catalog's are counted with")
        return Check(subject=subject, ok=True, found="can be asked for")

    def _first(self) -> str:
        return next(iter(self._found.offered), self._types()[0].name)

    def _quotas(self) -> Iterator[Check]:
        used = self._vcpus_in_use()
        smallest: dict[str, int] = {}
        for one in self._types():
            # With a list of one's own the largest has to fit, otherwise the smallest is enough to begin with.
            choose = max if self._settings.instance_types else min
            smallest[one.family] = choose(smallest.get(one.family, one.vcpus), one.vcpus)
        for family, needed in sorted(smallest.items()):
            found = [
                self._quota(family, market, QUOTAS[family, market], needed, used.get((family, market), 0))
                for market in Market
                if (family, market) in QUOTAS
            ]
            # Machines can be had where one market has room; the other is then only worth knowing.
            enough = any(check.ok for check in found)
            yield from (dataclasses.replace(check, ok=check.ok or None) if enough else check for check in found)

    def _quota(self, family: str, market: Market, code: str, needed: int, used: int) -> Check:
        subject = f"quota {family} {market}"
        link = QUOTA_LINK.format(region=self._region, code=code)
        try:
            answer = self._ask(
                "servicequotas:GetServiceQuota",
                self._client("service-quotas").get_service_quota,
                absent=("NoSuchResourceException",),
                ServiceCode="ec2",
                QuotaCode=code,
            )
        except _RefusedError as refused:
            return dataclasses.replace(refused.check(subject), ok=None)
        if answer is None:
            return Check(subject=subject, ok=None, found="AWS does not say", fix=f"look at {link}")
        allowed = int(answer["Quota"]["Value"])
        words = f"{allowed} vCPUs, {used} in use"
        fix = f"ask for {used + needed} or more (vCPUs, not machines; spot and on-demand are two quotas) at {link}"
        return Check(subject=subject, ok=allowed >= used + needed, found=words, fix=fix)

    def _vcpus_in_use(self) -> Mapping[tuple[str, Market], int]:
        used: dict[tuple[str, Market], int] = {}
        states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        pages = self._pages("ec2:DescribeInstances", "ec2", "describe_instances", Filters=states)
        for page in pages:
            for one in (one for group in page["Reservations"] for one in group["Instances"]):
                market = Market.SPOT if one.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND
                known = catalog().get(one["InstanceType"])
                cpus = one.get("CpuOptions", {})
                vcpus = known.vcpus if known else cpus.get("CoreCount", 1) * cpus.get("ThreadsPerCore", 2)
                where = (family_of(one["InstanceType"]), market)
                used[where] = used.get(where, 0) + vcpus
        return used

    def _launch(self) -> Iterator[Check]:
        """Ask for a machine on each market, to hear whether we may: nothing is started."""
        subject = "starting machines"
        if self._found.image is None or not self._found.subnets or not self._found.offered:
            yield Check(subject=subject, ok=None, found="cannot be tried without image, subnet and instance type")
            return
        for market in (Market.ON_DEMAND, Market.SPOT):
            yield self._tried(f"{subject}, {market}", self._dry_run(market))

    def _dry_run(self, market: Market) -> Callable[[], Any]:
        name, zones = next(iter(self._found.offered.items()))
        subnet = next((subnet for zone, subnet in self._found.subnets if zone in zones), self._found.subnets[0][1])
        profile = self._settings.instance_profile
        kinds = ["instance", "volume", "network-interface"]
        request: dict[str, Any] = {
            "ImageId": self._found.image,
            "InstanceType": name,
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": subnet,
            "IamInstanceProfile": {"Arn" if profile.startswith("arn:") else "Name": profile},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        }
        if self._settings.security_groups:
            request["SecurityGroupIds"] = list(self._settings.security_groups)
        if market is Market.SPOT:
            options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
            kinds.append("spot-instances-request")
        tags = [{"Key": TAG_REPO, "Value": self._repository}]
        request["TagSpecifications"] = [{"ResourceType": kind, "Tags": tags} for kind in kinds]
        return functools.partial(self._client("ec2").run_instances, **request, DryRun=True)

    def _tried(self, subject: str, ask: Callable[[], Any]) -> Check:
        """Say whether a call with ``DryRun`` would have been allowed."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            ask()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "DryRunOperation":
                return Check(subject=subject, ok=True, found="allowed")
            return self._refusal("ec2:RunInstances", error).check(subject)
        except BotoCoreError as error:
            return Check(subject=subject, ok=None, found=f"could not be asked: {error}")
        return Check(subject=subject, ok=None, found="AWS did not treat it as a trial")

    def _ending(self) -> Iterator[Check]:
        """Ask to end one of our own machines, if there is any: the permission depends on its tags."""
        subject = "ending machines"
        own = [
            {"Name": f"tag:{TAG_REPO}", "Values": [self._repository]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        ec2 = self._client("ec2")
        answer = self._ask("ec2:DescribeInstances", ec2.describe_instances, Filters=own)
        found = [one["InstanceId"] for group in answer["Reservations"] for one in group["Instances"]]
        if not found:
            yield Check(subject=subject, ok=None, found="no machine of this repository is there to try it with")
            return
        self._ask(
            "ec2:TerminateInstances",
            ec2.terminate_instances,
            absent=("DryRunOperation",),
            InstanceIds=found[:1],
            DryRun=True,
        )
        yield Check(subject=subject, ok=True, found="allowed")
        # What a machine said before it could reach the storage; it matters only when one does not start.
        try:
            self._ask(
                "ec2:GetConsoleOutput",
                ec2.get_console_output,
                absent=("DryRunOperation",),
                InstanceId=found[0],
                DryRun=True,
            )
        except _RefusedError as refused:
            yield dataclasses.replace(refused.check("console of machines"), ok=None)

    def _storage(self) -> Iterator[Check]:
        subject = "bucket"
        if not self._bucket:
            fix = "`storage: s3://BUCKET/PREFIX` in gitops-ml.yaml (action/aws/setup.yaml makes a bucket)"
            yield Check(subject=subject, ok=False, found="gitops-ml.yaml names none", fix=fix)
            return
        bucket, owner, s3 = self._bucket, self._owner or self._account, self._client("s3")
        named = {"Bucket": bucket, "ExpectedBucketOwner": owner}
        prefix = f"{self._prefix}/" if self._prefix else ""
        listed = self._ask(
            "s3:ListBucket",
            s3.list_objects_v2,
            absent=("NoSuchBucket",),
            **named,
            Prefix=prefix,
            MaxKeys=1,
        )
        if listed is None:
            fix = "create it (action/aws/setup.yaml does), or mend `storage` in gitops-ml.yaml"
            yield Check(subject=subject, ok=False, found=f"{bucket} does not exist", fix=fix)
            return
        yield Check(subject=subject, ok=True, found=f"s3://{bucket}/{prefix}, of account {owner}")
        for part, ask in (
            ("bucket region", self._bucket_region),
            ("bucket access", self._bucket_closed),
            ("conditional writes", self._bucket_conditions),
        ):
            try:
                yield ask(part, named, prefix)
            except _RefusedError as refused:
                yield refused.check(part)

    def _bucket_region(self, subject: str, named: Mapping[str, str], prefix: str) -> Check:  # noqa: ARG002
        answer = self._ask("s3:GetBucketLocation", self._client("s3").get_bucket_location, **named)
        where = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(
            answer.get("LocationConstraint"), answer.get("LocationConstraint")
        )
        fix = f"use a bucket in {self._region}, or machines in {where}: what crosses regions takes longer and costs"
        return Check(subject=subject, ok=where == self._region or None, found=str(where), fix=fix)

    def _bucket_closed(self, subject: str, named: Mapping[str, str], prefix: str) -> Check:  # noqa: ARG002
        answer = self._ask(
            "s3:GetBucketPublicAccessBlock",
            self._client("s3").get_public_access_block,
            absent=("NoSuchPublicAccessBlockConfiguration",),
            **named,
        )
        switches = (answer or {}).get("PublicAccessBlockConfiguration", {})
        closed = len(switches) == 4 and all(switches.values())
        found = "closed to the public" if closed else "not closed to the public"
        fix = (
            f"`aws s3api put-public-access-block --bucket {named['Bucket']} --public-access-block-configuration "
            "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true`"
        )
        return Check(subject=subject, ok=closed, found=found, fix=fix)

    def _bucket_conditions(self, subject: str, named: Mapping[str, str], prefix: str) -> Check:
        """See that nothing is overwritten where that is asked for: leases are built on it."""
        s3, key = self._client("s3"), f"{prefix}doctor-{self._now():%Y%m%dT%H%M%S%fZ}"
        refusals = ("PreconditionFailed", "412", "ConditionalRequestConflict")
        put = functools.partial(s3.put_object, **named, Key=key, Body=b"", IfNoneMatch="*")
        first = self._ask("s3:PutObject", put, absent=refusals)
        second = self._ask("s3:PutObject", put, absent=refusals)
        self._ask("s3:DeleteObject", s3.delete_object, **named, Key=key)
        kept = first is not None and second is None
        found = "kept" if kept else "ignored: two could hold one lease"
        fix = "use AWS S3, or a store that keeps to If-None-Match"
        return Check(subject=subject, ok=kept, found=found, fix=fix)

    def _secrets(self) -> Iterator[Check]:
        subject = "secrets"
        prefix = secret_name(self._repository, "").rstrip("/")
        below = [{"Key": "Path", "Option": "Recursive", "Values": [prefix]}]
        pages = self._pages("ssm:DescribeParameters", "ssm", "describe_parameters", ParameterFilters=below)
        found = sorted((one["Name"][len(prefix) + 1 :], one["Type"]) for page in pages for one in page["Parameters"])
        add = f"`aws ssm put-parameter --type SecureString --name {prefix}/NAME --value ...`"
        if plain := [name for name, kind in found if kind != "SecureString"]:
            fix = f"store them anew, encrypted: {add}, with --overwrite"
            yield Check(subject=subject, ok=False, found=f"not encrypted: {', '.join(plain)}", fix=fix)
            return
        names = ", ".join(name for name, _ in found)
        yield Check(subject=subject, ok=True, found=names or "none", fix=add)

    def _types(self) -> Sequence[InstanceType]:
        known = catalog()
        if self._settings.instance_types:
            return [known[name] for name in self._settings.instance_types if name in known]
        single = [one for one in gpus(known.values()) if one.count == 1 and one.usd_per_hour and one.arch == "x86_64"]
        cheapest: dict[str, InstanceType] = {}
        for one in sorted(single, key=lambda one: one.usd_per_hour or 0):
            cheapest.setdefault(one.accelerator, one)
        return list(cheapest.values())[:5]

    def _client(self, service: str, region: str | None = None) -> Any:
        if service not in self._clients:
            self._clients[service] = self._connect(service, self._environ, region=region or self._region)
        return self._clients[service]

    def _pages(self, action: str, service: str, name: str, **asked: Any) -> Sequence[Any]:
        pages = self._client(service).get_paginator(name).paginate
        found: Sequence[Any] = self._ask(action, lambda: list(pages(**asked)))
        return found

    def _ask(self, action: str, call: Callable[..., Any], *, absent: Sequence[str] = (), **asked: Any) -> Any:
        """Return the call's answer; None for codes in ``absent``.

        Raises:
            _RefusedError: anything else went wrong.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(**asked)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in absent:
                return None
            raise self._refusal(action, error) from error
        except BotoCoreError as error:
            raise _RefusedError(f"could not be asked: {error}", ok=None) from error

    def _refusal(self, action: str, error: Any) -> _RefusedError:
        details = error.response.get("Error", {})
        code, message = str(details.get("Code", "")), str(details.get("Message", ""))
        scope = scope_of(code, status=error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        if scope is Scope.PERMISSION or code == "403":
            action = self._named(message) or action
            statement = permissions.missing(action, self._places())
            fix = f"add to the role's policy: {statement}" if statement else ""
            return _RefusedError(f"denied: {action}", fix)
        if scope is Scope.CREDENTIALS:
            return _RefusedError(f"the credentials are not accepted ({code})", "log in again")
        return _RefusedError(f"{code}: {message}", ok=False if scope is Scope.CONFIGURATION else None)

    def _named(self, message: str) -> str | None:
        """Return the action that a refusal is about, where it says so or can be asked what it means."""
        from botocore.exceptions import BotoCoreError, ClientError

        if found := re.search(r"perform:? `?([a-z0-9-]+:[A-Za-z]+)", message):
            return found[1]
        if encoded := re.search(r"authorization failure message: (\S+)", message):
            try:
                answer = self._client("sts").decode_authorization_message(EncodedMessage=encoded[1])
                action = json.loads(answer["DecodedMessage"])["context"]["action"]
            except (ClientError, BotoCoreError, ValueError, LookupError, TypeError):
                return None
            return str(action)
        return None

    def _places(self) -> Places:
        return Places(
            account=self._account or "ACCOUNT",
            repository=self._repository,
            bucket=self._bucket or "BUCKET",
            prefix=self._prefix,
        )

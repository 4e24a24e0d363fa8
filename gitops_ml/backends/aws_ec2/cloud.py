"""The edge to AWS: the few calls that the backend makes, their answers as values and their errors in words."""

import contextlib
import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from gitops_ml import aws
from gitops_ml.backends.aws_ec2 import permissions
from gitops_ml.backends.aws_ec2.candidates import Market, Price, Zones
from gitops_ml.backends.aws_ec2.failures import QUOTAS, Scope, advice, scope_of
from gitops_ml.backends.aws_ec2.leases import Image
from gitops_ml.backends.aws_ec2.requests import TAG_ATTEMPT, TAG_EXPIRES, TAG_KEY, TAG_STORAGE, tag_filter, tags_of
from gitops_ml.backends.aws_ec2.verdicts import Instance
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.values import dataclass

PRICING_REGION = "us-east-1"
"""The price list is served in a few regions only."""
SPOT_SOURCE = "spot price history"
_LAUNCH_READ_S = 15.0
_NEVER = ("InvalidInstanceID.NotFound", "InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound")
_T = TypeVar("_T")


class RefusedError(Exception):
    """A request for a machine got none, or no answer."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.scope = scope_of(code, status=status, message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something of ours besides machines: a disk, an interface, a request."""

    kind: str
    id: str
    tags: Mapping[str, str]
    created_at: float | None


class Bucket:
    """A token bucket, as EC2 has one for each action and account: ``size`` at once, then ``per_s``."""

    def __init__(self, size: float, per_s: float, *, clock: Callable[[], float], wait: Callable[[float], None]) -> None:
        self._size = size
        self._per_s = per_s
        self._clock = clock
        self._wait = wait
        self._tokens = size
        self._at = clock()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Wait until a request may be sent."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_s) - 1
            self._at = now
            pause_s = max(0.0, -self._tokens / self._per_s)
        if pause_s:
            self._wait(pause_s)


class Cloud:
    """One region of one account. Connects when first asked for something; what does not change is asked once."""

    def __init__(
        self,
        region: str,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.region = region
        self._environ = environ
        self._clients: dict[str, Any] = {}
        self._connecting = threading.Lock()
        self._known: dict[Any, Any] = {}
        self._knowing = threading.Lock()
        # What EC2 grants an account for RunInstances: 5 at once, then 2 a second.
        self._launches = Bucket(5, 2, clock=clock, wait=wait)

    # Before a launch

    def image(self, *, ami: str | None, parameter: str) -> Image:
        """Return the image to boot, by id or by the SSM parameter that names the newest."""

        def look() -> Image:
            source = "gitops-ml.yaml"
            found = ami
            if found is None:
                answer = self._ask("ssm:GetParameter", lambda: self._client("ssm").get_parameter(Name=parameter))
                found, source = str(answer["Parameter"]["Value"]), parameter
            rows = self._ask("ec2:DescribeImages", lambda: self._client("ec2").describe_images(ImageIds=[found]))
            if not rows["Images"]:
                raise UserError(f"backends.aws-ec2: there is no image {found} in {self.region} (named by {source})")
            row = rows["Images"][0]
            root = row.get("RootDeviceName") or "/dev/sda1"
            sizes = [
                disk["Ebs"]["VolumeSize"]
                for disk in row.get("BlockDeviceMappings", ())
                if disk.get("DeviceName") == root and "VolumeSize" in disk.get("Ebs", {})
            ]
            return Image(id=found, root_device=root, size_gib=int(sizes[0]) if sizes else 0, source=source)

        return self._once(("image", ami, parameter), look)

    def zones(self, types: Sequence[str], subnets: Sequence[str]) -> Mapping[str, Zones]:
        """Return where each instance type is offered and there is a subnet: ours, or the account's default ones."""

        def look_at_subnets() -> list[tuple[str, str]]:
            how: dict[str, Any] = (
                {"SubnetIds": list(subnets)}
                if subnets
                else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
            )
            rows = self._ask("ec2:DescribeSubnets", lambda: self._client("ec2").describe_subnets(**how))["Subnets"]
            if not rows:
                raise UserError(
                    f"backends.aws-ec2: there is no default subnet in {self.region}; name some in "
                    "gitops-ml.yaml: `backends: {aws-ec2: {subnets: [subnet-...]}}`"
                )
            return sorted((row["AvailabilityZone"], row["SubnetId"]) for row in rows)

        def look_at_offers() -> dict[str, set[str]]:
            how = {
                "LocationType": "availability-zone",
                "Filters": [{"Name": "instance-type", "Values": sorted(types)}],
            }
            pages = self._pages("ec2:DescribeInstanceTypeOfferings", "describe_instance_type_offerings", how)
            found: dict[str, set[str]] = {}
            for row in (row for page in pages for row in page["InstanceTypeOfferings"]):
                found.setdefault(row["InstanceType"], set()).add(row["Location"])
            return found

        places = self._once(("subnets", *subnets), look_at_subnets)
        offers = self._once(("offers", *sorted(types)), look_at_offers)
        return {name: [place for place in places if place[0] in offers.get(name, ())] for name in types}

    def missing_secrets(self, names: Sequence[str]) -> list[str]:
        """Return which SSM parameters there are not. Asks for names alone, never for a value."""

        def look(name: str) -> bool:
            how = {"ParameterFilters": [{"Key": "Name", "Option": "Equals", "Values": [name]}]}
            # SSM may answer with an empty page, and what is looked for on the next one.
            pages = self._pages("ssm:DescribeParameters", "describe_parameters", how, service="ssm")
            return any(row.get("Name") == name for page in pages for row in page["Parameters"])

        return [name for name in names if not self._once(("secret", name), functools.partial(look, name))]

    # Prices

    def list_price(self, instance_type: str) -> Price | None:
        """Return today's price on demand from AWS's price list; None: it cannot be asked, or does not say."""

        def look() -> Price | None:
            terms = {
                "instanceType": instance_type,
                "regionCode": self.region,
                "operatingSystem": "Linux",
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
            }
            filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in terms.items()]
            client = self._client("pricing", region=PRICING_REGION)
            answer = self._ask(
                "pricing:GetProducts", lambda: client.get_products(ServiceCode="AmazonEC2", Filters=filters)
            )
            for text in answer.get("PriceList", ()):
                if (found := _on_demand(json.loads(text))) is not None:
                    return found
            return None

        # The catalog takes its place; what is wrong is said where it matters.
        with contextlib.suppress(ServiceError, UserError, ValueError, KeyError, TypeError):
            return self._once(("price", instance_type), look)
        return self._once(("price", instance_type), lambda: None)

    def spot_prices(self, types: Sequence[str]) -> Mapping[tuple[str, str], Price]:
        """Return the newest spot price by instance type and zone; empty: it cannot be asked."""

        def look() -> dict[tuple[str, str], Price]:
            how = {
                "InstanceTypes": sorted(types),
                "ProductDescriptions": ["Linux/UNIX"],
                "StartTime": datetime.now(UTC),
            }
            pages = self._pages("ec2:DescribeSpotPriceHistory", "describe_spot_price_history", how)
            found: dict[tuple[str, str], Price] = {}
            for row in (row for page in pages for row in page["SpotPriceHistory"]):
                place = row["InstanceType"], row["AvailabilityZone"]
                date = row["Timestamp"].strftime("%Y-%m-%d") if "Timestamp" in row else ""
                found.setdefault(place, Price(usd_per_hour=Decimal(row["SpotPrice"]), source=SPOT_SOURCE, date=date))
            return found

        with contextlib.suppress(ServiceError, UserError, InvalidOperation):
            return self._once(("spot", *sorted(types)), look)
        return self._once(("spot", *sorted(types)), dict)

    def quota(self, family: str, market: Market) -> float | None:
        """Return how many vCPUs the account may have of a family; None: it cannot be found out."""
        code = QUOTAS.get((family, market))
        if code is None:
            return None
        client = self._client("service-quotas")

        def look() -> float | None:
            answer = self._ask(
                "servicequotas:GetServiceQuota",
                lambda: client.get_service_quota(ServiceCode="ec2", QuotaCode=code),
            )
            return float(answer["Quota"]["Value"])

        with contextlib.suppress(ServiceError, UserError):
            return self._once(("quota", code), look)
        return None

    # Machines

    def launch(self, request: Mapping[str, Any]) -> str:
        """Ask for one machine, once, at the pace that EC2 allows, and return its id.

        Raises:
            RefusedError: there was none to be had, or no answer.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
        from botocore.parsers import ResponseParserError

        self._launches.take()
        # Never by botocore's own retries: they would hide which zone had no capacity, and how often we asked.
        client = self._client("ec2", name="launch", total_attempts=1, read_s=_LAUNCH_READ_S)
        try:
            answer = client.run_instances(**request)
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise RefusedError(_code(error), _message(error), status) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise RefusedError("NoCredentials", str(error), 400) from error
        except (BotoCoreError, ResponseParserError) as error:
            raise RefusedError(type(error).__name__, _clean(str(error)), 0) from error
        return str(answer["Instances"][0]["InstanceId"])

    def instances(self, repository: str, keys: Sequence[str] = ()) -> list[Instance]:
        """Return the repository's machines, also those that ended within the last hour."""
        pages = self._pages("ec2:DescribeInstances", "describe_instances", {"Filters": tag_filter(repository, keys)})
        rows = [row for page in pages for group in page["Reservations"] for row in group["Instances"]]
        found = [_instance(row) for row in rows]
        return sorted(found, key=lambda one: (one.launched_at, one.id))

    def terminate(self, instance_id: str, *, quick: bool = False) -> None:
        """End one machine: of several in one call, a single wrong id would save all the others.

        Args:
            instance_id: of the machine; one that is gone is no error.
            quick: give up after three seconds: there may be no more of them.
        """
        client = (
            self._client("ec2", name="quick", total_attempts=1, connect_s=1.5, read_s=3)
            if quick
            else self._client("ec2")
        )
        self._ask("ec2:TerminateInstances", lambda: client.terminate_instances(InstanceIds=[instance_id]), absent={})

    def console(self, instance_id: str) -> str:
        """Return the end of what a machine printed while it started; empty: it cannot be had."""
        with contextlib.suppress(ServiceError, UserError):
            client = self._client("ec2")
            answer = self._ask("ec2:GetConsoleOutput", lambda: client.get_console_output(InstanceId=instance_id))
            text = str(answer.get("Output") or "")  # boto3 has decoded it
            return "\n".join(_clean(line) for line in text.strip().splitlines()[-20:])
        return ""

    # What may be left

    def resources(self, repository: str) -> Iterator[Resource]:
        """Yield the repository's disks and interfaces that no machine uses, and spot requests without a machine."""
        ours = tag_filter(repository)
        unused = {"Filters": [*ours, {"Name": "status", "Values": ["available"]}]}
        for page in self._pages("ec2:DescribeVolumes", "describe_volumes", unused):
            for row in page["Volumes"]:
                yield Resource(
                    kind="disk", id=row["VolumeId"], tags=tags_of(row), created_at=_seconds(row, "CreateTime")
                )
        for page in self._pages("ec2:DescribeNetworkInterfaces", "describe_network_interfaces", unused):
            for row in page["NetworkInterfaces"]:
                yield Resource(
                    kind="network interface", id=row["NetworkInterfaceId"], tags=tags_of(row), created_at=None
                )
        waiting = {"Filters": [*ours, {"Name": "state", "Values": ["open", "active"]}]}
        for page in self._pages("ec2:DescribeSpotInstanceRequests", "describe_spot_instance_requests", waiting):
            for row in page["SpotInstanceRequests"]:
                if not row.get("InstanceId"):
                    yield Resource(
                        kind="spot request",
                        id=row["SpotInstanceRequestId"],
                        tags=tags_of(row),
                        created_at=_seconds(row, "CreateTime"),
                    )

    def remove(self, resource: Resource) -> None:
        """Remove what is left; what is gone already is no error."""
        ec2 = self._client("ec2")
        calls: Mapping[str, tuple[str, Callable[[], Any]]] = {
            "disk": ("ec2:DeleteVolume", lambda: ec2.delete_volume(VolumeId=resource.id)),
            "network interface": (
                "ec2:DeleteNetworkInterface",
                lambda: ec2.delete_network_interface(NetworkInterfaceId=resource.id),
            ),
            "spot request": (
                "ec2:CancelSpotInstanceRequests",
                lambda: ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[resource.id]),
            ),
        }
        action, call = calls[resource.kind]
        self._ask(action, call, absent={})

    # The connection

    def renew(self) -> None:
        """Connect anew: credentials that expired may have been replaced."""
        with self._connecting:
            self._clients.clear()

    def _client(self, service: str, *, name: str = "", region: str | None = None, **options: Any) -> Any:
        place = name or service
        with self._connecting:
            if place not in self._clients:
                try:
                    self._clients[place] = aws.client(service, self._environ, region=region or self.region, **options)
                except ImportError as error:
                    raise UserError(
                        "the backend `aws-ec2` needs boto3; install it with `pip install 'gitops-ml[aws]'`"
                    ) from error
            return self._clients[place]

    def _once(self, what: Any, look: Callable[[], _T]) -> _T:
        with self._knowing:
            if what not in self._known:
                self._known[what] = look()
            found: _T = self._known[what]
            return found

    def _pages(self, action: str, call: str, how: Mapping[str, Any], *, service: str = "ec2") -> list[Any]:
        client = self._client(service)
        pages: list[Any] = self._ask(action, lambda: list(client.get_paginator(call).paginate(**how)))
        return pages

    def _ask(self, action: str, call: Callable[[], Any], absent: Any = None) -> Any:
        """Make a call and return its answer; what is wrong is said with the statement to add, or what else to do."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            return call()
        except ClientError as error:
            code = _code(error)
            if absent is not None and code in _NEVER:
                return absent
            raise problem(action, code, _message(error), self.region) from error
        except (BotoCoreError, ResponseParserError) as error:
            code = "NoCredentials" if type(error).__name__.endswith("CredentialsError") else type(error).__name__
            raise problem(action, code, _clean(str(error)), self.region) from error


def problem(action: str, code: str, message: str, region: str, places: permissions.Places | None = None) -> UserError:
    """Return the error for whoever can mend it: what was asked, what AWS said, what to do."""
    scope = scope_of(code)
    if scope is Scope.PERMISSION:
        named = re.search(r"perform:? ([a-z0-9-]+:[A-Za-z]+)", message)
        action = named[1] if named else action
        missing = permissions.missing(action, places or permissions.Places())
        text = f"{action} is denied to this role; add to its policy:\n{missing}" if missing else f"{action} is denied"
        return ServiceError(f"AWS: {text}", lasting=True)
    said = f"{code}: {message}".removesuffix(": ")
    text = f"AWS refused {action} in {region} ({said}); {advice(scope, code, region)}"
    if scope in (Scope.CONFIGURATION, Scope.DISK, Scope.ACCOUNT):
        return UserError(text)
    return ServiceError(text, lasting=scope is Scope.CREDENTIALS)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or "Unknown"


def _message(error: Any) -> str:
    return _clean(str(error.response.get("Error", {}).get("Message", "")))


def _clean(text: str) -> str:
    # EC2 adds an encoded message of a kilobyte that only an administrator can read.
    text = re.sub(r"Encoded authorization failure message: \S+", "", text)
    return re.sub(r"[^ -~]+", " ", text).strip()[:400]


def _seconds(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return value.timestamp() if isinstance(value, datetime) else None


def _instance(row: Mapping[str, Any]) -> Instance:
    tags = tags_of(row)
    attempt = tags.get(TAG_ATTEMPT, "")
    said = str(row.get("StateTransitionReason") or "")
    return Instance(
        id=row["InstanceId"],
        state=row["State"]["Name"],
        reason=str((row.get("StateReason") or {}).get("Code") or ""),
        instance_type=row["InstanceType"],
        zone=str(row.get("Placement", {}).get("AvailabilityZone", "")),
        market=str(Market.SPOT if row.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND),
        launched_at=_seconds(row, "LaunchTime") or 0,
        ended_at=_moment_in(said),
        key=tags.get(TAG_KEY, ""),
        attempt=int(attempt) if attempt.isdecimal() and len(attempt) < 6 else 0,
        expires=tags.get(TAG_EXPIRES, ""),
        storage=tags.get(TAG_STORAGE, ""),
    )


def _moment_in(text: str) -> float | None:
    """Return the time in a reason such as ``User initiated (2026-11-26 21:10:02 GMT)``."""
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", text)
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() if found else None


def _on_demand(product: Mapping[str, Any]) -> Price | None:
    """Return the hourly price of a product of the price list."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            usd = Decimal(str(dimension.get("pricePerUnit", {}).get("USD", "0")))
            if dimension.get("unit") == "Hrs" and usd > 0:
                date = str(product.get("publicationDate") or term.get("effectiveDate") or "")[:10]
                return Price(usd_per_hour=usd.normalize(), source="AWS price list", date=date)
    return None

"""What moto does not know, or not well enough."""

import base64
import itertools
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from moto.backends import get_backend
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

from tests.fakes.aws.machines import Machine
from tests.fakes.aws.wire import RefusedError, Request
from tests.fakes.aws.world import ACCOUNT, World

if TYPE_CHECKING:
    from tests.fakes.aws.server import Gate

USER_DATA_BYTES = 16384
_LIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
_Answer = tuple[int, dict[str, str], bytes]


class Services:
    """``answers``: by service and action, what takes moto's place."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self.answers: Mapping[tuple[str, str], Callable[..., _Answer]] = {
            ("ec2", "RunInstances"): self.run_instances,
            ("ec2", "DescribeInstances"): self.describe_instances,
            ("ec2", "TerminateInstances"): self.terminate_instances,
            ("ec2", "GetConsoleOutput"): self.console_output,
            ("ec2", "DescribeSpotPriceHistory"): self.spot_prices,
            ("ec2", "DescribeSpotInstanceRequests"): self.spot_requests,
            ("ec2", "CancelSpotInstanceRequests"): self.cancel_spot_requests,
            ("ssm", "GetParameter"): self.image_parameter,
            ("service-quotas", "GetServiceQuota"): self.quota,
            ("pricing", "GetProducts"): self.products,
        }

    def run_instances(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        asked = request.parameters
        data = base64.b64decode(asked.get("UserData", ""))
        if len(data) > USER_DATA_BYTES:
            raise RefusedError("InvalidParameterValue", "User data is limited to 16384 bytes")
        ec2 = world.ec2(request.region)
        if asked.get("ImageId") not in ec2.amis:
            raise RefusedError("InvalidAMIID.NotFound", f"The image id '[{asked.get('ImageId')}]' does not exist")
        if asked["InstanceType"] not in _types(request.region):
            raise RefusedError("InvalidParameterValue", f"Invalid value '{asked['InstanceType']}' for InstanceType.")
        if call["subnet"] and call["zone"] is None:
            raise RefusedError("InvalidSubnetID.NotFound", f"The subnet ID '{call['subnet']}' does not exist")
        profile = asked.get("IamInstanceProfile", {})
        if profile and not role_of(profile):
            field, value = next(iter(profile.items()))
            text = f"Value ({value}) for parameter iamInstanceProfile.{field.lower()} is invalid."
            raise RefusedError("InvalidParameterValue", f"{text} Invalid IAM Instance Profile name")
        if asked.get("DryRun"):
            return self._gate.asked_moto(request, environ)
        if call["zone"] and asked["InstanceType"] not in _types_in(request.region, call["zone"]):
            kind, zone = asked["InstanceType"], call["zone"]
            text = (
                f"Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone})."
            )
            raise RefusedError("Unsupported", text)
        token = asked.get("ClientToken", "")
        scope = (request.region, call["zone"] or "", token)
        print_ = json.dumps({**asked, "ClientToken": ""}, sort_keys=True, default=str)
        if token and scope in world.tokens:
            said, identities, answer = world.tokens[scope]
            if said != print_:
                text = (
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
                )
                raise RefusedError("IdempotentParameterMismatch", text)
            if any(world.instance(identity).state in ("terminated", "shutting-down") for identity in identities):
                text = "The client token provided belongs to an instance that has been terminated."
                raise RefusedError("IdempotentInstanceTerminated", text)
            return 200, {"Content-Type": "text/xml"}, answer
        # It has no word for spot requests' tags; those are kept here.
        status, headers, out = self._gate.asked_moto(request, environ, _without_spot_tags(request))
        if status != 200:
            return status, headers, out
        identities = re.findall(r"<instanceId>(i-[0-9a-f]+)</instanceId>", out.decode())
        spot = call["market"] == "spot"
        for identity in identities:
            instance = ec2.get_instance(identity)
            world.launched[identity] = {
                "region": request.region,
                "zone": instance.placement.zone,
                "market": call["market"],
                "token": token,
                "parameters": call["parameters"],
                "user_data": base64.b64encode(data).decode(),
                "spot_request": f"sir-{secrets.token_hex(4)}" if spot else None,
                "spot_tags": _tags(asked, "spot-instances-request"),
                "launched_at": time.time(),
                "ended_at": None,
                "shutdown": asked.get("InstanceInitiatedShutdownBehavior", "stop"),
            }
            if spot:
                instance.spot_instance_request_id = world.launched[identity]["spot_request"]
                mark = f"<instanceId>{identity}</instanceId>".encode()
                shown = f"<spotInstanceRequestId>{world.launched[identity]['spot_request']}</spotInstanceRequestId>"
                out = out.replace(mark, mark + shown.encode(), 1) if b"spotInstanceRequestId" not in out else out
            if token:
                instance.client_token = token
        headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        if token:
            world.tokens[scope] = (print_, identities, out)
        if world.execute:
            for identity in identities:
                self._boot(world, identity, data, asked)
        return status, headers, out

    def _boot(self, world: World, identity: str, data: bytes, asked: Mapping[str, Any]) -> None:
        about = world.launched[identity]
        instance = world.instance(identity)
        role = role_of(asked.get("IamInstanceProfile", {}))

        def credentials() -> Mapping[str, str] | None:
            with self._gate.lock:
                return _grant(world, identity, role, about["region"]) if role else None

        def ended() -> None:
            with self._gate.lock:
                if self._gate.world is world and instance.state in ("pending", "running"):
                    if about["shutdown"] == "terminate":
                        world.end(
                            identity,
                            "Client.InstanceInitiatedShutdown",
                            "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
                        )
                    else:
                        instance.stop()
                self._gate.changed.notify_all()

        machine = Machine(
            world.folder / identity,
            identity=identity,
            user_data=data,
            environ={"AWS_ENDPOINT_URL": world.url, **world.machine_environ},
            python=world.python,
            gpus=_gpus(world, about["region"], asked["InstanceType"]),
            facts={
                "instance-id": identity,
                "instance-type": asked["InstanceType"],
                "ami-id": asked["ImageId"],
                "instance-life-cycle": about["market"],
                "placement/availability-zone": about["zone"],
                "placement/region": about["region"],
                "local-hostname": f"{identity}.internal",
                "services/domain": "amazonaws.com",
            },
            credentials=credentials,
            ended=ended,
            minute_s=world.minute_s,
            skew_s=world.skew_s,
            nap_s=world.nap_s,
        )
        world.machines[identity] = machine
        machine.start()

    def describe_instances(
        self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]
    ) -> _Answer:
        body = dict(_pairs(request.body))
        filters = request.parameters.get("Filters", [])
        if any(each["Name"] == "client-token" for each in filters):
            wanted = {value for each in filters if each["Name"] == "client-token" for value in each["Values"]}
            known = [identity for identity, about in world.launched.items() if about["token"] in wanted]
            body = {name: value for name, value in body.items() if not name.startswith("Filter.")}
            rest = [each for each in filters if each["Name"] != "client-token"]
            rest.append({"Name": "instance-id", "Values": known or ["i-none"]})
            for number, each in enumerate(rest, 1):
                body[f"Filter.{number}.Name"] = each["Name"]
                for place, value in enumerate(each["Values"], 1):
                    body[f"Filter.{number}.Value.{place}"] = value
        return self._gate.asked_moto(request, environ, urlencode(body).encode())

    def terminate_instances(
        self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]
    ) -> _Answer:
        before = {
            identity: world.instance(identity).state
            for identity in request.parameters["InstanceIds"]
            if identity in world.launched
        }
        answer = self._gate.asked_moto(request, environ)
        if answer[0] == 200 and not request.parameters.get("DryRun"):
            for identity, state in before.items():
                if state == "shutting-down":  # which it goes on doing, whoever asks once more
                    world.shutting_down(identity)
                if state in ("terminated", "shutting-down"):
                    continue
                if machine := world.machines.get(identity):
                    threading.Thread(target=machine.power_off, daemon=True).start()
                text = "Client.UserInitiatedShutdown: User initiated shutdown"
                world.end(identity, "Client.UserInitiatedShutdown", text)
        return answer

    def console_output(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        identity = request.parameters["InstanceId"]
        if identity not in world.launched:
            raise RefusedError("InvalidInstanceID.NotFound", f"The instance ID '{identity}' does not exist")
        machine = world.machines.get(identity)
        text = base64.b64encode(machine.console()[-65536:] if machine else b"").decode()
        return _xml(
            f"<GetConsoleOutputResponse><instanceId>{identity}</instanceId><timestamp>{_iso(time.time())}</timestamp>"
            f"<output>{text}</output></GetConsoleOutputResponse>"
        )

    def spot_prices(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        rows = []
        for kind in request.parameters.get("InstanceTypes", []):
            for zone in sorted({s.availability_zone for s in _default_subnets(world, request.region)}):
                if kind in _types_in(request.region, zone):
                    price = world.prices.get(f"spot {kind} {zone}", round(world.prices.get(kind, 1.0) * 0.4, 6))
                    rows.append(
                        f"<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>"
                        f"<spotPrice>{price:.6f}</spotPrice><timestamp>{_iso(time.time() - 600)}</timestamp>"
                        f"<availabilityZone>{zone}</availabilityZone></item>"
                    )
        return _xml(
            "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet>"
            f"{''.join(rows)}</spotPriceHistorySet><nextToken></nextToken></DescribeSpotPriceHistoryResponse>"
        )

    def spot_requests(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        rows = []
        wanted = request.parameters.get("SpotInstanceRequestIds")
        for identity, about in world.launched.items():
            row = about["spot_request"]
            if row is None or about["region"] != request.region or (wanted and row not in wanted):
                continue
            live = world.instance(identity).state in _LIVE
            facts = {
                "state": "active" if live else "closed",
                "instance-id": identity,
                "spot-instance-request-id": row,
                "status-code": "fulfilled" if live else "instance-terminated-by-user",
            }
            tags = about["spot_tags"]
            if all(_passes(each, facts, tags) for each in request.parameters.get("Filters", [])):
                shown = "".join(f"<item><key>{k}</key><value>{v}</value></item>" for k, v in tags.items())
                rows.append(
                    f"<item><spotInstanceRequestId>{row}</spotInstanceRequestId><state>{facts['state']}</state>"
                    f"<status><code>{facts['status-code']}</code></status><instanceId>{identity}</instanceId>"
                    f"<createTime>{_iso(about['launched_at'])}</createTime><type>one-time</type>"
                    f"<tagSet>{shown}</tagSet></item>"
                )
        return _xml(
            "<DescribeSpotInstanceRequestsResponse><spotInstanceRequestSet>"
            f"{''.join(rows)}</spotInstanceRequestSet></DescribeSpotInstanceRequestsResponse>"
        )

    def cancel_spot_requests(
        self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]
    ) -> _Answer:
        rows = "".join(
            f"<item><spotInstanceRequestId>{row}</spotInstanceRequestId><state>cancelled</state></item>"
            for row in request.parameters["SpotInstanceRequestIds"]
        )
        return _xml(
            "<CancelSpotInstanceRequestsResponse><spotInstanceRequestSet>"
            f"{rows}</spotInstanceRequestSet></CancelSpotInstanceRequestsResponse>"
        )

    def image_parameter(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        name = request.parameters["Name"]
        if not name.startswith(("/aws/service/deeplearning/ami/x86_64/", "/aws/service/canonical/ubuntu/server/")):
            return self._gate.asked_moto(request, environ)
        if not name.endswith("/ami-id"):
            raise RefusedError("ParameterNotFound", "")
        value = world.images[request.region]
        shown = {"Name": name, "Type": "String", "Value": value, "Version": 7, "DataType": "aws:ec2:image"}
        return _json({"Parameter": shown})

    def quota(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        code = request.parameters["QuotaCode"]
        return _json(
            {
                "Quota": {
                    "ServiceCode": "ec2",
                    "QuotaCode": code,
                    "QuotaName": code,
                    "Value": world.quotas.get(code, 768.0),
                    "Unit": "None",
                    "Adjustable": True,
                    "GlobalQuota": False,
                }
            }
        )

    def products(self, world: World, request: Request, environ: dict[str, Any], call: dict[str, Any]) -> _Answer:
        wanted = {each["Field"]: each["Value"] for each in request.parameters.get("Filters", [])}
        kind = wanted.get("instanceType", "")
        if kind not in world.prices:
            return _json({"FormatVersion": "aws_v1", "PriceList": []})
        product = {
            "product": {"productFamily": "Compute Instance", "attributes": wanted, "sku": "FAKE"},
            "serviceCode": "AmazonEC2",
            "terms": {
                "OnDemand": {
                    "FAKE.TERM": {
                        "effectiveDate": "2026-11-01T00:00:00Z",
                        "priceDimensions": {
                            "FAKE.TERM.HOUR": {
                                "unit": "Hrs",
                                "pricePerUnit": {"USD": f"{world.prices[kind]:.10f}"},
                                "description": f"${world.prices[kind]} per On Demand Linux {kind} Instance Hour",
                            }
                        },
                        "termAttributes": {},
                    }
                }
            },
            "version": "20261101000000",
            "publicationDate": "2026-11-01T00:00:00Z",
        }
        return _json({"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]})


def wanted(world: World, request: Request) -> dict[str, Any]:
    """Return zone, type and market of a launch."""
    asked = request.parameters
    subnet = asked.get("SubnetId") or next((n.get("SubnetId") for n in asked.get("NetworkInterfaces", [])), None)
    zone = asked.get("Placement", {}).get("AvailabilityZone")
    if subnet:
        found = world.ec2(request.region).subnets
        zone = next((row[subnet].availability_zone for row in found.values() if subnet in row), None)
    market = asked.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
    return {"zone": zone, "type": asked.get("InstanceType"), "market": market, "subnet": subnet}


def _default_subnets(world: World, region: str) -> list[Any]:
    return [subnet for row in world.ec2(region).subnets.values() for subnet in row.values()]


_KNOWN: dict[tuple[str, str], frozenset[str]] = {}


def _types(region: str) -> frozenset[str]:
    return _offered(region, "region", region)


def _types_in(region: str, zone: str) -> frozenset[str]:
    return _offered(region, "availability-zone", zone)


def _gpus(world: World, region: str, kind: str) -> list[tuple[str, int]]:
    (found,) = world.ec2(region).describe_instance_types([kind])
    rows = found.get("GpuInfo", {}).get("Gpus", [])
    return [(row["Name"], row["MemoryInfo"]["SizeInMiB"]) for row in rows for _ in range(row["Count"])]


def _offered(region: str, kind: str, place: str) -> frozenset[str]:
    if (kind, place) not in _KNOWN:
        rows = INSTANCE_TYPE_OFFERINGS[kind].get(region, [])
        _KNOWN[kind, place] = frozenset(row["InstanceType"] for row in rows if row["Location"] == place)
    return _KNOWN[kind, place]


def role_of(profile: Mapping[str, str]) -> str | None:
    """Return the name of the role in an instance profile, given by name or ARN."""
    name = profile.get("Name") or profile.get("Arn", "").rpartition("/")[2]
    for known in get_backend("iam")[ACCOUNT]["aws"].instance_profiles.values():
        if known.name == name and known.roles:
            return str(known.roles[0].name)
    return None


def _grant(world: World, identity: str, role: str, region: str) -> dict[str, str]:
    """Return the credentials that the machine has now; new ones when the last have expired."""
    granted = world.granted.get(identity)
    if granted is None or granted["AccessKeyId"] in world.expired:
        assumed = get_backend("sts")[ACCOUNT]["aws"].assume_role(
            region_name=region,
            role_session_name=identity,
            role_arn=f"arn:aws:iam::{ACCOUNT}:role/{role}",
            policy="",
            duration=21600,
            external_id="",
        )
        granted = world.granted[identity] = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "Role": role,
            "AccessKeyId": assumed.access_key_id,
            "SecretAccessKey": assumed.secret_access_key,
            "Token": assumed.session_token,
            "LastUpdated": _iso(time.time()),
            "Expiration": _iso(time.time() + world.skew_s + 21600),
        }
        world.keys[assumed.access_key_id] = (assumed.secret_access_key, identity, assumed.session_token)
    return granted


def _without_spot_tags(request: Request) -> bytes:
    """Return the form without tags of the kind that moto refuses, the rest numbered anew."""
    pairs = _pairs(request.body)
    kinds = {
        match[1]: value
        for name, value in pairs
        if (match := re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", name))
    }
    kept = itertools.count(1)
    number = {old: next(kept) for old in sorted(kinds, key=int) if kinds[old] != "spot-instances-request"}
    form = []
    for name, value in pairs:
        match = re.match(r"TagSpecification\.(\d+)\.", name)
        if match is None:
            form.append((name, value))
        elif match[1] in number:
            form.append((f"TagSpecification.{number[match[1]]}.{name[match.end() :]}", value))
    return urlencode(form).encode()


def _pairs(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode(), keep_blank_values=True)


def _tags(parameters: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {
        tag["Key"]: tag["Value"]
        for each in parameters.get("TagSpecifications", [])
        if each["ResourceType"] == kind
        for tag in each["Tags"]
    }


def _passes(each: Mapping[str, Any], facts: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    name = each["Name"]
    if name.startswith("tag:"):
        return tags.get(name[4:]) in each["Values"]
    if name == "tag-key":
        return any(value in tags for value in each["Values"])
    return facts.get(name) in each["Values"]


def _iso(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _xml(text: str) -> _Answer:
    return 200, {"Content-Type": "text/xml"}, text.encode()


def _json(value: object) -> _Answer:
    return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(value).encode()

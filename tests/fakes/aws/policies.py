"""Which rights a request needs, and whether policies give them: by every resource it touches, conditions included."""

from collections.abc import Iterator, Mapping

from tests.fakes.aws.wire import RefusedError, Request
from tests.fakes.aws.world import ACCOUNT, World
from tests.fakes.iam import allows

_Need = tuple[str, str, Mapping[str, str]]
_S3 = {
    "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "UploadPart": "PutObject",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
}
_NAMED = {
    "TerminateInstances": ("instance", "InstanceIds"),
    "GetConsoleOutput": ("instance", "InstanceId"),
    "DeleteVolume": ("volume", "VolumeId"),
    "DeleteNetworkInterface": ("network-interface", "NetworkInterfaceId"),
    "CancelSpotInstanceRequests": ("spot-instances-request", "SpotInstanceRequestIds"),
}


def authorize(world: World, request: Request, who: str, *, role: str | None) -> None:
    """Raise ``RefusedError`` unless the policies of who asks allow all of it.

    Args:
        world: its ``policies`` by ``caller`` and ``machine``; None: nothing is enforced.
        request: what is asked for.
        who: ``caller``, or an instance's id.
        role: of the machine that is to be started.
    """
    if world.policies is None:
        return
    documents = world.policies["caller" if who == "caller" else "machine"]

    def may(need: _Need) -> bool:
        action, resource, context = need
        return any(allows(document, action, resource=resource, context=context) for document in documents)

    for need in _needs(world, request, role):
        if not may(need):
            raise _denied(request, who, need)
    if request.service == "s3" and request.action in ("GetObject", "HeadObject"):
        # To who may not list it, S3 does not say that an object is missing.
        bucket, key = request.parameters["Bucket"], request.parameters["Key"]
        if not world.has(bucket, key) and not may(("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": key})):
            raise RefusedError("AccessDenied", "Access Denied", 403)


def _needs(world: World, request: Request, role: str | None) -> Iterator[_Need]:
    asked, place = request.parameters, f"arn:aws:ec2:{request.region}:{ACCOUNT}"
    if request.service == "sts":
        return
    if request.service == "s3":
        action = f"s3:{_S3.get(request.action, request.action)}"
        where = f"arn:aws:s3:::{asked['Bucket']}"
        if "Key" in asked:
            yield action, f"{where}/{asked['Key']}", {}
        else:
            yield action, where, {"s3:prefix": asked["Prefix"]} if "Prefix" in asked else {}
    elif request.service == "ssm" and ("Name" in asked or "Names" in asked):
        for name in asked.get("Names") or [asked["Name"]]:
            owner = "" if name.startswith("/aws/") else ACCOUNT
            yield f"ssm:{request.action}", f"arn:aws:ssm:{request.region}:{owner}:parameter{name}", {}
    elif request.service == "ec2" and request.action == "RunInstances":
        tags = {
            each["ResourceType"]: {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in each["Tags"]}
            for each in asked.get("TagSpecifications", ())
        }
        spot = ("spot-instances-request",) if "InstanceMarketOptions" in asked else ()
        for kind in ("instance", "volume", "network-interface", *spot):
            yield "ec2:RunInstances", f"{place}:{kind}/*", tags.get(kind, {})
        yield "ec2:RunInstances", f"arn:aws:ec2:{request.region}::image/{asked['ImageId']}", {}
        subnets = [asked.get("SubnetId"), *(each.get("SubnetId") for each in asked.get("NetworkInterfaces", ()))]
        groups = [*asked.get("SecurityGroupIds", ())]
        groups += [group for each in asked.get("NetworkInterfaces", ()) for group in each.get("Groups", ())]
        for subnet in filter(None, subnets):
            yield "ec2:RunInstances", f"{place}:subnet/{subnet}", {}
        for group in groups or ["sg-default"]:
            yield "ec2:RunInstances", f"{place}:security-group/{group}", {}
        for kind, said in tags.items():
            yield "ec2:CreateTags", f"{place}:{kind}/*", {"ec2:CreateAction": "RunInstances", **said}
        if role:
            arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
            yield "iam:PassRole", arn, {"iam:PassedToService": "ec2.amazonaws.com"}
    elif request.service == "ec2" and request.action in _NAMED:
        kind, field = _NAMED[request.action]
        for identity in asked[field] if isinstance(asked[field], list) else [asked[field]]:
            tags_now = world.tags_of(request.region, identity)
            context = {f"aws:ResourceTag/{name}": value for name, value in tags_now.items()}
            yield f"ec2:{request.action}", f"{place}:{kind}/{identity}", context
    else:
        prefix = {"service-quotas": "servicequotas"}.get(request.service, request.service)
        yield f"{prefix}:{request.action}", "*", {}


def _denied(request: Request, who: str, need: _Need) -> RefusedError:
    action, resource, _ = need
    user = f"user/{who}" if who == "caller" else f"assumed-role/worker/{who}"
    text = (
        f"User: arn:aws:iam::{ACCOUNT}:{user} is not authorized to perform: {action} on resource: {resource} "
        f"because no identity-based policy allows the {action} action"
    )
    if request.service == "ec2":
        return RefusedError("UnauthorizedOperation", f"You are not authorized to perform this operation. {text}", 403)
    code = "AccessDenied" if request.service in ("s3", "sts") else "AccessDeniedException"
    return RefusedError(code, text, 403 if request.service == "s3" else 400)

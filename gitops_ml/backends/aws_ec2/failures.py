"""What EC2 answers instead of a machine -> how far the answer reaches, and so what is tried next. Pure and total."""

import enum
from collections.abc import Mapping

from gitops_ml.backends.aws_ec2.candidates import Candidate, Market
from gitops_ml.backends.aws_ec2.catalog import family_of


class Scope(enum.StrEnum):
    """How far a refusal reaches."""

    CAPACITY = "capacity"
    """This type in this zone on this market, for some minutes."""
    OFFER = "offer"
    """This type in this zone, for good."""
    SUBNET = "subnet"
    SPOT_QUOTA = "spot quota"
    """The type's family on the spot market, in the region."""
    QUOTA = "quota"
    """The type's family on demand, in the region."""
    THROTTLE = "throttle"
    """Nothing but the pace: the same request again, later."""
    AMBIGUOUS = "ambiguous"
    """A machine may have been started: the same request again, then look; never another one."""
    NOT_YET = "not yet"
    """What was made a moment ago and is not known everywhere: the same request again, for a minute."""
    SPENT = "spent"
    """The request's token had its machine already, and that is gone: the attempt is over."""
    DISK = "disk quota"
    ACCOUNT = "account"
    CONFIGURATION = "configuration"
    PERMISSION = "permission"
    CREDENTIALS = "credentials"
    UNKNOWN = "unknown"

    @property
    def goes_on(self) -> bool:
        """Whether another candidate may be tried."""
        return self in (Scope.CAPACITY, Scope.OFFER, Scope.SUBNET, Scope.SPOT_QUOTA, Scope.QUOTA)

    @property
    def repeats(self) -> bool:
        """Whether the same request is sent again."""
        return self in (Scope.THROTTLE, Scope.AMBIGUOUS, Scope.NOT_YET)

    @property
    def stops(self) -> bool:
        """Whether it is said to the user at once."""
        return not (self.goes_on or self.repeats or self is Scope.SPENT)


CODES: Mapping[str, Scope] = {
    code: scope
    for scope, codes in {
        Scope.CAPACITY: (
            "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity "
            "UnfulfillableCapacity InsufficientCapacity ReservationCapacityExceeded SpotMaxPriceTooLow"
        ),
        Scope.OFFER: "Unsupported",
        Scope.SUBNET: "InsufficientFreeAddressesInSubnet",
        Scope.SPOT_QUOTA: "MaxSpotInstanceCountExceeded",
        Scope.QUOTA: "VcpuLimitExceeded InstanceLimitExceeded",
        Scope.THROTTLE: "RequestLimitExceeded ThrottlingException Throttling EC2ThrottledException",
        Scope.AMBIGUOUS: "InternalError InternalFailure ServiceUnavailable Unavailable ServerInternal RequestTimeout",
        Scope.SPENT: "IdempotentInstanceTerminated IdempotentParameterMismatch",
        Scope.DISK: "VolumeLimitExceeded MaxIOPSLimitExceeded",
        Scope.ACCOUNT: "PendingVerification OptInRequired Blocked AccountDisabled",
        Scope.CONFIGURATION: (
            "InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidAMIID.Unavailable InvalidInstanceType.NotFound "
            "InvalidInstanceType InvalidSubnetID.NotFound InvalidSubnet.NotFound InvalidGroup.NotFound "
            "InvalidGroupId.Malformed InvalidSecurityGroupID.NotFound InvalidParameterValue InvalidParameter "
            "InvalidParameterCombination InvalidUserData.Malformed InvalidIamInstanceProfile.NotFound NoSuchEntity "
            "InvalidBlockDeviceMapping MissingParameter ParameterNotFound"
        ),
        Scope.PERMISSION: (
            "UnauthorizedOperation AccessDenied AccessDeniedException AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        ),
        Scope.CREDENTIALS: (
            "ExpiredToken ExpiredTokenException RequestExpired InvalidClientTokenId UnrecognizedClientException "
            "AuthFailure SignatureDoesNotMatch IncompleteSignature MissingAuthenticationToken NoCredentials"
        ),
    }.items()
    for code in codes.split()
}


def scope_of(code: str, *, status: int = 400, message: str = "") -> Scope:
    """Return how far an error reaches. What has no definite code may have been accepted.

    Args:
        code: the service's, or the name of what broke on the way there.
        status: of HTTP; 0: there was no answer.
        message: the service's. A role's profile that was made just now is an invalid value for some seconds.
    """
    if code == "InvalidParameterValue" and "iaminstanceprofile" in message.casefold():
        return Scope.NOT_YET
    known = CODES.get(code)
    if known is not None:
        return known
    return Scope.AMBIGUOUS if status >= 500 or status == 0 else Scope.UNKNOWN


def is_blocked(candidate: Candidate, refused: Candidate, scope: Scope) -> bool:
    """Say whether a candidate need not be asked for after another was refused."""
    same_type = candidate.instance_type == refused.instance_type
    same_zone = candidate.zone == refused.zone
    same_family = family_of(candidate.instance_type) == family_of(refused.instance_type)
    match scope:
        case Scope.CAPACITY:
            return same_type and same_zone and candidate.market is refused.market
        case Scope.OFFER:
            return same_type and same_zone
        case Scope.SUBNET:
            return candidate.subnet == refused.subnet
        case Scope.SPOT_QUOTA:
            return same_family and candidate.market is Market.SPOT
        case Scope.QUOTA:
            return same_family and candidate.market is refused.market
        case _:
            return candidate == refused


def advice(scope: Scope, code: str, region: str) -> str:
    """Return what the user can do about an answer that stops."""
    match scope:
        case Scope.PERMISSION:
            return "`gitops-ml doctor` names the statement that the role's policy lacks"
        case Scope.CREDENTIALS:
            return "log in again, and run again: nothing is left behind"
        case Scope.ACCOUNT:
            return "AWS's support can unblock the account"
        case Scope.DISK:
            return f"ask for more at {QUOTA_PAGE.format(region=region, service='ebs')}"
        case Scope.CONFIGURATION | Scope.NOT_YET:
            return "mend `backends.aws-ec2` in gitops-ml.yaml; `gitops-ml doctor` looks at each part of it"
        case _ if code.endswith(("ConnectionError", "ConnectTimeoutError")):
            return f"see that this machine has a network, and that there is a region {region}"
        case _:
            return f"see what AWS says about {code}"


QUOTA_PAGE = "https://{region}.console.aws.amazon.com/servicequotas/home/services/{service}/quotas"
QUOTAS: Mapping[tuple[str, Market], str] = {
    ("Standard", Market.ON_DEMAND): "L-1216C47A",
    ("Standard", Market.SPOT): "L-34B43A08",
    ("G", Market.ON_DEMAND): "L-DB2E81BA",
    ("G", Market.SPOT): "L-3819A6DF",
    ("P", Market.ON_DEMAND): "L-417A185B",
    ("P", Market.SPOT): "L-7212CCBC",
    ("Inf", Market.ON_DEMAND): "L-1945791B",
    ("Inf", Market.SPOT): "L-B5D1601B",
    ("Trn", Market.ON_DEMAND): "L-2C3B7624",
    ("Trn", Market.SPOT): "L-5480EFD2",
}
"""Codes of the quotas, in vCPUs, by family and market."""

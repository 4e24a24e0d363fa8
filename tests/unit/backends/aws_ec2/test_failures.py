"""The error table: every code has a scope, and every scope a next step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml.backends.aws_ec2.candidates import Candidate, Market
from gitops_ml.backends.aws_ec2.failures import CODES, QUOTAS, Scope, advice, is_blocked, scope_of

# What is left to be tried after a refusal of G6_A_SPOT, by name.
PLACES = {
    "g6 a spot": ("g6.xlarge", "a", Market.SPOT),
    "g6 b spot": ("g6.xlarge", "b", Market.SPOT),
    "g5 a spot": ("g5.xlarge", "a", Market.SPOT),
    "p5 a spot": ("p5.4xlarge", "a", Market.SPOT),
    "g6 a": ("g6.xlarge", "a", Market.ON_DEMAND),
    "g6 b": ("g6.xlarge", "b", Market.ON_DEMAND),
    "p5 b": ("p5.4xlarge", "b", Market.ON_DEMAND),
}


def candidate(name):
    instance_type, zone, market = PLACES[name]
    return Candidate(instance_type=instance_type, zone=zone, subnet=f"s-{zone}", market=market)


def left_after(scope, refused="g6 a spot"):
    return [name for name in PLACES if not is_blocked(candidate(name), candidate(refused), scope)]


@pytest.mark.parametrize(
    ("code", "left"),
    [
        *(
            (code, ["g6 b spot", "g5 a spot", "p5 a spot", "g6 a", "g6 b", "p5 b"])
            for code in (
                "InsufficientInstanceCapacity",
                "InsufficientHostCapacity",
                "InsufficientReservedInstanceCapacity",
                "UnfulfillableCapacity",
                "InsufficientCapacity",
                "ReservationCapacityExceeded",
                "SpotMaxPriceTooLow",
            )
        ),
        ("Unsupported", ["g6 b spot", "g5 a spot", "p5 a spot", "g6 b", "p5 b"]),
        ("InsufficientFreeAddressesInSubnet", ["g6 b spot", "g6 b", "p5 b"]),
        ("MaxSpotInstanceCountExceeded", ["p5 a spot", "g6 a", "g6 b", "p5 b"]),
    ],
)
def test_code__that_goes_on__leaves_what_it_does_not_reach(code, left):
    scope = scope_of(code)

    assert scope.goes_on
    assert left_after(scope) == left


@pytest.mark.parametrize("code", ["VcpuLimitExceeded", "InstanceLimitExceeded"])
def test_code__quota_on_demand__blocks_the_family_on_demand(code):
    assert left_after(scope_of(code), "g6 a") == ["g6 a spot", "g6 b spot", "g5 a spot", "p5 a spot", "p5 b"]


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        *((code, Scope.THROTTLE) for code in ("RequestLimitExceeded", "ThrottlingException", "EC2ThrottledException")),
        *((code, Scope.AMBIGUOUS) for code in ("InternalError", "ServiceUnavailable", "Unavailable", "ServerInternal")),
    ],
)
def test_code__that_repeats__sends_the_same_again(code, scope):
    assert scope_of(code) is scope
    assert scope.repeats


@pytest.mark.parametrize("code", ["IdempotentInstanceTerminated", "IdempotentParameterMismatch"])
def test_code__of_a_spent_token__ends_the_attempt(code):
    scope = scope_of(code)

    assert (scope, scope.goes_on, scope.repeats, scope.stops) == (Scope.SPENT, False, False, False)


@pytest.mark.parametrize(
    ("code", "scope", "said"),
    [
        *(
            (code, Scope.ACCOUNT, "AWS's support can unblock the account")
            for code in ("PendingVerification", "OptInRequired", "Blocked", "AccountDisabled")
        ),
        *(
            (
                code,
                Scope.DISK,
                "ask for more at https://eu-west-1.console.aws.amazon.com/servicequotas/home/services/ebs/quotas",
            )
            for code in ("VolumeLimitExceeded", "MaxIOPSLimitExceeded")
        ),
        *(
            (
                code,
                Scope.CONFIGURATION,
                "mend `backends.aws-ec2` in gitops-ml.yaml; `gitops-ml doctor` looks at each part of it",
            )
            for code in (
                "InvalidAMIID.NotFound",
                "InvalidAMIID.Malformed",
                "InvalidAMIID.Unavailable",
                "InvalidInstanceType.NotFound",
                "InvalidSubnetID.NotFound",
                "InvalidGroup.NotFound",
                "InvalidParameterValue",
                "InvalidParameterCombination",
                "InvalidUserData.Malformed",
                "ParameterNotFound",
            )
        ),
        *(
            (code, Scope.PERMISSION, "`gitops-ml doctor` names the statement that the role's policy lacks")
            for code in ("UnauthorizedOperation", "AccessDenied", "AuthFailure.ServiceLinkedRoleCreationNotPermitted")
        ),
        *(
            (code, Scope.CREDENTIALS, "log in again, and run again: nothing is left behind")
            for code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
        ),
        ("SomethingNew", Scope.UNKNOWN, "see what AWS says about SomethingNew"),
    ],
)
def test_code__that_stops__is_said_with_what_to_do(code, scope, said):
    assert scope_of(code) is scope
    assert scope.stops
    assert advice(scope, code, "eu-west-1") == said


@given(code=st.text(max_size=40), status=st.integers(0, 599))
def test_scope__any_code__has_exactly_one_next_step(code, status):
    scope = scope_of(code, status=status)

    assert [scope.goes_on, scope.repeats, scope is Scope.SPENT, scope.stops].count(True) == 1


@pytest.mark.parametrize("status", [0, 500, 503])
def test_scope__no_definite_answer__may_have_started_a_machine(status):
    assert scope_of("Whatever", status=status) is Scope.AMBIGUOUS


def test_advice__no_connection__names_the_region():
    scope = scope_of("EndpointConnectionError", status=0)

    assert scope is Scope.AMBIGUOUS
    assert advice(scope, "EndpointConnectionError", "eu-north-7") == (
        "see that this machine has a network, and that there is a region eu-north-7"
    )


def test_scope__profile_that_was_made_just_now__is_tried_again():
    message = "Value (gitops-ml-worker) for parameter iamInstanceProfile.name is invalid."

    assert scope_of("InvalidParameterValue", message=message) is Scope.NOT_YET
    assert Scope.NOT_YET.repeats


def test_scope__capacity_as_a_server_error__is_still_capacity():
    assert scope_of("InsufficientInstanceCapacity", status=500) is Scope.CAPACITY


def test_blocked__every_scope__blocks_at_least_the_refused_one():
    for scope in Scope:
        assert is_blocked(candidate("g6 a spot"), candidate("g6 a spot"), scope)


def test_quotas__every_family__has_both_markets():
    assert {family for family, _ in QUOTAS} == {"Standard", "G", "P", "Inf", "Trn"}
    assert len(set(QUOTAS.values())) == len(QUOTAS) == 10
    assert set(CODES.values()) == set(Scope) - {Scope.UNKNOWN, Scope.NOT_YET}

"""What an attempt has used and when: what its machine says of times counts only as far as others bear it out."""

import dataclasses

import pytest

from gitops_ml.backends.aws_ec2.endings import began_at, billed_s
from gitops_ml.backends.aws_ec2.verdicts import Instance, Seen, time_of
from tests.fakes.leases import NOW, lease

FORGOTTEN = Instance(
    id="i-1",
    state="terminated",
    reason="",
    instance_type="g6.xlarge",
    zone="us-east-1a",
    market="spot",
    launched_at=NOW,
    ended_at=None,
    key="k",
    attempt=1,
)
DAYS = 86_400


@pytest.mark.parametrize(
    ("said_s", "written_s", "expected_s"),
    [
        (3600, 3605, 3605),
        (61, 3605, 3605),
        (-31 * DAYS, 3605, 3605),
        (3600, None, 3600),
        (31 * DAYS, 3605, 140 * 60),
        (61, 5 * 3600, 140 * 60),
    ],
)
def test_billed__machine_that_ec2_has_forgotten__lived_as_long_as_it_wrote(said_s, written_s, expected_s):
    written_at = None if written_s is None else NOW + written_s
    seen = Seen(lease=lease(), now=NOW + DAYS, result={"ended_at": NOW + said_s}, written_at=written_at)

    assert billed_s(seen, FORGOTTEN) == expected_s


def test_billed__machine_that_ec2_knows__lived_as_ec2_says():
    seen = Seen(lease=lease(), now=NOW + DAYS, result={"ended_at": NOW + 5}, written_at=NOW + 5)

    assert billed_s(seen, dataclasses.replace(FORGOTTEN, ended_at=NOW + 700)) == 700


@pytest.mark.parametrize(
    ("said_s", "expected_s"), [(30, 30), (-31 * DAYS, 0), (31 * DAYS, 3600), (None, 0), ("then", 0), (float("nan"), 0)]
)
def test_began__machine_that_says_another_time__began_between_its_start_and_now(said_s, expected_s):
    result = {} if said_s is None else {"training_started_at": said_s if isinstance(said_s, str) else NOW + said_s}
    seen = Seen(lease=lease(), now=NOW + 3600, result=result, instance=FORGOTTEN)

    assert began_at(seen, result) == time_of(NOW + expected_s)


def test_began__no_machine__says_nothing():
    assert began_at(Seen(lease=lease(), now=NOW), {}) is None

"""Objects in storage: what was written is read, also by an older version, and nonsense is named."""

import json

import pytest

from gitops_ml.agent.objects import (
    Heartbeat,
    Lease,
    ObjectError,
    heartbeat_from,
    lease_from,
    log_piece,
    to_json,
)

LEASE = Lease(
    key="a" * 64,
    number=2,
    repository="acme/digits",
    created_at=1e9,
    owner="ci",
    bundle="b" * 64,
    agent="c" * 64,
    wait_until=1e9 + 60,
    lifetime_min=90,
    expires_at=1e9 + 6000,
    secrets={"HF_TOKEN": "/gitops-ml/acme/digits/HF_TOKEN"},
    cloud={"region": "us-east-1"},
)


def test_lease__written_and_read__is_the_same() -> None:
    assert lease_from(to_json(LEASE)) == LEASE


def test_heartbeat__written_and_read__is_the_same() -> None:
    beat = Heartbeat(at=1e9, beat=3, phase="training", state="running", gpus=[{"utilization": 0.5}])

    assert heartbeat_from(to_json(beat)) == beat


def test_lease__with_a_field_of_a_newer_version__is_read() -> None:
    newer = json.dumps({**json.loads(to_json(LEASE)), "colour": "green"}).encode()

    assert lease_from(newer) == LEASE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"format": 2}', "lease.json has format 2; this version understands 1"),
        (b"{", "lease.json is broken: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[]", "lease.json is broken: 'list' object has no attribute 'get'"),
    ],
)
def test_lease__that_is_none__is_named(text: bytes, says: str) -> None:
    with pytest.raises(ObjectError) as caught:
        lease_from(text)

    assert str(caught.value) == says


def test_log_piece__later_offset__sorts_later() -> None:
    assert log_piece("k", 1, 9) < log_piece("k", 1, 10) < log_piece("k", 1, 10**14)

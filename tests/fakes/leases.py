"""A lease made by hand, for tests."""

import dataclasses
from decimal import Decimal

from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2.candidates import Candidate, Market, Price
from gitops_ml.backends.aws_ec2.leases import Image, Terms, lease_for
from gitops_ml.backends.aws_ec2.money import Bound
from tests.fakes.trials import trial

NOW = 1_800_000_000.0
G6 = Candidate(
    instance_type="g6.xlarge",
    zone="us-east-1a",
    subnet="subnet-a",
    market=Market.ON_DEMAND,
    price=Price(usd_per_hour=Decimal("0.8048"), source="catalog", date="2026-07-20"),
)
SPOT = dataclasses.replace(G6, market=Market.SPOT)
TERMS = Terms(
    region="us-east-1",
    image=Image(id="ami-1", root_device="/dev/sda1", size_gib=65, source="/image"),
    disk_gib=100,
    profile="worker",
    security_groups=("sg-1",),
    candidates=(SPOT, G6),
    bounded_by="budget.max_duration",
    worst_usd=Decimal("2.08"),
    place="here",
    storage="5707a9e5",
)


def lease(number: int = 1, *, terms: Terms = TERMS, lifetime_min: int = 140, **fields: object) -> Lease:
    made = lease_for(
        trial("true"),
        number,
        terms,
        bound=Bound(lifetime_min=lifetime_min, total_min=lifetime_min, by=terms.bounded_by),
        bundle="b" * 64,
        agent="a" * 64,
        repository="acme/digits",
        owner="ada at box",
        now=NOW,
        secrets={"HF_TOKEN": "/gitops-ml/acme/digits/HF_TOKEN"},
    )
    return dataclasses.replace(made, **fields)

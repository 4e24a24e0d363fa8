"""Resources -> machines to ask for, in order; and the catalog behind it."""

from decimal import Decimal

import pytest

from gitops_ml.backends.aws_ec2.candidates import (
    Candidate,
    Market,
    Price,
    candidates,
    fitting_types,
    from_json,
    markets,
    to_json,
)
from gitops_ml.backends.aws_ec2.catalog import catalog, family_of, is_called
from gitops_ml.backends.aws_ec2.settings import Settings
from gitops_ml.errors import UserError
from gitops_ml.spec import Experiment, Gpu, Resources

KINDS = (
    "A100, A100-80GB, A10G, B200, B300, H100, H200, Inferentia2, L4, L40S, RTXPRO4500, RTXPRO6000, T4, T4g, Trainium, "
    "Trainium2, V100, V100-32GB"
)


def names(resources, **settings):
    experiment = Experiment(path="e.yaml", name="e", run="true", resources=resources)
    return [one.name for one in fitting_types(experiment, Settings(**settings))]


def test_catalog__every_row__has_shape_and_dated_price():
    found = catalog()

    assert len(found) == 104
    assert found["g6.xlarge"].usd_per_hour == Decimal("0.8048")
    for one in found.values():
        assert one.vcpus > 0
        assert one.memory_gib > 0
        assert bool(one.priced_on) == (one.usd_per_hour is not None)
        assert bool(one.accelerator) == (one.count > 0)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(), ["c7i.large", "m7i.large", "r7i.large"]),
        (Resources(cpu=6, memory_bytes=24 * 2**30), ["m7i.2xlarge", "r7i.2xlarge", "c7i.4xlarge"]),
        (Resources(gpu=Gpu(type=("L4",))), ["g6.xlarge", "g6.2xlarge"]),
        (Resources(gpu=Gpu(type=("A10G", "l4"))), ["g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge"]),
        (Resources(gpu=Gpu(count=4)), ["g4dn.12xlarge", "g6.12xlarge", "g5.12xlarge"]),
        (Resources(gpu=Gpu(type=("A100",), count=8)), ["p4d.24xlarge", "p4de.24xlarge"]),
        (Resources(gpu=Gpu(type=("RTX PRO 6000",))), ["g7e.2xlarge", "g7e.4xlarge"]),
        (Resources(gpu=Gpu(type=("V100",)), spot="only"), ["p3dn.24xlarge"]),
        (Resources(gpu=Gpu(type=("H200",))), ["p5en.48xlarge"]),
    ],
    ids=[
        "any",
        "cpu and memory",
        "one kind",
        "spec order",
        "several",
        "case of names",
        "spaces",
        "spot only",
        "no price",
    ],
)
def test_fitting_types__resources__give_the_cheapest_that_fit(resources, expected):
    assert names(resources) == expected


def test_fitting_types__settings__decide_which_and_in_which_order():
    assert names(Resources(gpu=Gpu()), instance_types=("g6.2xlarge", "g6.xlarge", "c7i.large")) == [
        "g6.2xlarge",
        "g6.xlarge",
    ]


@pytest.mark.parametrize(
    ("resources", "settings", "said"),
    [
        (
            Resources(gpu=Gpu(type=("L5",))),
            {},
            f"e.yaml: resources.gpu.type: no machine of EC2 in the catalog has a `L5`; known are: {KINDS}",
        ),
        (
            Resources(gpu=Gpu(type=("L4",), count=16), cpu=4, memory_bytes=2**30),
            {},
            "e.yaml: resources: no machine of EC2 in the catalog has 16 GPUs L4, 4 CPUs, 1 GiB of memory",
        ),
        (
            Resources(gpu=Gpu()),
            {"instance_types": ("c7i.large",)},
            "e.yaml: resources: none of backends.aws-ec2.instance_types (c7i.large) has 1 GPU",
        ),
        (
            Resources(),
            {"instance_types": ("z9.huge",)},
            "gitops-ml.yaml: backends.aws-ec2.instance_types: `z9.huge` is not in the catalog of this version",
        ),
    ],
    ids=["unknown kind", "too many", "not among ours", "not in the catalog"],
)
def test_fitting_types__nothing__is_said_in_words(resources, settings, said):
    with pytest.raises(UserError) as refused:
        names(resources, **settings)

    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("spot", "fallback", "expected"),
    [
        ("never", True, (Market.ON_DEMAND,)),
        ("prefer", True, (Market.SPOT, Market.ON_DEMAND)),
        ("prefer", False, (Market.SPOT,)),
        ("only", True, (Market.SPOT,)),
    ],
)
def test_markets__spot__gives_the_order(spot, fallback, expected):
    assert markets(Resources(spot=spot), Settings(on_demand_fallback=fallback)) == expected


ZONES = {"g6.xlarge": [("a", "s-a"), ("b", "s-b"), ("c", "s-c")], "g5.xlarge": [("a", "s-a")]}
SPOT = {"a": "0.30", "b": "0.20", "c": "0.25"}


def price(name, zone, market):
    usd = SPOT[zone] if market is Market.SPOT else "1"
    return Price(usd_per_hour=Decimal(usd), source="list", date="2026-01-01")


def ordered(key="k", **options):
    types = [catalog()["g6.xlarge"], catalog()["g5.xlarge"]]
    found = candidates(types, [Market.SPOT, Market.ON_DEMAND], ZONES.__getitem__, price, key=key, **options)
    return [(one.market, one.instance_type, one.zone) for one in found]


def test_candidates__order__is_market_then_type_then_the_cheapest_zone():
    found = ordered()

    assert found[:4] == [
        (Market.SPOT, "g6.xlarge", "b"),
        (Market.SPOT, "g6.xlarge", "c"),
        (Market.SPOT, "g6.xlarge", "a"),
        (Market.SPOT, "g5.xlarge", "a"),
    ]
    assert {one[0] for one in found[4:]} == {Market.ON_DEMAND}
    assert sorted(one[2] for one in found[4:7]) == ["a", "b", "c"]


def test_candidates__on_demand__spreads_keys_over_zones_and_is_stable():
    assert ordered("k") == ordered("k")
    assert {ordered(f"key {number}")[4][2] for number in range(20)} == {"a", "b", "c"}


def test_candidates__zone_that_took_one_away__comes_last():
    assert [zone for _, name, zone in ordered(avoid=["b"])[:3]] == ["c", "a", "b"]


def test_candidate__as_json__comes_back():
    one = Candidate(
        instance_type="g6.xlarge", zone="a", subnet="s", market=Market.SPOT, price=price("", "a", Market.SPOT)
    )
    unknown = Candidate(instance_type="p5e.48xlarge", zone="a", subnet="s", market=Market.ON_DEMAND)

    assert from_json(to_json(one)) == one
    assert from_json(to_json(unknown)) == unknown
    assert (str(one), str(one.price)) == ("g6.xlarge spot in a", "0.3 USD/h (list, 2026-01-01)")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("g6.xlarge", "G"),
        ("p5.48xlarge", "P"),
        ("t3.micro", "Standard"),
        ("inf1.xlarge", "Inf"),
        ("trn9.big", "Trn"),
        ("g9.x", "G"),
    ],
)
def test_family__known_or_not__is_the_quotas(name, family):
    assert family_of(name) == family


def test_kind__name__fits_without_regard_to_case_and_memory():
    assert is_called("A100-80GB", "a100")
    assert is_called("A100-80GB", "A100-80GB")
    assert not is_called("A100", "A100-80GB")
    assert not is_called("L40S", "L4")

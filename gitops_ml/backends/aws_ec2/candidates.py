"""What a trial asks for -> which machines may carry it out, in the order in which they are asked for. Pure."""

import enum
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal

from gitops_ml.backends.aws_ec2.catalog import InstanceType, accelerators, catalog, gpus, is_called
from gitops_ml.backends.aws_ec2.settings import Settings
from gitops_ml.errors import UserError
from gitops_ml.spec import Experiment, Resources
from gitops_ml.values import dataclass

TYPES_PER_KIND = 2
"""How many instance types are tried of each kind of GPU: the cheapest that fit. More would raise the worst case."""
TYPES_OF_ANY_KIND = 3


class Market(enum.StrEnum):
    """How a machine is bought."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD for an hour of one machine, with where the figure is from and when it was true."""

    usd_per_hour: Decimal
    source: str
    date: str

    def __str__(self) -> str:
        """Return it as plan and report show it."""
        return f"{self.usd_per_hour.normalize():f} USD/h ({self.source}, {self.date})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One machine that may be asked for: what, where and how bought."""

    instance_type: str
    zone: str
    subnet: str
    market: Market
    price: Price | None = None
    """None: not known."""

    def __str__(self) -> str:
        """Return its name in messages."""
        return f"{self.instance_type} {self.market} in {self.zone}"


Zones = Sequence[tuple[str, str]]
"""(zone, subnet) in which machines may stand."""


def fitting_types(experiment: Experiment, settings: Settings) -> tuple[InstanceType, ...]:
    """Return the instance types to try, best first: as the settings list them, else per kind of GPU the cheapest.

    Raises:
        UserError: nothing fits; the text says what was asked for and what there is.
    """
    resources = experiment.resources
    known = catalog()
    if settings.instance_types:
        for name in settings.instance_types:
            if name not in known:
                raise UserError(
                    f"gitops-ml.yaml: backends.aws-ec2.instance_types: `{name}` is not in the catalog of this version"
                )
        found = [known[name] for name in settings.instance_types if _fits(known[name], resources, settings)]
        if not found:
            raise UserError(
                f"{experiment.path}: resources: none of backends.aws-ec2.instance_types "
                f"({', '.join(settings.instance_types)}) has {words(resources)}"
            )
        return tuple(found)
    usable = [one for one in known.values() if one.arch == "x86_64"]
    if resources.gpu is None:
        groups = [[one for one in usable if not one.accelerator]]
    elif not resources.gpu.type:
        # A share of a GPU is no GPU; p3 is on no list of offers any more.
        groups = [[one for one in gpus(usable) if one.count >= 1 and not one.name.startswith("p3.")]]
    else:
        groups = []
        for kind in resources.gpu.type:
            of_kind = [one for one in usable if one.accelerator and is_called(one.accelerator, kind)]
            if not of_kind:
                raise UserError(
                    f"{experiment.path}: resources.gpu.type: no machine of EC2 in the catalog has a `{kind}`; "
                    f"known are: {', '.join(accelerators())}"
                )
            groups.append(of_kind)
    most = TYPES_PER_KIND if resources.gpu is not None and resources.gpu.type else TYPES_OF_ANY_KIND
    found = []
    for group in groups:
        fitting = [one for one in group if _fits(one, resources, settings)]
        # What has no price keeps no budget: it is taken only where nothing else fits.
        priced = [one for one in fitting if not _cost(one, settings)[0]]
        found += sorted(priced or fitting, key=lambda one: _cost(one, settings))[:most]
    if not found:
        raise UserError(f"{experiment.path}: resources: no machine of EC2 in the catalog has {words(resources)}")
    return tuple(dict.fromkeys(found))


def words(resources: Resources) -> str:
    """Return what is asked for, in words."""
    parts = []
    if resources.gpu is not None:
        kind = " or ".join(resources.gpu.type)
        parts.append(f"{resources.gpu.count} GPU{'s' if resources.gpu.count > 1 else ''}{f' {kind}' if kind else ''}")
    if resources.cpu:
        parts.append(f"{resources.cpu} CPUs")
    if resources.memory_bytes:
        parts.append(f"{resources.memory_bytes / 2**30:g} GiB of memory")
    if resources.spot != "never":
        parts.append("spot")
    return ", ".join(parts) or "what is asked for"


def _fits(one: InstanceType, resources: Resources, settings: Settings) -> bool:
    gpu = resources.gpu
    # An instance's memory is a little less than its name says: what is asked for is meant by the name.
    return (
        one.vcpus >= (resources.cpu or 0)
        and one.memory_gib * 2**30 >= (resources.memory_bytes or 0)
        and (gpu is None or one.count >= gpu.count)
        and (gpu is None or not gpu.type or any(is_called(one.accelerator, kind) for kind in gpu.type))
        and (resources.spot == "never" or one.spot or (resources.spot == "prefer" and settings.on_demand_fallback))
    )


def _cost(one: InstanceType, settings: Settings) -> tuple[bool, Decimal, str]:
    price = settings.prices.get(one.name, one.usd_per_hour)
    return price is None, price or Decimal(0), one.name


def markets(resources: Resources, settings: Settings) -> tuple[Market, ...]:
    """Return how machines are bought, in order."""
    if resources.spot == "never":
        return (Market.ON_DEMAND,)
    if resources.spot == "only" or not settings.on_demand_fallback:
        return (Market.SPOT,)
    return (Market.SPOT, Market.ON_DEMAND)


def candidates(
    types: Sequence[InstanceType],
    market_order: Sequence[Market],
    zones: Callable[[str], Zones],
    price: Callable[[str, str, Market], Price | None],
    *,
    key: str,
    avoid: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """Return all candidates in order: by market, then type, then zone.

    Args:
        types: best first.
        market_order: as ``markets`` says.
        zones: instance type -> where it is offered and we have a subnet.
        price: of an instance type in a zone on a market.
        key: the trial's; it shuffles zones that are alike, so that many trials do not all start with the same one.
        avoid: zones that took a spot machine away a moment ago; they come last.
    """
    found = []
    for market in market_order:
        for one in types:
            if market is Market.SPOT and not one.spot:
                continue
            here = [
                Candidate(
                    instance_type=one.name, zone=zone, subnet=subnet, market=market, price=price(one.name, zone, market)
                )
                for zone, subnet in zones(one.name)
            ]
            here.sort(
                key=lambda c: (
                    c.zone in avoid,
                    c.price is None,
                    c.price.usd_per_hour if c.price is not None and c.market is Market.SPOT else Decimal(0),
                    hashlib.sha256(f"{key} {c.zone} {c.subnet}".encode()).digest(),
                )
            )
            found += here
    return tuple(found)


def to_json(one: Candidate) -> Mapping[str, object]:
    """Return the candidate as a lease holds it."""
    price = one.price
    return {
        "instance_type": one.instance_type,
        "zone": one.zone,
        "subnet": one.subnet,
        "market": one.market.value,
        "price": None
        if price is None
        else {"usd_per_hour": str(price.usd_per_hour), "source": price.source, "date": price.date},
    }


def from_json(data: Mapping[str, object]) -> Candidate:
    """Return the candidate that a lease holds."""
    price = data["price"]
    assert price is None or isinstance(price, Mapping)
    return Candidate(
        instance_type=str(data["instance_type"]),
        zone=str(data["zone"]),
        subnet=str(data["subnet"]),
        market=Market(str(data["market"])),
        price=None
        if price is None
        else Price(usd_per_hour=Decimal(price["usd_per_hour"]), source=price["source"], date=price["date"]),
    )

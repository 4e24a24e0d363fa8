"""What machines cost by the hour, and so what a trial may cost: from the settings, AWS or the catalog, always dated."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from gitops_ml.backends.aws_ec2.candidates import Market, Price, fitting_types, markets
from gitops_ml.backends.aws_ec2.catalog import PRICE_REGION, PRICE_SOURCE, catalog
from gitops_ml.backends.aws_ec2.cloud import SPOT_SOURCE, Cloud
from gitops_ml.backends.aws_ec2.money import bound, disk_gib, hourly_usd, worst_usd
from gitops_ml.backends.aws_ec2.settings import Settings
from gitops_ml.errors import UserError
from gitops_ml.planning import Estimate, Trial

PriceOf = Callable[[str, str, Market], Price | None]
"""(instance type, zone, market) -> its price; an empty zone: the dearest one."""


def offline_prices(settings: Settings, region: str) -> PriceOf:
    """Return prices that need no network; what is on no list we have is not known."""

    def price(name: str, _zone: str, _market: Market) -> Price | None:
        # On spot as on demand: it is what a spot machine costs at most.
        return _set(settings, name) or _listed(name, region)

    return price


def live_prices(settings: Settings, cloud: Cloud, types: Sequence[str], *, spot: bool) -> PriceOf:
    """Return today's prices as AWS says them; where it does not, the catalog's."""
    by_zone: Mapping[tuple[str, str], Price] = cloud.spot_prices(types) if spot else {}

    def price(name: str, zone: str, market: Market) -> Price | None:
        if (own := _set(settings, name)) is not None:
            return own
        if market is Market.SPOT:
            fitting = [one for place, one in by_zone.items() if place[0] == name and (not zone or place[1] == zone)]
            if fitting:
                return max(fitting, key=lambda one: one.usd_per_hour)
        return cloud.list_price(name) or _listed(name, cloud.region)

    return price


def _set(settings: Settings, name: str) -> Price | None:
    usd = settings.prices.get(name)
    return None if usd is None else Price(usd_per_hour=usd, source="gitops-ml.yaml", date="")


def _listed(name: str, region: str) -> Price | None:
    known = catalog().get(name)
    if known is None or known.usd_per_hour is None or region != PRICE_REGION:
        return None
    return Price(usd_per_hour=known.usd_per_hour, source=PRICE_SOURCE, date=known.priced_on)


def estimate(trial: Trial, settings: Settings, region: str, price_of: Callable[[Sequence[str]], PriceOf]) -> Estimate:
    """Return what the trial may cost, and on which machines.

    Args:
        trial: as it is planned.
        settings: of the backend.
        region: where its machine would be; empty: not known.
        price_of: gives prices for instance types.
    """
    experiment = trial.experiment
    try:
        types = fitting_types(experiment, settings)
    except UserError as error:
        return Estimate(note=str(error))
    order = markets(experiment.resources, settings)
    names = [one.name for one in types]
    price = price_of(names)
    found = {
        (one.name, market): price(one.name, "", market)
        for market in order
        for one in types
        if market is Market.ON_DEMAND or one.spot
    }
    known = [one for one in found.values() if one is not None]
    shown = tuple(f"{name} {market}: {_shown(one, market)}" for (name, market), one in found.items())
    if not known or len(known) < len(found):
        where = f"in {region}" if region else "without a region"
        missing = ", ".join(dict.fromkeys(name for (name, _), one in found.items() if one is None))
        note = f"the price of {missing} {where} is not known here; backends.aws-ec2.prices can say it"
        return Estimate(instance_type=names[0], instance_types=tuple(names), region=region, candidates=shown, note=note)
    dearest = max(known, key=lambda one: one.usd_per_hour)
    hourly = hourly_usd(dearest.usd_per_hour, disk_gib(experiment))
    limit = bound(experiment, hourly)
    note = f"at most {limit.total_min} min at {hourly:.4f} USD/h with disk and address, set by {limit.by}"
    return Estimate(
        worst_usd=worst_usd(limit, hourly),
        duration_s=None,
        source=f"{dearest.source}, {dearest.date}".removesuffix(", "),
        instance_type=names[0],
        instance_types=tuple(names),
        region=region,
        candidates=shown,
        note=note,
    )


def _shown(price: Price | None, market: Market) -> str:
    if price is None:
        return "its price is not known"
    return f"at most {price}" if market is Market.SPOT and price.source != SPOT_SOURCE else str(price)


def dearest_hourly(prices: Sequence[Price | None], gib: int) -> Decimal | None:
    """Return the highest hourly price with disk and address; None: one is not known."""
    known = [one.usd_per_hour for one in prices if one is not None]
    return hourly_usd(max(known), gib) if known and len(known) == len(prices) else None

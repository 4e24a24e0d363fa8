"""Which machines EC2 has, as far as this version knows: shapes and dated list prices. A plan needs no network."""

import csv
import functools
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from gitops_ml.values import dataclass

PRICE_REGION = "us-east-1"
"""The one region whose prices the catalog holds."""
PRICE_SOURCE = "catalog"
DISK_USD_PER_GIB_MONTH = Decimal("0.08")
"""gp3 in us-east-1, 2026-01-19."""
ADDRESS_USD_PER_HOUR = Decimal("0.005")
"""A public IPv4 address, everywhere, 2026-01-19."""
HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """One kind of machine."""

    name: str
    accelerator: str
    """Such as L4; empty: none."""
    count: Decimal
    """How many accelerators; a fraction is a share of one."""
    accelerator_memory_gib: float
    """Of each."""
    vcpus: int
    memory_gib: float
    arch: str
    spot: bool
    family: str
    """The family of AWS's quotas: G, P, Standard, ..."""
    usd_per_hour: Decimal | None
    """Linux, on demand, in ``PRICE_REGION``; None: not known."""
    priced_on: str
    """Date of the price."""


@functools.cache
def catalog() -> dict[str, InstanceType]:
    """Return all known instance types by name."""
    with Path(__file__).with_name("catalog.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {
        row["instance_type"]: InstanceType(
            name=row["instance_type"],
            accelerator=row["accelerator"],
            count=Decimal(row["count"]),
            accelerator_memory_gib=float(row["accelerator_memory_gib"] or 0),
            vcpus=int(row["vcpus"]),
            memory_gib=float(row["memory_gib"]),
            arch=row["arch"],
            spot=row["spot"] == "yes",
            family=row["family"],
            usd_per_hour=Decimal(row["usd_per_hour"]) if row["usd_per_hour"] else None,
            priced_on=row["priced_on"],
        )
        for row in rows
    }


def accelerators() -> tuple[str, ...]:
    """Return the names of all known kinds of GPU and other accelerators, sorted."""
    return tuple(sorted({one.accelerator for one in catalog().values() if one.accelerator}))


def is_called(accelerator: str, asked: str) -> bool:
    """Say whether a kind of GPU is what a spec asks for: `A100` is also the one with 80 GB, case does not matter."""
    plain, wanted = _plain(accelerator), _plain(asked)
    return plain == wanted or _plain(accelerator.partition("-")[0]) == wanted


def family_of(name: str) -> str:
    """Return the quota family of an instance type, also of one that is not in the catalog."""
    known = catalog().get(name)
    if known is not None:
        return known.family
    letters = re.match(r"[a-z]+", name)
    first = letters[0] if letters else name
    for family in ("Inf", "Trn", "DL", "HPC"):
        if first.startswith(family.lower()):
            return family
    return {"g": "G", "v": "G", "p": "P", "f": "F", "x": "X", "u": "U"}.get(first[:1], "Standard")


def gpus(types: Iterable[InstanceType]) -> list[InstanceType]:
    """Return those with NVIDIA GPUs."""
    return [one for one in types if one.accelerator and one.family in ("G", "P")]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()

"""The agent's input, ``trial.json``: one trial resolved into what the training machine must do.

Written by the caller into the bundle, read by the agent; names and shapes are a contract between versions,
because a job may outlive the gitops-ml that submitted it. Paths are relative to the workdir.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1


class OrdersError(Exception):
    """The orders are not what this agent understands."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A part of the command that only this machine knows: ``output``, ``checkpoints`` or ``data`` (with its name)."""

    kind: str
    name: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataOrder:
    """One named input to bring to the machine."""

    name: str
    uri: str
    version: str | None = None
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of a path whose content lies elsewhere: ``kind`` (``dvc``, ``lfs``), and what that kind needs to find it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What to do for one trial. Holds names of secrets, never their values."""

    key: str
    experiment: str
    seed: int
    shell: bool
    """The one argument is a script for bash; otherwise the arguments are the command."""
    arguments: tuple[tuple[str | Hole, ...], ...]
    workdir: str = "."
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    python: str | None = None
    requirements: str | None = None
    image: str | None = None
    """A container image with its digest, instead of a Python of the machine."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    data: tuple[DataOrder, ...] = ()
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the caller has set about fetching data, such as ``HF_ENDPOINT``; never a credential."""
    gpus: int = 0
    max_duration_s: float | None = None
    max_wait_s: float | None = None
    no_output_s: float | None = None
    metrics: tuple[str, ...] = ()
    """Globs; a training that leaves no match has failed."""
    outputs: tuple[str, ...] = ()
    """Further globs to bring back: artifacts and predictions."""
    checkpoints: str | None = None


def to_json(orders: Orders) -> bytes:
    """Return the bytes of ``trial.json``; equal orders give equal bytes."""
    data = dataclasses.asdict(orders) | {"format": FORMAT}
    data["arguments"] = [
        [part if isinstance(part, str) else {"kind": part.kind, "name": part.name} for part in argument]
        for argument in orders.arguments
    ]
    return json.dumps(data, sort_keys=True, indent=1, allow_nan=False).encode()


def from_json(text: bytes) -> Orders:
    """Return the orders that the bytes hold.

    Raises:
        OrdersError: they were written for another version of the agent, or are broken.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        written = data.pop("format", None)
        if written != FORMAT:
            raise OrdersError(f"trial.json has format {written}; this agent understands {FORMAT}")
        data["arguments"] = tuple(
            tuple(part if isinstance(part, str) else Hole(**part) for part in argument)
            for argument in data["arguments"]
        )
        data["data"] = tuple(DataOrder(**entry) for entry in data["data"])
        for name in ("secrets", "metrics", "outputs"):
            data[name] = tuple(data[name])
        return Orders(**data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OrdersError(f"trial.json is broken: {error}") from error

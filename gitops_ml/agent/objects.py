"""What a caller and a far training machine share: objects in storage, by name.

A contract between versions, because a job may outlive the gitops-ml that submitted it. All times are Unix seconds.
Objects are immutable unless it is said; of two that belong together the one that vouches for the other comes last.

    agents/DIGEST.zip              the agent program, by its SHA-256
    bundles/DIGEST.tar             a trial's bundle, by its SHA-256
    environments/...               packages that were fetched once, by the digest of what asked for them
    known/KEY.json                 which trial it is, for people: repository, experiment, seed, params, submitted_at;
                                   replaced with each attempt
    jobs/KEY/N/lease.json          attempt N may start, created once: what is started, where, until when
    jobs/KEY/N/cancel.json         somebody wants it ended: by, reason, at
    jobs/KEY/N/heartbeat.json      replaced every few seconds by the machine: `Heartbeat`
    jobs/KEY/N/logs/OFFSET         a piece of the log from that byte on; pieces follow each other without a gap
    jobs/KEY/N/outputs/PATH        an output, from the workdir
    jobs/KEY/N/boot.json           why a machine could not start the agent program: reason
    jobs/KEY/N/result.json         how it ended, written once and last: the agent's result, with digests of all outputs
    jobs/KEY/checkpoints/...       kept over attempts until one succeeds; the machine's own affair

``result.json`` holds what the agent's own does (outcome, reason, exit_code, started_at, training_started_at, ended_at,
progress, hardware, files: of each path, sha256, size_bytes) and: ``cause`` (one word, see ``processes.Ending``),
``machine`` (id, type, zone, image, market, as far as known), ``gpus`` and ``idle_share`` (as in `Heartbeat`),
``resumed_from`` (a checkpoint's name or null), ``log_bytes``, ``timings_s`` (step -> seconds after the machine's start)
and ``notes`` (what went wrong on the way and did not decide). ``files`` are those that are in storage.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

FORMAT = 1


class ObjectError(Exception):
    """An object in storage is not what this version understands."""


def agent(digest: str) -> str:
    """Return the name of an agent program."""
    return f"agents/{digest}.zip"


def bundle(digest: str) -> str:
    """Return the name of a bundle."""
    return f"bundles/{digest}.tar"


def job(key: str) -> str:
    """Return the name of the object that says which trial a key is."""
    return f"known/{key}.json"


def attempt(key: str, number: int, part: str = "") -> str:
    """Return the name of a part of an attempt; without one the prefix of all its parts."""
    return f"jobs/{key}/{number}/{part}"


def log_piece(key: str, number: int, offset: int) -> str:
    """Return the name of the piece of log that starts at a byte; names sort as the offsets do."""
    return attempt(key, number, f"logs/{offset:015d}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """What attempt ``number`` of a trial may start. Every request to the cloud is a pure function of it."""

    key: str
    number: int
    repository: str
    """Whose it is: the scope of tags, secrets and sweeps."""
    created_at: float
    owner: str
    """Who created it, for people: a CI run's address, or a user at a host."""
    bundle: str
    """SHA-256 of the bundle."""
    agent: str
    """SHA-256 of the agent program."""
    wait_until: float
    """No machine is asked for after this, but for the first round of asking."""
    lifetime_min: int
    """Minutes after its boot at which a machine ends itself, whatever happens: never more than the money allows."""
    expires_at: float
    """When the last machine that this lease can start must be gone."""
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name -> where the machine finds the value (an SSM parameter). Never a value."""
    index_url: str = ""
    """Where packages come from the first time, without a credential; empty: as the image is configured."""
    grace_s: float = 60
    """Between the wish to end a training and its end by force."""
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """For what CI asked for it: head, change (a number or null), fork; empty: a person did. For callers alone."""
    cloud: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The backend's own part: region, image, candidates, disk, prices. The machine does not read it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The machine lives, and how far it is."""

    at: float
    """By the machine's clock, which may be wrong: that it changes counts."""
    beat: int
    """Counts up from 1."""
    phase: str
    """fetch, environment, training, collecting or ending."""
    state: str
    """The job's state, as the agent says it."""
    machine: str = ""
    """The instance's id."""
    progress: str = ""
    training_started_at: float | None = None
    log_bytes: int = 0
    """How much of the log is in storage."""
    gpus: Sequence[Mapping[str, Any]] = ()
    """Of each: ``utilization`` (0 to 1), ``memory_used_bytes``, ``memory_bytes``."""
    idle_share: float | None = None
    """Share of the training's time so far in which no GPU worked; None: no GPU, or not known."""


_T = TypeVar("_T", Lease, Heartbeat)


def to_json(value: Lease | Heartbeat) -> bytes:
    """Return the object's bytes; equal values give equal bytes."""
    return json.dumps(dataclasses.asdict(value) | {"format": FORMAT}, sort_keys=True, allow_nan=False).encode()


def lease_from(text: bytes) -> Lease:
    """Return the lease that the bytes hold; fields of a newer version are passed over.

    Raises:
        ObjectError: broken, or of another format.
    """
    return _from(Lease, text, "lease.json")


def heartbeat_from(text: bytes) -> Heartbeat:
    """Return the heartbeat that the bytes hold; fields of a newer version are passed over.

    Raises:
        ObjectError: broken, or of another format.
    """
    return _from(Heartbeat, text, "heartbeat.json")


def _from(kind: type[_T], text: bytes, name: str) -> _T:
    try:
        data = json.loads(text)
        if data.get("format") != FORMAT:
            raise ObjectError(f"{name} has format {data.get('format')}; this version understands {FORMAT}")
        known = {field.name for field in dataclasses.fields(kind)}
        return kind(**{key: value for key, value in data.items() if key in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise ObjectError(f"{name} is broken: {error}") from error

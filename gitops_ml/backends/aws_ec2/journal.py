"""The edge to storage: what a caller reads and writes of a trial's attempts.

Beside what ``gitops_ml.agent.objects`` names, a caller keeps for itself:

    jobs/KEY/N/asking/NNNN.json        whose turn it is to ask for a machine; the first turn is the lease's creator's
    jobs/KEY/N/asking/NNNN.tries.json  what the turn asked for and was answered; replaced after each answer
    jobs/KEY/N/condemned.json          why the machine was given up, before it was ended
    jobs/KEY/N/ending.json             how it ended and what it cost, once its machine is gone
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gitops_ml.agent import objects
from gitops_ml.agent.objects import Heartbeat, Lease, ObjectError
from gitops_ml.backends.aws_ec2.leases import terms_of
from gitops_ml.backends.aws_ec2.verdicts import Asking
from gitops_ml.errors import ServiceError
from gitops_ml.storage.base import Storage, StorageError
from gitops_ml.values import dataclass

TURN_S = 90.0
"""How long a turn goes on after its last sign, when nobody can tell whether its holder lives."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One candidate that was asked for, by its place in the lease, and EC2's answer."""

    candidate: int
    code: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One holder's asking for a machine: once through the candidates."""

    number: int
    place: str
    """Where its holder is or was."""
    at: float
    """Its last sign."""
    tries: tuple[Try, ...] = ()
    started: str = ""
    started_at: float = 0
    candidate: int | None = None
    """What was started, by its place in the lease."""
    spent: bool = False
    closed: bool = False
    retry_at: float = 0

    def free_at(self) -> float:
        """Return when somebody else may take the next turn."""
        return self.retry_at if self.closed else self.at + TURN_S


class Journal:
    """The attempts of all trials. Every failure of the storage is a ``ServiceError``."""

    def __init__(self, storage: Callable[[], Storage]) -> None:
        self._storage = storage
        self._closed: dict[tuple[str, int, int], Turn] = {}
        """Turns that change no more: a long wait has hundreds."""

    # Attempts

    def lease(self, key: str, number: int) -> Lease | None:
        """Return an attempt's lease; None: it was never started."""
        data = self.get(objects.attempt(key, number, "lease.json"))
        return None if data is None else _read(objects.lease_from, data)

    def newest(self, key: str, *, known: int = 0) -> Lease | None:
        """Return the newest attempt's lease, looking from a number on that is known to be there."""
        found = None
        number = max(1, known)
        while (lease := self.lease(key, number)) is not None:
            found, number = lease, number + 1
        return found

    def heartbeat(self, lease: Lease) -> Heartbeat | None:
        """Return the machine's last sign."""
        data = self.get(self.name(lease, "heartbeat.json"))
        try:
            return None if data is None else objects.heartbeat_from(data)
        except ObjectError:
            return None  # a later machine's format, or a torn one: the cloud is still a witness

    def document(self, lease: Lease, part: str) -> Mapping[str, Any] | None:
        """Return a JSON object of the attempt; None: there is none, or it is none."""
        data = self.get(self.name(lease, part))
        if data is None:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def name(self, lease: Lease, part: str) -> str:
        """Return the name of a part of the attempt."""
        return objects.attempt(lease.key, lease.number, part)

    # Turns

    def turns(self, lease: Lease) -> list[Turn]:
        """Return all turns of the attempt, oldest first."""
        prefix = self.name(lease, "asking/")
        names = set(self.names(prefix))
        numbers = {1, *(int(part) for name in names if (part := name[len(prefix) :][:4]).isdecimal())}
        found = []
        for number in sorted(numbers):
            if (turn := self._closed.get((lease.key, lease.number, number))) is not None:
                found.append(turn)
                continue
            place, at = terms_of(lease).place, lease.created_at
            if (name := f"{prefix}{number:04d}.json") in names:
                opened = json.loads(self.get(name) or b"{}")
                place, at = str(opened.get("place", "")), float(opened.get("at", at))
            turn = Turn(number=number, place=place, at=at)
            if (name := f"{prefix}{number:04d}.tries.json") in names:
                said = json.loads(self.get(name) or b"{}")
                known = {field.name for field in dataclasses.fields(Turn)} & said.keys() - {"tries"}
                turn = dataclasses.replace(
                    turn,
                    **{field: said[field] for field in known},
                    tries=tuple(Try(**entry) for entry in said.get("tries", ())),
                )
            found.append(turn)
            if turn.closed:
                self._closed[lease.key, lease.number, number] = turn
        return found

    def open_turn(self, lease: Lease, number: int, place: str, now: float) -> Turn | None:
        """Take a turn; None: somebody else has it."""
        name = self.name(lease, f"asking/{number:04d}.json")
        data = json.dumps({"place": place, "at": now}, sort_keys=True).encode()
        if not self.create(name, data):
            return None
        return Turn(number=number, place=place, at=now)

    def keep_turn(self, lease: Lease, turn: Turn) -> None:
        """Write down how far a turn is."""
        data = dataclasses.asdict(turn)
        self.put(self.name(lease, f"asking/{turn.number:04d}.tries.json"), json.dumps(data, sort_keys=True).encode())

    # The storage itself

    def get(self, name: str) -> bytes | None:
        """Return an object; None: there is none."""
        return self._ask(lambda storage: storage.get(name))

    def get_file(self, name: str, file: Path) -> bool:
        """Bring an object into a file; False: there is none."""
        return self._ask(lambda storage: storage.get_file(name, file))

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._ask(lambda storage: storage.put(name, data))

    def put_file(self, name: str, file: Path) -> None:
        """Write a file's content as an object."""
        self._ask(lambda storage: storage.put_file(name, file))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists."""
        return self._ask(lambda storage: storage.create(name, data))

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Return the names that start with a prefix."""
        return self._ask(lambda storage: list(storage.names(prefix, after=after)))

    def has(self, name: str) -> bool:
        """Say whether there is such an object."""

        def look(storage: Storage) -> bool:
            return next(iter(storage.names(name)), None) == name

        return self._ask(look)

    def written_at(self, lease: Lease, *parts: str) -> float | None:
        """Return when the newest of these parts of the attempt was written, by the storage's clock."""
        names = [self.name(lease, part) for part in parts]
        found = self._ask(lambda storage: [storage.written_at(name) for name in names])
        return max((moment for moment in found if moment is not None), default=None)

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        for name in names:
            self._ask(lambda storage, name=name: storage.delete(name))  # type: ignore[misc]

    def _ask(self, call: Callable[[Storage], _T]) -> _T:
        try:
            return call(self._storage())
        except StorageError as error:
            raise ServiceError(f"storage: {error}", lasting=error.lasting) from error


def asking_of(lease: Lease, turns: Sequence[Turn]) -> Asking:
    """Return how far the asking for a machine is."""
    candidates = terms_of(lease).candidates
    last = turns[-1]
    started = next((turn for turn in turns if turn.started), None)
    place = started.candidate if started is not None else None
    return Asking(
        refused=tuple(
            f"{candidates[entry.candidate]}: {entry.code}" for turn in turns for entry in turn.tries if entry.code
        ),
        started=started.started if started else "",
        started_at=started.started_at if started else 0,
        candidate=candidates[place] if place is not None else None,
        spent=any(turn.spent for turn in turns),
        busy_until=0 if last.closed else last.free_at(),
        retry_at=last.free_at(),
    )


def lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Return the log's lines without their ends, of pieces that follow each other."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _read(parse: Callable[[bytes], _T], data: bytes) -> _T:
    try:
        return parse(data)
    except ObjectError as error:
        raise ServiceError(f"storage: {error}") from error

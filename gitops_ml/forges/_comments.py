"""Leave exactly one comment of ours per change and marker, whatever fails between.

Every attempt starts by looking at what is there, so a write whose answer was lost is recognised by its nonce instead of
being repeated. Two processes that both found nothing both write; each looks again and both choose the same survivor.
The forges have no conditional edit: when two runs edit one comment within the same instant the later write stands, and
the next run puts it right.
"""

import re
from typing import Protocol

from gitops_ml.forges._calls import Patience, TransientError
from gitops_ml.forges.base import CommentRef, Told
from gitops_ml.values import dataclass

MARKER = re.compile(r"<!-- gitops-ml comment=[^\n>]{1,200} -->")
# What `text_of` puts around the body is at most this long.
HEADER_BYTES = 512

_STATE = re.compile(
    r"<!-- gitops-ml order=(?P<run>[0-9]{1,18})\.(?P<attempt>[0-9]{1,18})"
    r"(?: commit=(?P<commit>[0-9a-f]{40}|[0-9a-f]{64}))? nonce=(?P<nonce>[0-9a-f]{1,64}) -->",
    re.ASCII,
)
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """When a text was made: by which run (0: none, on a laptop), and for which commit."""

    run: int = 0
    attempt: int = 1
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnComment:
    """A comment that our own identity wrote."""

    number: int
    url: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A change and all comments in it that our own identity wrote, in any order."""

    url: str
    head: str
    open: bool
    own: tuple[OwnComment, ...]


class Thread(Protocol):
    """The comments of one change. Each method raises ``TransientError`` or ``CannotPublishError``."""

    def look(self) -> Seen:
        """Return all of our comments: one page that cannot be read fails the whole."""

    def create(self, text: str) -> None:
        """Add a comment."""

    def edit(self, comment: OwnComment, text: str) -> bool:
        """Replace a comment's text; False: it is gone."""

    def delete(self, comment: OwnComment) -> None:
        """Remove a comment; one that is gone is no error."""


def upsert(thread: Thread, *, marker: str, body: str, order: Order, nonce: str, patience: Patience) -> CommentRef:
    """Bring the change's comments to one that holds the newest text, and say what that took."""
    text = text_of(marker=marker, body=body, order=order, nonce=nonce)
    created = False

    def once() -> CommentRef:
        nonlocal created
        for _ in range(_ROUNDS):
            seen = thread.look()
            ours = [comment for comment in seen.own if _lines(comment.text)[:1] == [marker]]
            if not seen.open:
                return CommentRef(url=ours[0].url if ours else seen.url, action="closed")
            if not ours:
                created = True
                thread.create(text)
                continue
            survivor = max(ours, key=lambda comment: (_rank(order_of(comment.text), seen.head), -comment.number))
            if nonce_of(survivor.text) == nonce:
                action = "created" if created else "updated"
            elif _is_newer(order_of(survivor.text), order, head=seen.head):
                action = "outdated"
            elif _says_the_same(survivor.text, text):
                action = "unchanged"
            elif thread.edit(survivor, text):
                action = "updated"
            else:
                continue
            for surplus in ours:
                if surplus.number != survivor.number:
                    thread.delete(surplus)
            return CommentRef(url=survivor.url, action=action)
        raise TransientError("the comment is removed or added again as soon as it is looked at")

    return patience.keep_trying(once)


def told(thread: Thread, *, marker: str, patience: Patience) -> Told | None:
    """Return what the newest comment of ours with this marker reports on. Nobody else's comment counts."""
    seen = patience.keep_trying(thread.look)
    orders = [order_of(comment.text) for comment in seen.own if _lines(comment.text)[:1] == [marker]]
    newest = max(filter(None, orders), key=lambda order: _rank(order, seen.head), default=None)
    return Told(commit=newest.commit, run_id=newest.run) if newest and newest.commit else None


def text_of(*, marker: str, body: str, order: Order, nonce: str) -> str:
    """Return what stands in the comment: the marker, who wrote it when, and the body."""
    commit = f" commit={order.commit}" if order.commit else ""
    state = f"<!-- gitops-ml order={order.run}.{order.attempt}{commit} nonce={nonce} -->"
    # A body may bring its marker along.
    return f"{marker}\n{state}\n{body.removeprefix(marker).lstrip(chr(10))}"


def body_of(text: str) -> str:
    """Return the body that ``text_of`` was given, line ends and trailing blanks put in order."""
    lines = _lines(text)[1:]
    return "\n".join(lines[1:] if lines and _STATE.fullmatch(lines[0]) else lines)


def order_of(text: str) -> Order | None:
    """Return when a comment of ours was written; None: it does not say. Only for texts of our own identity."""
    found = _state(text)
    if found is None:
        return None
    return Order(run=int(found["run"]), attempt=int(found["attempt"]), commit=found["commit"])


def nonce_of(text: str) -> str | None:
    """Return the nonce of the write that made the text."""
    found = _state(text)
    return found["nonce"] if found else None


def _state(text: str) -> re.Match[str] | None:
    return next((_STATE.fullmatch(line) for line in _lines(text)[1:2]), None)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n")]


def _rank(order: Order | None, head: str) -> tuple[bool, int, int]:
    if order is None:
        return (False, -1, -1)
    return (order.commit == head, order.run, order.attempt)


def _is_newer(theirs: Order | None, ours: Order, *, head: str) -> bool:
    if theirs is None:
        return False
    if theirs.commit and ours.commit and (theirs.commit == head) != (ours.commit == head):
        return theirs.commit == head
    if not (theirs.run and ours.run):
        return False
    return (theirs.run, theirs.attempt) > (ours.run, ours.attempt)


def _says_the_same(one: str, other: str) -> bool:
    # Of a later run or commit even the same body is written: the comment must carry the newest order, or a run
    # between the two that ends last would count as newer.
    first, second = order_of(one), order_of(other)
    same_run = first is not None and second is not None and (first.run, first.commit) == (second.run, second.commit)
    return same_run and body_of(one) == body_of(other)

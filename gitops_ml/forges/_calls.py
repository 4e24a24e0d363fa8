"""Calls to a forge that may fail for a while: how long to wait, when to give up, what the service said.

The clients' own retries are switched off. They repeat writes blindly (one comment becomes three when the answer is
lost) and sleep without a cap (until a rate limit resets, up to an hour on a paid machine).
"""

import random
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from gitops_ml.errors import ServiceError

Result = TypeVar("Result")

MAX_TRIES = 6


class TransientError(Exception):
    """The call may work later. Of a write it is not known whether it took effect: look before writing again."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        """``wait_s``: how long the service asks us to wait; None: it does not say."""
        super().__init__(message)
        self.wait_s = wait_s


class Patience:
    """Time that one command may lose to failing calls, all of them together.

    Args:
        cap_s: seconds, of waiting and of calls that failed; past it the next failure is final.
        total_s: seconds that all calls may take together, whether they fail or not.
        sleep: waits for some seconds.
        clock: seconds that only rise.
        jitter: a number in [0, 1), so that many jobs do not come back at the same moment.
    """

    def __init__(
        self,
        *,
        cap_s: float = 60.0,
        total_s: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.cap_s = cap_s
        self.total_s = total_s
        self._left_s = cap_s
        self._spent_s = 0.0
        self._since: float | None = None
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter

    def keep_trying(self, act: Callable[[], Result]) -> Result:
        """Call ``act`` until it does not raise ``TransientError``. A write must look first, inside ``act``.

        Raises:
            ServiceError: tries or time are used up, or the service asks for a longer wait than is left.
        """
        for number in range(1, MAX_TRIES + 1):
            started = self._clock()
            try:
                return self._timed(act)
            except TransientError as error:
                self._left_s -= self._clock() - started
                wait_s = error.wait_s
                if wait_s is None:
                    wait_s = 2.0 ** (number - 1) * (0.5 + self._jitter() / 2)
                if number == MAX_TRIES:
                    raise ServiceError(f"{error}; gave up after {number} tries") from error
                if wait_s > self._left_s:
                    raise ServiceError(
                        f"{error}; the next try would be in {wait_s:.0f} s, and at most {self.cap_s:.0f} s are "
                        "spent on waiting; try again later"
                    ) from error
            self._sleep(wait_s)
            self._left_s -= wait_s
        raise AssertionError("the last try returns or raises")

    def apart(self, *, total_s: float) -> "Patience":
        """Return another one, with time of its own, for what is large."""
        return Patience(cap_s=self.cap_s, total_s=total_s, sleep=self._sleep, clock=self._clock, jitter=self._jitter)

    def remaining_s(self) -> float:
        """Return how long calls may still take in all.

        Raises:
            ServiceError: no longer.
        """
        now = 0.0 if self._since is None else self._clock() - self._since
        left_s = self.total_s - self._spent_s - now
        if left_s <= 0:
            raise ServiceError(f"the service took more than {self.total_s:.0f} s in all; try again later")
        return left_s

    def _timed(self, act: Callable[[], Result]) -> Result:
        if self._since is not None:  # a call of a call
            return act()
        self._since = self._clock()
        try:
            return act()
        finally:
            self._spent_s += self._clock() - self._since
            self._since = None


def within(limit_s: float, act: Callable[[], Result]) -> Result:
    """Return what ``act`` returns, if it does so in time; else leave it behind in its thread.

    The clients' time-outs start anew with every byte, so an answer that drips would hold a paid machine for hours.

    Raises:
        TimeoutError: it takes longer. It goes on, and nothing that it uses may be used again.
    """
    done: list[Callable[[], Result]] = []

    def run() -> None:
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 raised again below, where somebody can act on it
            caught = error
            done.append(lambda: _raise(caught))
        else:
            done.append(lambda: result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not done:
        raise TimeoutError
    return done[0]()


def _raise(error: BaseException) -> NoReturn:
    raise error


def said(answer: object, *, secret: str) -> str:
    """Return a service's own words for an error message: one short line, no control characters, never the secret."""
    words = answer
    if isinstance(answer, Mapping):
        # GitLab's `message` may itself be a mapping, of fields to what is wrong with them.
        words = answer.get("message") or answer.get("error") or dict(answer)
    text = str(words or "no reason given")
    if secret:
        text = text.replace(secret, "***")
    text = "".join(" " if unicodedata.category(char).startswith(("C", "Z")) else char for char in text)
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def field(answer: Any, name: str, kind: type[Result]) -> Result:
    """Return a field of a service's answer.

    Raises:
        TransientError: the answer has no such field of that type: it is garbled or cut.
    """
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TransientError(f"the service's answer has no `{name}`")
    return value

"""Do several things side by side."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from gitops_ml.errors import UserError

AT_A_TIME = 10
"""How many objects are read side by side: as many connections as botocore keeps."""
_T = TypeVar("_T")
_R = TypeVar("_R")


def each(call: Callable[[_T], _R], of: Iterable[_T]) -> list[_R]:
    """Return the answers in order; the calls go side by side."""
    items = list(of)
    if len(items) < 2:
        return [call(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(min(AT_A_TIME, len(items))) as pool:
        return list(pool.map(call, items))


def within(seconds: float, calls: Sequence[Callable[[], None]]) -> list[UserError]:
    """Make the calls side by side, wait no longer than that, and return what failed."""
    errors: list[UserError] = []

    def attempt(call: Callable[[], None]) -> None:
        try:
            call()
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(errors)

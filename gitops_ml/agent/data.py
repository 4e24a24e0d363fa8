"""Bring a trial's data to this machine: each entry by its kind, verified before anything is trained."""

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from gitops_ml.agent.cache import DataCache, limit_from
from gitops_ml.agent.orders import Orders
from gitops_ml.datasets import for_uri
from gitops_ml.datasets.base import DatasetError, Outside


def bring(
    orders: Orders,
    workdir: Path,
    *,
    into: Path,
    cache: Path,
    clone: Path | None,
    alone: bool,
    environ: Mapping[str, str],
    wait: Callable[[float], None],
    say: Callable[[str], None],
) -> Mapping[str, Path]:
    """Return where each data entry stands on this machine, by name.

    Args:
        orders: which data.
        workdir: where paths of the repository start.
        into: a folder of this attempt, made anew.
        cache: the folder of this machine's caches.
        clone: the user's repository, if it is on this machine.
        alone: no other trial will use this machine.
        environ: credentials, endpoints and limits, before those that the orders bring.
        wait: sleep, or raise to give up.
        say: takes a line for the log.

    Raises:
        DatasetError: an entry is missing, cannot be reached, or is not what was pinned.
    """
    if not orders.data:
        return {}
    shutil.rmtree(into, ignore_errors=True)
    talking = threading.Lock()

    def say_one(text: str) -> None:
        with talking:
            say(text)

    environ = {**orders.settings, **environ}
    kept = DataCache(cache, limit_bytes=limit_from(environ), alone=alone, wait=wait, say=say_one)
    outside = Outside(environ=environ, cache=kept, wait=wait, say=say_one, workdir=workdir, clone=clone)
    found = {}
    for entry in orders.data:
        try:
            dataset = for_uri(entry.uri, outside, entry.source)
            place = dataset.fetch(entry.uri, entry.version, into / entry.name)
            found[entry.name] = _at_its_path(place, workdir / entry.uri) if entry.source else place
        except DatasetError as error:
            raise type(error)(f"data `{entry.name}`: {error}") from error
    kept.trim()
    return found


def _at_its_path(place: Path, path: Path) -> Path:
    """Let what DVC or Git LFS keeps be found where it would stand in a clone too: code may name that path itself."""
    if path.exists() or path.is_symlink():
        return place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(place.absolute())
    return path.absolute()

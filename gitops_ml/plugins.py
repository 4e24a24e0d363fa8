"""Find a plug-in by its name: built-in and foreign ones alike are entry points, imported on use.

Where they stand is a published format (https://packaging.python.org/en/latest/specifications/entry-points/), read here
as it lies on disk: ``importlib.metadata`` brings parsers of e-mail and zip files along, for which a short command such
as ``validate`` would take a third longer.
"""

import functools
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitops_ml.errors import UserError

FAMILIES = {"backend": "gitops_ml.backends", "forge": "gitops_ml.forges", "reader": "gitops_ml.readers"}


@functools.cache
def known(family: str) -> Mapping[str, str]:
    """Return where the family's plug-ins are (``module:name``) by what they are called, sorted; nothing is imported."""
    return entry_points(FAMILIES[family], sys.path)


def entry_points(group: str, path: Sequence[str]) -> Mapping[str, str]:
    """Return the entry points of what is installed on an import path. On a clash our own wins, else the first."""
    found: dict[str, str] = {}
    for text in _files(path):
        for name, place in _of_group(text, group):
            if name not in found or place.startswith("gitops_ml."):
                found[name] = place
    return dict(sorted(found.items()))


def _files(path: Sequence[str]) -> Iterator[str]:
    for folder in path:
        try:
            names = sorted(entry.name for entry in os.scandir(folder or "."))
        except NotADirectoryError:  # a zip file, which takes more to read
            import importlib.metadata

            for distribution in importlib.metadata.distributions(path=[folder]):
                yield distribution.read_text("entry_points.txt") or ""
            continue
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    yield Path(folder, name, "entry_points.txt").read_text(encoding="utf-8", errors="replace")
                except OSError:  # most packages have none
                    continue


def _of_group(text: str, group: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == group and not line.startswith(("#", ";")) and "=" in line:
            name, _, place = line.partition("=")
            # What follows in brackets are extras, which are no longer used.
            yield name.strip(), place.partition("[")[0].strip()


def load(family: str, name: str) -> Any:
    """Import the plug-in and return what its entry point names.

    Raises:
        UserError: there is none of that name, or a module that it needs is not installed.
    """
    places = known(family)
    if name not in places:
        accepted = ", ".join(places) or "none"
        raise UserError(f"no {family} is called `{name}`; known are: {accepted}")
    try:
        module, _, attributes = places[name].partition(":")
        return functools.reduce(getattr, attributes.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gitops_ml"):
            raise
        extra = {"aws-ec2": "aws"}.get(name, name)
        raise UserError(
            f"the {family} `{name}` needs the module `{error.name}`; install it with `pip install 'gitops-ml[{extra}]'`"
        ) from error

"""Find a plug-in by its name: built-in and foreign ones alike are entry points, imported on use."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gitops_ml.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FAMILIES = {"backend": "gitops_ml.backends", "forge": "gitops_ml.forges", "reader": "gitops_ml.readers"}


@functools.cache
def known(family: str) -> "Mapping[str, EntryPoint]":
    """Return the family's plug-ins by name, sorted; nothing is imported. On a clash our own wins."""
    # Slow to import, and most specs name no plug-in.
    import importlib.metadata

    found = importlib.metadata.entry_points(group=FAMILIES[family])
    ours_last = sorted(found, key=lambda point: point.value.startswith("gitops_ml."))
    return dict(sorted({point.name: point for point in ours_last}.items()))


def load(family: str, name: str) -> Any:
    """Import the plug-in and return what its entry point names.

    Raises:
        UserError: there is none of that name, or a module that it needs is not installed.
    """
    points = known(family)
    if name not in points:
        accepted = ", ".join(points) or "none"
        raise UserError(f"no {family} is called `{name}`; known are: {accepted}")
    try:
        return points[name].load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gitops_ml"):
            raise
        extra = {"aws-ec2": "aws"}.get(name, name)
        raise UserError(
            f"the {family} `{name}` needs the module `{error.name}`; install it with `pip install 'gitops-ml[{extra}]'`"
        ) from error

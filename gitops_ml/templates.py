"""The ``run`` template: only our own namespaces are ours, all else belongs to the shell.

Known names: ``${params.X}``, ``${data.NAME}``, ``${trial.seed}``, ``${trial.output}``,
``${trial.checkpoints}``, ``${trial.key}``. In a string each value is shell-quoted.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """One of our placeholders in a template, such as ``params`` and ``lr``; offset and length in characters."""

    namespace: str
    name: str
    offset: int
    length: int
    quoted: bool
    """It stands inside single quotes, where a quoted value would break: an error in a string template."""


@dataclasses.dataclass(frozen=True, slots=True)
class Malformed:
    """Something in our namespaces that is no exact name, such as ``${params.lr:-1}``."""

    text: str
    offset: int


def references(template: str) -> tuple[Reference | Malformed, ...]:
    """Return our placeholders in the template, in order; foreign ``${...}`` are left out."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class Hole:
    """A part of a rendered command that only the training machine knows.

    ``kind`` is ``output``, ``checkpoints`` or ``data``; ``name`` is the data entry's.
    """

    kind: str
    name: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A rendered command: each argument is a row of texts and holes. With ``shell`` there is one argument."""

    shell: bool
    arguments: tuple[tuple[str | Hole, ...], ...]

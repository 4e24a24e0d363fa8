"""The decorator of values: dataclasses that are made once and never changed.

``frozen=True`` is a promise that the type checker holds everyone to. Checking it again whenever a program runs takes
longer than all else that a dataclass does: until Python 3.13 it doubles the time to make a class, of which a command
makes ninety before it begins, and an object is made three times slower. So it is not checked at run time.

Of the methods only ``__init__`` is written for each class, which it is the faster for. To compile the others too took a
third of the time that the core needs to be imported, and they are no faster than what they share here.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, order: bool = False, **options: Any) -> Callable[[type], type]:
        """Do as ``dataclasses.dataclass`` does; a frozen one can be compared and hashed as there."""
        if order:
            return dataclasses.dataclass(unsafe_hash=frozen, order=True, **options)

        def decorate(cls: type) -> type:
            made = dataclasses.dataclass(repr=False, eq=False, **options)(cls)
            _add_methods(made, hashable=frozen)
            return made

        return decorate


def _add_methods(cls: Any, *, hashable: bool) -> None:
    """Add what the class does not define itself, such as a ``__repr__`` that keeps a secret."""
    own = vars(cls)
    fields = dataclasses.fields(cls)
    compared = _values([field.name for field in fields if field.compare])
    shown = [field.name for field in fields if field.repr]

    def equal(self: Any, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(compared(self))

    def text(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    if "__repr__" not in own:
        cls.__repr__ = text
    if "__eq__" not in own:
        cls.__eq__, cls.__hash__ = equal, hashed if hashable else None


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what takes these attributes: always a tuple, which takes what is identical for equal, also NaN."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)

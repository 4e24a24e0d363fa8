"""The decorator of values: dataclasses that are made once and never changed.

``frozen=True`` is a promise that the type checker holds everyone to. Checking it again whenever a program runs takes
longer than all else that a dataclass does: until Python 3.13 it doubles the time to make a class, of which a command
makes ninety before it begins, and an object is made three times slower. So it is not checked at run time.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, **options: Any) -> Callable[[type], type]:
        """Do as ``dataclasses.dataclass`` does; a frozen one can be compared and hashed as there."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)

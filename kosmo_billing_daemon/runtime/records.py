"""Records: values that nobody changes once they are made.

mypy keeps to that. At run time they are plain dataclasses: one that is ``frozen`` asks a function for each
field of every new object, which is nearly half of the time it takes to make one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform, overload

_T = TypeVar("_T")


@overload
def record(kind: type[_T], /) -> type[_T]: ...


@overload
def record(*, kw_only: bool) -> Callable[[type[_T]], type[_T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(
    kind: type[_T] | None = None, /, *, kw_only: bool = False
) -> type[_T] | Callable[[type[_T]], type[_T]]:
    """Make a class of annotated fields one whose values compare, hash and show by them."""
    made = dataclass(slots=True, kw_only=kw_only, unsafe_hash=True)
    return made if kind is None else made(kind)

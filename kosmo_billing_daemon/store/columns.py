"""A table's columns in one list, from which the names, the values and the statements that write them come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Self

Column = tuple[str, str, str | Callable[[Any], object]]

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Columns:
    """Columns in the order of a row: name, type, and the path from the domain's object to the value.

    The last ones may have a function instead of a path. As text they are their names, for a SELECT;
    ``parameters`` are arrays of their values.
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._names = ", ".join(name for name, _, _ in columns)
        self.parameters = ", ".join(f"${place}::{kind}[]" for place, (_, kind, _) in enumerate(columns, 1))
        self._get = attrgetter(*(path for _, _, path in columns if isinstance(path, str)))
        self._made = [path for _, _, path in columns if not isinstance(path, str)]
        self.width = len(columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self._columns)

    def __str__(self) -> str:
        return self._names

    def of(self, alias: str) -> str:
        """Return the names, each with the table's alias."""
        return ", ".join(f"{alias}.{name}" for name, _, _ in self._columns)

    def only(self, *names: str) -> Self:
        """Return some of them."""
        return type(self)(*(column for column in self._columns if column[0] in names))

    def but(self, *names: str) -> Self:
        """Return all but some."""
        return type(self)(*(column for column in self._columns if column[0] not in names))

    def insert(self, table: str, more: Mapping[str, str] = _NOTHING) -> str:
        """Return the statement that inserts rows, in order: ``values``, and ``more`` alike in each."""
        names = ", ".join([self._names, *more])
        values = ", ".join([self._names, *more.values()])
        return (
            f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({self.parameters})"
            f" WITH ORDINALITY AS row ({self}, place) ORDER BY place"
        )

    def update(self, table: str, more: Mapping[str, str] = _NOTHING) -> str:
        """Return the statement that changes rows, which are found by the first column."""
        key, *others = (name for name, _, _ in self._columns)
        changes = [f"{name} = row.{name}" for name in others] + [
            f"{name} = {to}" for name, to in more.items()
        ]
        return (
            f"UPDATE {table} AS old SET {', '.join(changes)} FROM unnest({self.parameters}) AS row ({self})"
            f" WHERE old.{key} = row.{key} AND old.{key} = ANY ($1)"
        )

    def values(self, rows: Sequence[Any]) -> list[tuple[Any, ...] | None]:
        """Return one tuple for each column; ``None`` for NULLs alone, which ``unnest`` fills in by itself."""
        read = list(zip(*map(self._get, rows), strict=True))
        read += [tuple(map(make, rows)) for make in self._made]
        return [None if _is_null(column) else column for column in read]


def _is_null(column: Sequence[object]) -> bool:
    return column[0] is None and all(value is None for value in column)

"""Several changes in one round trip.

PostgreSQL carries out the parts of one statement on the rows of one moment, in an order that it does not
promise. So what is put together changes different rows, and no part needs what another has changed.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class Statement:
    """A statement that changes rows, and its arguments."""

    sql: str
    arguments: Sequence[Any]


async def combine(connection: Connection, statements: Iterable[Statement | None]) -> list[Any]:
    """Carry out the statements there are; returns the rows that the first of them returns."""
    wanted = [statement for statement in statements if statement is not None]
    if not wanted:
        return []
    sql = joined(tuple(statement.sql for statement in wanted))
    arguments = [argument for statement in wanted for argument in statement.arguments]
    return list(await connection.fetch(sql, *arguments))


@cache
def joined(parts: tuple[str, ...]) -> str:
    """Write statements as one; the rows are those of the first part."""
    if len(parts) == 1:
        return parts[0]
    named = []
    taken = 0
    for place, part in enumerate(parts):
        named.append(f"part_{place} AS ({_renumbered(part, taken)})")
        taken += max((int(number) for number in _ARGUMENT.findall(part)), default=0)
    rows = "SELECT * FROM part_0" if re.search(r"\bRETURNING\b", parts[0]) else "SELECT"
    return f"WITH {', '.join(named)} {rows}"


_ARGUMENT = re.compile(r"\$(\d+)")


def _renumbered(sql: str, taken: int) -> str:
    return _ARGUMENT.sub(lambda match: f"${int(match[1]) + taken}", sql)

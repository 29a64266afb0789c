"""The advisory lock of the leader, its signs of life, and notifications."""

from collections.abc import Callable
from typing import Any

import asyncpg

from kosmo_billing_daemon.store.postgres import CHANNEL, Connection, translated

_CLASS = 1802465133  # "kosm", as everywhere; the second key tells the schema


def _key(schema: str) -> str:
    return f"leader of {schema}"


async def listen(connection: "asyncpg.Connection[Any]", notified: Callable[[str, int], None]) -> None:
    """Pass every notification on: its payload, and the process id of the session that sent it."""
    with translated():
        await connection.add_listener(
            CHANNEL, lambda _connection, pid, _channel, payload: notified(payload, pid)
        )


async def try_lock(connection: "asyncpg.Connection[Any]", schema: str) -> bool:
    """Take the lock if it is free; it is held until the connection ends."""
    with translated():
        taken: bool = await connection.fetchval(
            "SELECT pg_try_advisory_lock($1, hashtext($2))", _CLASS, _key(schema)
        )
        return taken


_HOLDS = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND granted
        AND classid = $1::bigint::oid AND objid = (hashtext($2)::bigint & 4294967295)::oid AND objsubid = 2)
"""


async def holds(connection: "asyncpg.Connection[Any]", schema: str) -> bool:
    """Say whether this connection holds the lock; asking is the sign of life others look for."""
    with translated():
        held: bool = await connection.fetchval(_HOLDS, _CLASS, _key(schema))
        return held


_END_SILENT = """
SELECT count(pg_terminate_backend(a.pid)) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1::bigint::oid
    AND l.objid = (hashtext($2)::bigint & 4294967295)::oid AND l.objsubid = 2
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.pid <> pg_backend_pid() AND a.state_change < clock_timestamp() - make_interval(secs => $3)
"""


async def end_silent_leader(connection: "asyncpg.Connection[Any]", schema: str, seconds: float) -> bool:
    """End the connection that holds the lock when it gave no sign of life for ``seconds``."""
    with translated():
        ended: int = await connection.fetchval(_END_SILENT, _CLASS, _key(schema), seconds)
        return ended > 0


_HELD = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND classid = $1::bigint::oid AND objid = (hashtext($2)::bigint & 4294967295)::oid AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


async def is_held(connection: Connection, schema: str) -> bool:
    """Say whether any daemon leads now."""
    held: bool = await connection.fetchval(_HELD, _CLASS, _key(schema))
    return held

"""The advisory lock of the leader, its signs of life, and notifications."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from weakref import WeakSet

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.errors import DatabaseAway, translated
from kosmo_billing_daemon.store.postgres import CHANNEL, Connection, Pool
from kosmo_billing_daemon.store.session_settings import POOLER, POOLER_ADVICE

SILENT_FOR = 12.0
"""Seconds without a sign of life after which a leader counts as frozen."""

_CLASS = 1802465133  # "kosm", as everywhere; the second key tells the schema


def _key(schema: str) -> str:
    return f"leader of {schema}"


def _work_key(schema: str) -> str:
    """Of the lock by which a leader shows that its work has begun."""
    return f"leader of {schema} at work"


async def listen(connection: Connection, notified: Callable[[str, int], None]) -> None:
    """Pass every notification on: its payload, and the process id of the session that sent it."""
    with translated():
        await connection.add_listener(
            CHANNEL, lambda _connection, pid, _channel, payload: notified(payload, pid)
        )


_TRY_LOCK = "SELECT pg_try_advisory_lock($1, hashtext($2))"


async def try_lock(connection: Connection, schema: str) -> bool:
    """Take the lock if it is free; it is held until the connection ends."""
    with translated():
        return bool(await connection.fetchval(_TRY_LOCK, _CLASS, _key(schema)))


async def show_work(connection: Connection, schema: str) -> None:
    """Let others see that the leader's work has begun, for as long as the connection lasts."""
    with translated():
        await connection.execute(_TRY_LOCK, _CLASS, _work_key(schema))


@record
class Term:
    """The session that holds the lock, as its server knows it; on another server there is none like it."""

    process_id: int
    since: datetime


# That a row of pg_locks is the lock of a class ($1) and key ($2) in this database, held.
_IS_HELD = """
l.locktype = 'advisory' AND l.granted AND l.classid = $1::bigint::oid
AND l.objid = (hashtext($2)::bigint & 4294967295)::oid AND l.objsubid = 2
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_HOLDS = f"""
SELECT pid AS process_id, backend_start AS since, EXISTS (
    SELECT FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND {_IS_HELD}) AS held
FROM pg_stat_get_activity(pg_backend_pid())
"""


async def holds(connection: Connection, schema: str) -> Term | None:
    """Return the term if this connection holds the lock; asking is the sign of life others look for.

    Raises ``DatabaseAway`` when another process of the server answers than the one that was connected to.
    """
    with translated():
        row = await connection.fetchrow(_HOLDS, _CLASS, _key(schema))
    if row is None or row["process_id"] != connection.get_server_pid():
        raise DatabaseAway(f"database: {POOLER} (statements go to several sessions)", advice=POOLER_ADVICE)
    return Term(row["process_id"], row["since"]) if row["held"] else None


class OtherServer(Unavailable):
    """A connection leads to a server on which this daemon does not lead."""

    code = "other_server"


class TermPool:
    """Connections of a pool to the server, and to the life of it, in which the lock of this term is held.

    Between two statements of one term the database never goes back: a server that crashed, or another one
    that took its address, has no session that holds the lock. What the broker has acknowledged must not be
    noted there.
    """

    def __init__(self, pool: Pool, term: Term) -> None:
        self._pool = pool
        self._term = term
        self._proven: WeakSet[Connection] = WeakSet()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection for single statements; raises ``OtherServer`` beside what the pool raises."""
        async with self._pool.connection() as connection:
            if connection not in self._proven:
                if not await connection.fetchval(_IS_HERE, self._term.process_id, self._term.since):
                    connection.terminate()
                    raise OtherServer("the lock of the leader is held on another server, or not any more")
                self._proven.add(connection)
            yield connection


_IS_HERE = "SELECT EXISTS (SELECT FROM pg_stat_get_activity($1) WHERE backend_start = $2)"


_END_SILENT = f"""
SELECT count(pg_terminate_backend(a.pid)) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE {_IS_HELD} AND a.pid <> pg_backend_pid()
    AND a.state_change < clock_timestamp() - make_interval(secs => $3)
"""


async def end_silent_leader(connection: Connection, schema: str, seconds: float) -> bool:
    """End the connection that holds the lock when it gave no sign of life for ``seconds``."""
    with translated():
        return bool(await connection.fetchval(_END_SILENT, _CLASS, _key(schema), seconds))


@record
class Lead:
    """Whether any daemon holds the lock, and whether it is at work and gives signs of life."""

    is_held: bool
    is_exercised: bool


_LOOK = f"""
SELECT count(*) > 0 AS is_held, coalesce(bool_or(is_alive AND EXISTS (
        SELECT FROM pg_locks AS w WHERE w.pid = holders.pid AND w.locktype = 'advisory' AND w.granted
            AND w.classid = $1::bigint::oid AND w.objid = (hashtext($3)::bigint & 4294967295)::oid
            AND w.objsubid = 2)), false) AS is_exercised
FROM (
    -- Of a session of another role the time may be hidden.
    SELECT l.pid, coalesce(a.state_change > clock_timestamp() - make_interval(secs => $4), true) AS is_alive
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE {_IS_HELD}
) AS holders
"""


async def look(connection: Connection, schema: str, *, silent_for: float = SILENT_FOR) -> Lead:
    """Return what can be seen of whoever leads now."""
    (row,) = await connection.fetch(_LOOK, _CLASS, _key(schema), _work_key(schema), silent_for)
    return Lead(row["is_held"], row["is_exercised"])

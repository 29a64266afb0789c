"""Who may use the console: one-time login links and sessions, by the hashes of their tokens."""

from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class ConsoleSession:
    """An operator at the console, and when last seen there."""

    who: str
    seen_at: datetime


_INVITE = "INSERT INTO console_logins (token_hash, who, expires_at) VALUES ($1, $2, $3)"


async def append_login(connection: Connection, token_hash: bytes, who: str, expires_at: datetime) -> None:
    """Let whoever has the token of this hash in, once, until then."""
    await connection.execute(_INVITE, token_hash, who, expires_at)


_SPEND = "DELETE FROM console_logins WHERE token_hash = $1 RETURNING who, expires_at"


async def spend_login(connection: Connection, token_hash: bytes, now: datetime) -> str | None:
    """Return whom the link lets in; ``None`` for one that is unknown, spent or too old. It is gone now."""
    row = await connection.fetchrow(_SPEND, token_hash)
    return row["who"] if row is not None and row["expires_at"] > now else None


_START = "INSERT INTO console_sessions (token_hash, who, started_at, seen_at) VALUES ($1, $2, $3, $3)"


async def append_session(connection: Connection, token_hash: bytes, who: str, now: datetime) -> None:
    await connection.execute(_START, token_hash, who, now)


_LOAD = """
SELECT who, seen_at FROM console_sessions
WHERE token_hash = $1 AND started_at > $2 AND seen_at > $3
"""


async def load_session(
    connection: Connection, token_hash: bytes, started_after: datetime, seen_after: datetime
) -> ConsoleSession | None:
    """Return a session that has not ended."""
    row = await connection.fetchrow(_LOAD, token_hash, started_after, seen_after)
    return None if row is None else ConsoleSession(**row)


async def save_seen(connection: Connection, token_hash: bytes, now: datetime) -> None:
    """Note that an operator is still there; a session that was ended meanwhile stays so."""
    await connection.execute(
        "UPDATE console_sessions SET seen_at = $2 WHERE token_hash = $1", token_hash, now
    )


async def delete_session(connection: Connection, token_hash: bytes) -> None:
    await connection.execute("DELETE FROM console_sessions WHERE token_hash = $1", token_hash)


_FORGET = """
WITH logins AS (DELETE FROM console_logins WHERE expires_at <= $1)
DELETE FROM console_sessions WHERE started_at <= $2 OR seen_at <= $3
"""


async def delete_ended(
    connection: Connection, now: datetime, started_before: datetime, seen_before: datetime
) -> None:
    """Forget what has ended; there are never many."""
    await connection.execute(_FORGET, now, started_before, seen_before)

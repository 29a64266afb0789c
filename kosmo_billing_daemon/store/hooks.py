"""Hooks, what waits to be sent to each, and their last answers. A trigger on ``events`` fills the queue."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.events import StoredEvent
from kosmo_billing_daemon.store.postgres import Connection, changed

GONE = "the event is gone"
ANSWERS_KEPT = 100  # of each hook
WAITING_SHOWN = 100_000  # events at most are counted


@record(kw_only=True)
class Hook:
    """One endpoint. Between failures it waits until ``next_try_at``; switched off it has ``off_since``."""

    id: int
    url: str
    events: tuple[str, ...]
    secret: str
    texts: str | None
    allow_private: bool
    added_at: datetime
    failing_since: datetime | None
    failures: int
    next_try_at: datetime | None
    off_since: datetime | None
    off_because: str | None

    def __repr__(self) -> str:
        return f"Hook(id={self.id})"  # the secret and the address stay out of logs


_COLUMNS = """
h.id, h.url, h.events, h.secret, h.texts, h.allow_private, h.added_at, h.failing_since, h.failures,
h.next_try_at, h.off_since, h.off_because
"""
_WIDTH = _COLUMNS.count(",") + 1


def _hook(row: Any) -> Hook:
    values = dict(list(row.items())[:_WIDTH])
    return Hook(**values | {"events": tuple(values["events"])})


@record
class HookWork:
    """A hook and the first events that wait for it; ``database`` is part of their ids.

    ``gone`` are events that were pruned meanwhile.
    """

    hook: Hook
    database: UUID
    waiting: list[StoredEvent]
    gone: list[int]


_ADD = """
INSERT INTO hooks (url, events, secret, texts, allow_private, added_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (url) DO NOTHING RETURNING id
"""


async def add(
    connection: Connection,
    *,
    url: str,
    events: Sequence[str],
    secret: str,
    texts: str | None,
    allow_private: bool,
    now: datetime,
) -> int | None:
    """Add a hook and return its number; ``None`` if there is one for this address."""
    added: int | None = await connection.fetchval(_ADD, url, list(events), secret, texts, allow_private, now)
    return added


async def load(connection: Connection, hook_id: int) -> Hook | None:
    """Return one hook."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM hooks AS h WHERE h.id = $1", hook_id)
    return None if row is None else _hook(row)


async def remove(connection: Connection, hook_id: int) -> bool:
    """Remove a hook with all that waits for it; false if there is none."""
    await connection.execute("DELETE FROM hook_deliveries WHERE hook_id = $1", hook_id)
    await connection.execute("DELETE FROM hook_answers WHERE hook_id = $1", hook_id)
    return await connection.fetchval("DELETE FROM hooks WHERE id = $1 RETURNING id", hook_id) is not None


async def load_active(connection: Connection) -> dict[int, bool]:
    """Return the numbers of the hooks that are on, and whether anything waits for each."""
    rows = await connection.fetch(
        "SELECT h.id, EXISTS (SELECT FROM hook_deliveries AS d WHERE d.hook_id = h.id) AS waits"
        " FROM hooks AS h WHERE h.off_since IS NULL"
    )
    return {row["id"]: row["waits"] for row in rows}


_WORK = f"""
SELECT {_COLUMNS}, (SELECT database_id FROM installation), d.event_id, e.type, e.user_id, e.occurred_at,
    e.data::text
FROM hooks AS h
    LEFT JOIN LATERAL (
        SELECT event_id FROM hook_deliveries WHERE hook_id = h.id ORDER BY event_id LIMIT $2) AS d ON true
    LEFT JOIN LATERAL (SELECT * FROM events WHERE id = d.event_id OFFSET 0) AS e ON true
WHERE h.id = $1 AND h.off_since IS NULL ORDER BY d.event_id
"""


async def load_work(connection: Connection, hook_id: int, limit: int) -> HookWork | None:
    """Return a hook that is on and what waits for it, oldest first."""
    rows = await connection.fetch(_WORK, hook_id, limit)
    if not rows:
        return None
    found = HookWork(_hook(rows[0]), rows[0][_WIDTH], [], [])
    for row in rows:
        number, event_type, user_id, occurred_at, data = list(row.values())[_WIDTH + 1 :]
        if event_type is not None:
            found.waiting.append(StoredEvent(number, event_type, user_id, occurred_at, data))
        elif number is not None:
            found.gone.append(number)
    return found


@record
class GivenAnswer:
    """What an endpoint said to one event."""

    event_id: int
    at: datetime
    is_accepted: bool
    answer: str


# The answer may repeat what was sent, and its user may have been erased meanwhile.
_NOTE = f"""
INSERT INTO hook_answers (hook_id, event_id, at, accepted, answer)
SELECT h.id, row.event_id, row.at, row.accepted,
    CASE WHEN (SELECT true FROM events WHERE id = row.event_id LIMIT 1) THEN row.answer ELSE '{GONE}' END
FROM hooks AS h, unnest($2::bigint[], $3::timestamptz[], $4::boolean[], $5::text[])
    WITH ORDINALITY AS row (event_id, at, accepted, answer, place)
WHERE h.id = $1 ORDER BY place
"""

_PRUNE = f"""
DELETE FROM hook_answers WHERE hook_id = $1 AND id <= (
    SELECT id FROM hook_answers WHERE hook_id = $1 ORDER BY id DESC OFFSET {ANSWERS_KEPT} LIMIT 1)
"""  # as of before the insert it goes with

_DONE = "DELETE FROM hook_deliveries WHERE hook_id = $1 AND event_id = ANY ($2::bigint[])"

_RECOVERED = """
UPDATE hooks SET failing_since = NULL, failures = 0, next_try_at = NULL WHERE id = $1 AND failures > 0
"""

_FAILED = "UPDATE hooks SET failing_since = $2, failures = $3, next_try_at = $4 WHERE id = $1"


def note_statements(hook_id: int, answers: Sequence[GivenAnswer]) -> list[Statement]:
    """Keep the last answers, and take what was accepted off the queue."""
    kept = answers[-ANSWERS_KEPT:]
    accepted = [answer.event_id for answer in answers if answer.is_accepted]
    columns = zip(*((a.event_id, a.at, a.is_accepted, a.answer) for a in kept), strict=True)
    return [
        Statement(_DONE, [hook_id, accepted]),
        Statement(_PRUNE, [hook_id]),
        Statement(_NOTE, [hook_id, *columns]),
    ]


def recovered_statement(hook_id: int) -> Statement:
    """Note that an endpoint accepts again."""
    return Statement(_RECOVERED, [hook_id])


def failed_statement(hook_id: int, since: datetime, failures: int, next_try_at: datetime) -> Statement:
    """Note that an endpoint did not accept, and when it is tried again."""
    return Statement(_FAILED, [hook_id, since, failures, next_try_at])


_OFF = """
UPDATE hooks SET off_since = $2, off_because = $3, next_try_at = NULL WHERE id = $1 AND off_since IS NULL
"""


async def switch_off(connection: Connection, hook_id: int, now: datetime, why: str) -> bool:
    """Send nothing more until an operator asks for it; what waits is kept. False if it was off or removed."""
    return bool(changed(await connection.execute(_OFF, hook_id, now, why)))


_REPLAY = """
INSERT INTO hook_deliveries (hook_id, event_id)
SELECT h.id, e.id FROM hooks AS h JOIN events AS e ON e.occurred_at >= $2 AND hook_wants(h.events, e.type)
WHERE h.id = $1
ON CONFLICT DO NOTHING
"""


async def replay(connection: Connection, hook_id: int, since: datetime) -> int:
    """Queue again what a hook wants and happened since then; returns how many events that adds."""
    return changed(await connection.execute(_REPLAY, hook_id, since))


async def switch_on(connection: Connection, hook_id: int) -> None:
    """Send again."""
    await connection.execute(
        "UPDATE hooks SET off_since = NULL, off_because = NULL, failing_since = NULL, failures = 0,"
        " next_try_at = NULL WHERE id = $1",
        hook_id,
    )


@record
class ListedHook:
    """A hook as operators see it: its last answer, and how many events wait (100,000 at most)."""

    hook: Hook
    waiting: int
    answered_at: datetime | None
    answer: str | None


_LIST = f"""
SELECT {_COLUMNS}, (
        SELECT count(*) FROM (SELECT FROM hook_deliveries WHERE hook_id = h.id LIMIT {WAITING_SHOWN}) AS d)
    , a.at, a.answer
FROM hooks AS h LEFT JOIN LATERAL (
    SELECT at, answer FROM hook_answers WHERE hook_id = h.id ORDER BY id DESC LIMIT 1) AS a ON true
ORDER BY h.id
"""


async def load_all(connection: Connection) -> list[ListedHook]:
    """Return every hook, in the order they were added."""
    rows = await connection.fetch(_LIST)
    return [ListedHook(_hook(row), *list(row.values())[_WIDTH:]) for row in rows]


_ANSWERS = """
SELECT event_id, at, accepted, answer FROM hook_answers WHERE hook_id = $1 ORDER BY id DESC LIMIT $2
"""


async def load_answers(connection: Connection, hook_id: int, limit: int) -> list[GivenAnswer]:
    """Return what an endpoint said last, newest first."""
    rows = await connection.fetch(_ANSWERS, hook_id, limit)
    return [GivenAnswer(*row.values()) for row in rows]


_COUNT_SINCE = f"""
SELECT count(*) AS events FROM (
    SELECT FROM hooks AS h JOIN events AS e ON e.occurred_at >= $2 AND hook_wants(h.events, e.type)
    WHERE h.id = $1 LIMIT {WAITING_SHOWN}) AS wanted
"""


async def count_since(connection: Connection, hook_id: int, since: datetime) -> int:
    """Return how many events that a hook wants happened since then (100,000 at most)."""
    return int(await connection.fetchval(_COUNT_SINCE, hook_id, since))

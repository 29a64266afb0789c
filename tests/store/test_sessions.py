"""Sessions that are lent: never too many, never one in the middle of something, none for ever."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from kosmo_billing_daemon.store.postgres import Database
from kosmo_billing_daemon.store.sessions import Session, Sessions
from tests.store.conftest import Rows

MOST = 3
WAIT = 5.0

_OPEN = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lent' AND datname = current_database()
"""


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(url=database_url)


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[Sessions]:
    lending = Sessions(lambda: database.open("lent"), most=MOST)
    yield lending
    await lending.close(0.1)


async def until_open(rows: Rows, number: int) -> None:
    """Wait until the server has so many of them: it notices a little later that one was ended."""
    async with asyncio.timeout(10):
        while await rows.connection.fetchval(_OPEN) != number:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)


def process_id(session: Session) -> int:
    pid: int = session.get_server_pid()
    return pid


async def test_the_last_one_used_is_lent_first_and_none_is_opened_without_need(
    sessions: Sessions, rows: Rows
) -> None:
    first, second = await sessions.lend(WAIT), await sessions.lend(WAIT)
    sessions.take_back(first, is_sound=True)
    sessions.take_back(second, is_sound=True)
    assert await sessions.lend(WAIT) is second
    assert await sessions.lend(WAIT) is first
    await until_open(rows, 2)
    for session in (first, second):
        sessions.take_back(session, is_sound=True)


async def test_there_are_never_more_than_allowed(sessions: Sessions, rows: Rows) -> None:
    at_once = most_at_once = 0

    async def use() -> None:
        nonlocal at_once, most_at_once
        session = await sessions.lend(WAIT)
        at_once += 1
        most_at_once = max(most_at_once, at_once, await session.fetchval(_OPEN))
        at_once -= 1
        sessions.take_back(session, is_sound=True)

    await asyncio.gather(*(use() for _ in range(60)))
    assert most_at_once == MOST
    await until_open(rows, MOST)


async def test_who_waited_in_vain_keeps_nobody_from_the_next(sessions: Sessions) -> None:
    lent = [await sessions.lend(WAIT) for _ in range(MOST)]
    with pytest.raises(TimeoutError):
        await sessions.lend(0.01)
    waiting = asyncio.create_task(sessions.lend(WAIT))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for session in lent:
        sessions.take_back(session, is_sound=True)
    again = [await sessions.lend(0.1) for _ in range(MOST)]
    assert set(again) == set(lent)
    for session in again:
        sessions.take_back(session, is_sound=True)


async def test_a_failed_opening_takes_nobodys_place() -> None:
    nowhere = Sessions(Database(url="postgresql://127.0.0.1:1/none").open, most=1)
    for _ in range(3):
        with pytest.raises(OSError, match=r"refused|failed"):
            await nowhere.lend(WAIT)
    await nowhere.close(WAIT)


async def test_one_in_the_middle_of_something_is_not_lent_again(sessions: Sessions, rows: Rows) -> None:
    begun, cut = await sessions.lend(WAIT), await sessions.lend(WAIT)
    await begun.execute("BEGIN")
    pids = {process_id(begun), process_id(cut)}
    sessions.take_back(begun, is_sound=True)
    sessions.take_back(cut, is_sound=False)
    await until_open(rows, 0)
    fresh = await sessions.lend(WAIT)
    assert process_id(fresh) not in pids
    assert sessions.has(process_id(fresh))
    assert not any(sessions.has(pid) for pid in pids)
    sessions.take_back(fresh, is_sound=True)


async def test_one_that_the_server_ended_is_not_lent(sessions: Sessions, rows: Rows) -> None:
    session = await sessions.lend(WAIT)
    pid = process_id(session)
    sessions.take_back(session, is_sound=True)
    await rows.connection.fetchval("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(10):
        while not session.is_closed():  # noqa: ASYNC110  until its end has arrived here
            await asyncio.sleep(0.01)
    fresh = await sessions.lend(WAIT)
    assert await fresh.fetchval("SELECT 1") == 1
    sessions.take_back(fresh, is_sound=True)


async def test_what_nobody_needs_any_more_is_ended(database: Database, rows: Rows) -> None:
    sessions = Sessions(lambda: database.open("lent"), most=MOST, idle=0.05)
    for session in [await sessions.lend(WAIT) for _ in range(MOST)]:
        sessions.take_back(session, is_sound=True)
    await until_open(rows, MOST)
    await asyncio.sleep(0.1)  # how long they are idle
    sessions.take_back(await sessions.lend(WAIT), is_sound=True)
    await until_open(rows, 1)
    await sessions.close(WAIT)


async def test_none_lives_for_ever(database: Database, rows: Rows) -> None:
    sessions = Sessions(lambda: database.open("lent"), most=MOST, life=0.0)
    pids = set()
    for _ in range(3):
        session = await sessions.lend(WAIT)
        pids.add(process_id(session))
        sessions.take_back(session, is_sound=True)
    assert len(pids) == 3
    await until_open(rows, 0)
    await sessions.close(WAIT)


async def test_the_end_waits_for_who_still_has_one(sessions: Sessions, rows: Rows) -> None:
    session = await sessions.lend(WAIT)
    closing = asyncio.create_task(sessions.close(WAIT))
    assert await session.fetchval("SELECT 1") == 1
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await sessions.lend(WAIT)
    sessions.take_back(session, is_sound=True)
    await closing
    await until_open(rows, 0)


async def test_the_end_does_not_wait_for_ever(sessions: Sessions, rows: Rows) -> None:
    session = await sessions.lend(WAIT)
    await sessions.close(0.05)
    assert session.is_closed()
    await until_open(rows, 0)
    sessions.take_back(session, is_sound=False)

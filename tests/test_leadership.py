"""Leading against a real PostgreSQL, with work that does not end as it should, and what others see of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.store import leader_lock
from kosmo_billing_daemon.store.postgres import Database
from tests.store.conftest import Connector, connect
from tests.support.world import until

__all__ = ["connect"]

Work = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def leading(leadership: Leadership, work: Work) -> AsyncIterator[None]:
    task = asyncio.create_task(leadership.run(work))
    try:
        async with asyncio.timeout(20):
            yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1)


def make(database_url: str, **more: float) -> Leadership:
    return Leadership(Database(url=database_url), lambda _payload, _sender: None, **more)


async def test_work_that_swallows_its_cancellation_does_not_end_leading(
    database_url: str, connect: Connector
) -> None:
    """Seen to hang for ever with a single cancellation, as a driver's error in its place once made it."""
    begun: asyncio.Queue[int] = asyncio.Queue()
    other = await connect()

    async def work() -> None:
        begun.put_nowait(begun.qsize())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    leadership = make(database_url)
    async with leading(leadership, work):
        await begun.get()
        await other.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'kosmo-billing leader' AND datname = current_database()"
        )
        await begun.get()
        assert leadership.leads


async def test_a_leader_whose_work_fails_at_once_waits_longer_each_time(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen: leadership won and lost seven times a second, each time with two lines in the log."""
    tries: list[float] = []
    enough = asyncio.Event()

    async def work() -> None:
        tries.append(time.monotonic())
        if len(tries) == 4:
            enough.set()
        raise Unavailable("nothing can be written")

    async with leading(make(database_url), work):
        await enough.wait()
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert waits[2] > 0.4, waits
    assert [record.message for record in caplog.records].count("leading ended: nothing can be written") <= 1


async def test_nobody_leads_while_the_database_is_read_only_and_somebody_does_at_once_afterwards(
    database_url: str, connect: Connector
) -> None:
    name, other = urlsplit(database_url).path.lstrip("/"), await connect()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    leadership = make(database_url)
    async with leading(leadership, work):
        tried = "SELECT count(*) FROM pg_stat_database WHERE datname = current_database() AND sessions > 3"
        await until(lambda: other.fetchval(tried), "several tries")
        assert not begun.is_set()
        assert leadership.role is None
        await other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await begun.wait()


async def test_others_see_that_a_leader_is_at_work_and_how_long_none_was(
    database_url: str, connect: Connector
) -> None:
    other = await connect()
    go_on = asyncio.Event()
    leadership = make(database_url)

    async def work() -> None:
        await go_on.wait()
        await leadership.working()
        await asyncio.Event().wait()

    async def seen(*, is_held: bool, is_exercised: bool) -> None:
        wanted = leader_lock.Lead(is_held, is_exercised)

        async def fact() -> bool:
            return await leader_lock.look(other, "public") == wanted

        await until(fact, f"{wanted}")

    async with leading(leadership, work):
        await seen(is_held=True, is_exercised=False)
        began = time.monotonic()
        await asyncio.sleep(0.05)  # nobody leads for so long
        assert leadership.unled_for(is_led=False) > time.monotonic() - began
        go_on.set()
        await seen(is_held=True, is_exercised=True)
        assert leadership.unled_for(is_led=True) == 0
        assert leadership.unled_for(is_led=None) == 0  # nothing is known, so nothing is held against anybody
        assert not (await leader_lock.look(other, "another")).is_held
        assert not (await leader_lock.look(other, "public", silent_for=0)).is_exercised
    await seen(is_held=False, is_exercised=False)


async def test_a_leader_is_replaced_once_it_was_silent_and_not_while_it_gives_heartbeats(
    database_url: str, connect: Connector
) -> None:
    """The connection of a frozen leader lasts, so a candidate ends it."""
    holder, begun = await connect(), asyncio.Event()
    assert await leader_lock.try_lock(holder, "public")

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with leading(make(database_url, silent_for=2.0), work):
        until_time = time.monotonic() + 2.5
        while time.monotonic() < until_time:
            assert await leader_lock.holds(holder, "public")
            await asyncio.sleep(0.1)
        assert not begun.is_set()
        silent_since = time.monotonic()
        await begun.wait()
        assert time.monotonic() - silent_since >= 2.0
    assert holder.is_closed()

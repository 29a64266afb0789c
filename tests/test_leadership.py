"""Leading against a real PostgreSQL, with work that does not end as it should."""

import asyncio
import contextlib

from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.store.postgres import Database
from tests.store.conftest import Connector, connect

__all__ = ["connect"]


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

    leadership = Leadership(Database(url=database_url), lambda _payload, _sender: None)
    leading = asyncio.create_task(leadership.run(work))
    try:
        async with asyncio.timeout(20):
            await begun.get()
            await other.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'kosmo-billing leader' AND datname = current_database()"
            )
            await begun.get()
        assert leadership.leads
    finally:
        while not leading.done():
            leading.cancel()
            await asyncio.wait([leading], timeout=1)

"""Keeps the sums that metrics show of the business: once a minute, by the leader, in a few milliseconds."""

import asyncio

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import figures
from kosmo_billing_daemon.store.postgres import Connection, Pool

EVERY = 60.0  # seconds
PAGE = 20_000  # rows added in one transaction: 20 ms
LOOKS = 20  # at whether the transactions under way have ended; else it is done a minute later
APART = 0.05  # seconds between two of them


@record(kw_only=True)
class Figures:
    """Adds what is new."""

    pool: Pool

    async def run_once(self) -> int:
        """Add a page of what was appended and count what is active; returns ``PAGE`` where more waits."""
        async with self.pool.connection() as connection:
            appended = await figures.load_appended(connection)
            for _ in range(LOOKS):
                if await figures.has_ended(connection, appended.before):
                    break
                await asyncio.sleep(APART)
            else:
                return 0  # somebody's transaction stays open

        async def work(connection: Connection) -> int:
            await figures.lock(connection)
            await figures.count_active(connection)
            return max(
                await figures.add_entries(connection, appended.entry, PAGE),
                await figures.add_events(connection, appended.event, PAGE),
            )

        return await self.pool.retrying(work)

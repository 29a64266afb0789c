"""Deletes from the outbox what the broker has acknowledged, many rows in one statement."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.store import outbox
from kosmo_billing_daemon.store.leader_lock import TermPool
from kosmo_billing_daemon.store.outbox import OutboxEntry

log = logging.getLogger(__name__)

GATHER = 0.02  # seconds: acks come close together, and nobody waits for a deletion


class AckWriter:
    """Rows of which everything was acknowledged; ``deleted`` is called with them after each deletion."""

    def __init__(self, pool: TermPool, deleted: Callable[[Sequence[OutboxEntry]], None]) -> None:
        self._pool = pool
        self._deleted = deleted
        self._done: list[OutboxEntry] = []
        self._woken = asyncio.Event()

    def done(self, entry: OutboxEntry) -> None:
        """Have a row deleted soon."""
        self._done.append(entry)
        self._woken.set()

    async def run(self) -> None:
        """Delete until cancelled; what cannot be deleted now is kept."""
        backoff = Backoff(0.1, 5.0)
        while True:
            await self._woken.wait()
            await asyncio.sleep(GATHER)
            self._woken.clear()
            try:
                await self.write()
            except Unavailable as error:
                log.debug("acks wait for the database: %s", error)
                self._woken.set()
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()

    async def write(self, begun: Collection[OutboxEntry] = ()) -> None:
        """Delete what is done, and take out of rows that are ``begun`` what was acknowledged of them."""
        done = list(self._done)
        async with self._pool.connection() as connection:
            await outbox.delete(connection, done)
            await outbox.reduce(connection, begun)
        del self._done[: len(done)]
        self._deleted(done)

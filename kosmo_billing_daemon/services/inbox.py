"""Webhook deliveries become lookups before they are answered; many share one commit."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kosmo_billing_daemon.runtime.batcher import TOGETHER, Batcher
from kosmo_billing_daemon.store import deliveries
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.store.postgres import Pool, notify


@dataclass(slots=True, kw_only=True)
class Inbox:
    """Records deliveries. ``wake`` tells the settlement loop of this process that lookups are due and
    returns whether one runs here; if not, the leader is notified through the database.
    """

    pool: Pool
    wake: Callable[[], bool]
    _batches: Batcher[Delivery, None] = field(init=False)

    def __post_init__(self) -> None:
        self._batches = Batcher(self._write, turns=TOGETHER)

    async def record(self, delivery: Delivery) -> None:
        """Return when the delivery is committed; raises ``Unavailable`` when it could not be."""
        await self._batches.submit(delivery)

    async def _write(self, batch: Sequence[Delivery]) -> Sequence[None]:
        async with self.pool.connection() as connection:
            await deliveries.append(connection, batch)
            if not self.wake():
                await notify(connection, "deliveries")
        await asyncio.sleep(0)  # the lookup is on its way before the answers are written
        return [None] * len(batch)

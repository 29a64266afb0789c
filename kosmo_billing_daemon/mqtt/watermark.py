"""The retained watermark: how far publication has come, and which versions may be published."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, PublishRefused
from kosmo_billing_daemon.mqtt.outbox_reader import OutboxReader
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT, Refusals
from kosmo_billing_daemon.mqtt.reservation import BLOCK
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.store import entitlements

log = logging.getLogger(__name__)

WRITTEN_EVERY = 1.0  # seconds; what is published after the last one is only published once more
ASKED_EVERY = 0.1  # seconds between questions to the database while the answer moves nothing


@dataclass(slots=True, eq=False)
class WatermarkWriter:
    """Writes the watermark over one link. ``wake`` has the outbox read, which shows what has ended."""

    link: Link
    topic: str
    reader: OutboxReader
    tracker: WatermarkTracker
    refusals: Refusals
    wake: Callable[[], None]
    advanced: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _answered: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self.advanced.set()

    async def until_acknowledged(self, version: int) -> None:
        """Wait for the watermark that lets this version be published."""
        while version > self.tracker.reservation.acknowledged:
            self.advanced.set()
            self._answered.clear()
            await self._answered.wait()

    async def run(self) -> None:
        """Write after what it covers was acknowledged and deleted; once a second is enough."""
        written: Watermark | None = None
        while True:
            await self.advanced.wait()
            self.advanced.clear()
            try:
                await self._ask_database()
            except Unavailable as error:
                log.warning("the watermark waits for the database: %s", error)
                self.advanced.set()
                await asyncio.sleep(WRITTEN_EVERY)
            now = self.tracker.watermark(self.reader.published_to)
            if now == written:
                await asyncio.sleep(ASKED_EVERY)
                continue
            try:
                await self.link.publish(self.topic, now.encode(), retain=True)
            except PublishRefused as error:
                self.refusals.refused(error)
                self._answer(now)  # the database alone remembers it meanwhile, and nobody waits for an ACL
                self.advanced.set()
                await asyncio.sleep(REFUSED_WAIT)
                continue
            self.refusals.accepted(self.topic)
            self._answer(now)
            written = now
            await asyncio.sleep(WRITTEN_EVERY)

    async def _ask_database(self) -> None:
        reservation = self.tracker.reservation
        if reservation.runs_low:
            async with self.reader.pool.connection() as connection:
                reservation.ceiling = await entitlements.reserve_versions(
                    connection, reservation.greatest, BLOCK
                )
        if self.tracker.has_cleared:
            await self.tracker.count_again(self.reader.pool)
        if await self.reader.ask_drawn():
            self.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASKED_EVERY):
                    await self.advanced.wait()

    def _answer(self, watermark: Watermark) -> None:
        reservation = self.tracker.reservation
        reservation.acknowledged = max(reservation.acknowledged, watermark.version_ceiling)
        self._answered.set()

"""The retained watermark: how far publication has come, and which versions may be published."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

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


class WatermarkWriter:
    """Writes the watermark over one link. ``wake`` has the outbox read, which shows what has ended."""

    def __init__(
        self,
        link: Link,
        topic: str,
        reader: OutboxReader,
        tracker: WatermarkTracker,
        *,
        refusals: Refusals,
        wake: Callable[[], None],
    ) -> None:
        self._link = link
        self._topic = topic
        self._reader = reader
        self._tracker = tracker
        self._reservation = tracker.reservation
        self._refusals = refusals
        self._wake = wake
        self._answered = asyncio.Event()
        self.advanced = asyncio.Event()
        self.advanced.set()

    async def until_acknowledged(self, version: int) -> None:
        """Wait for the watermark that lets this version be published."""
        while version > self._reservation.acknowledged:
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
            now = self._tracker.watermark(self._reader.published_to)
            if now == written:
                await asyncio.sleep(ASKED_EVERY)
                continue
            try:
                await self._link.publish(self._topic, now.encode(), retain=True)
            except PublishRefused as error:
                self._refusals.refused(error)
                self._answer(now)  # the database alone remembers it meanwhile, and nobody waits for an ACL
                self.advanced.set()
                await asyncio.sleep(REFUSED_WAIT)
                continue
            self._refusals.accepted(self._topic)
            self._answer(now)
            written = now
            await asyncio.sleep(WRITTEN_EVERY)

    async def _ask_database(self) -> None:
        if self._reservation.runs_low:
            async with self._reader.pool.connection() as connection:
                greatest = self._reservation.greatest
                self._reservation.ceiling = await entitlements.reserve_versions(connection, greatest, BLOCK)
        if self._tracker.has_cleared:
            await self._tracker.count_again(self._reader.pool)
        if await self._reader.ask_drawn():
            self._wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASKED_EVERY):
                    await self.advanced.wait()

    def _answer(self, watermark: Watermark) -> None:
        self._reservation.acknowledged = max(self._reservation.acknowledged, watermark.version_ceiling)
        self._answered.set()

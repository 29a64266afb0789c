"""The retained watermark: how far publishing came, and which versions may be used, told to the broker."""

import asyncio
import logging
from collections.abc import Callable

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Link, PublishRefused
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT, Refusals
from kosmo_billing_daemon.mqtt.reservation import BLOCK, Reservation
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.leader_lock import TermPool

log = logging.getLogger(__name__)

WRITTEN_EVERY = 1.0  # seconds; what is published after the last one is only published once more


class WatermarkWriter:
    """Writes the watermark over one link. ``swept`` is called when what was lost was acknowledged again."""

    def __init__(
        self,
        link: Link,
        topic: str,
        *,
        pool: TermPool,
        progress: WatermarkTracker,
        reservation: Reservation,
        refusals: Refusals,
        swept: Callable[[], None],
    ) -> None:
        self._link = link
        self._topic = topic
        self._pool = pool
        self._progress = progress
        self._reservation = reservation
        self._refusals = refusals
        self._swept = swept
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
        """Write after what it covers was acknowledged and marked; once a second is enough."""
        written: Watermark | None = None
        while True:
            await self.advanced.wait()
            self.advanced.clear()
            if self._progress.is_swept:
                self._swept()
            if self._reservation.runs_low:
                await self._reserve()
            now = self._progress.watermark()
            if now == written:
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

    async def _reserve(self) -> None:
        reservation = self._reservation
        try:
            async with self._pool.connection() as connection:
                reservation.ceiling = await entitlements.reserve_versions(
                    connection, reservation.greatest, BLOCK
                )
        except Unavailable as error:
            log.warning("reserving versions waits for the database: %s", error)
            self.advanced.set()
            await asyncio.sleep(WRITTEN_EVERY)

    def _answer(self, watermark: Watermark) -> None:
        self._reservation.acknowledged = max(self._reservation.acknowledged, watermark.version_ceiling)
        self._answered.set()

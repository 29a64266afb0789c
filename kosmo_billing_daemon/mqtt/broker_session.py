"""One connection to the broker after another: birth message, what was lost, then events until it goes.

Only the leader speaks. Before each connect it makes sure that it still leads: the fixed client id takes
the session over from whoever holds it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kosmo_billing_daemon.contract.payloads import StatusDocument
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import (
    Broker,
    ConnectRefused,
    Link,
    LinkLost,
    PublishRefused,
    SubscribeRefused,
    Will,
    connect,
)
from kosmo_billing_daemon.mqtt import repair, reservation
from kosmo_billing_daemon.mqtt.lease_intake import LeaseSession
from kosmo_billing_daemon.mqtt.publisher import Publisher
from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT
from kosmo_billing_daemon.mqtt.time_answers import TimeAnswers
from kosmo_billing_daemon.mqtt.usage_intake import UsageIntake, UsageSession
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.store.leader_lock import Term, TermPool
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

REPAIR_EVERY = 6 * 3600.0  # seconds between full comparisons while connected


@dataclass(kw_only=True, slots=True, eq=False)
class BrokerSession:
    """Speaks for one daemon. ``lead`` raises ``Unavailable`` when it does not lead any more."""

    broker: Broker
    topics: Topics
    pool: Pool
    publisher: Publisher
    usage: UsageIntake
    leasing: Leasing
    clock: Clock
    instance: str
    version: str
    is_connected: bool = field(default=False, init=False)
    losses: int = field(default=0, init=False)
    _times: TimeAnswers = field(init=False)
    _throttle: LogThrottle = field(default_factory=LogThrottle, init=False)
    _floor: int | None = field(default=None, init=False)  # of the versions of this term
    _repaired_at: float | None = field(default=None, init=False)  # in this term
    _withheld: str | None = field(default=None, init=False)  # why what is retained could not be read back
    _last_error: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._times = TimeAnswers(self.topics, self.clock)

    def health(self) -> Check:
        """Say how the connection is."""
        if not self.is_connected:
            return Check(False, self._last_error or "connecting")
        return Check.of(self.usage.refusal or self._withheld, "connected")

    def metrics(self) -> dict[str, float]:
        return {
            "broker_connected": self.is_connected,
            "broker_refuses": self.publisher.refusals.current is not None,
            "broker_losses_total": self.losses,
            "publications_total": self.publisher.published,
        }

    async def run(self, still_leading: Callable[[], Awaitable[Term]]) -> None:
        """Keep speaking until cancelled, for one term: another one may find the database gone back."""
        backoff = Backoff(0.1, 3.0)
        self._floor, self._repaired_at = None, None
        pool = TermPool(self.pool, await still_leading())
        try:
            while True:
                began = asyncio.get_running_loop().time()
                try:
                    await self._run_session(pool)
                except* (LinkLost, ConnectRefused, PublishRefused, SubscribeRefused, Unavailable) as group:
                    self._note_loss(group.exceptions[0])
                if asyncio.get_running_loop().time() - began > 10:
                    backoff.succeeded()
                await asyncio.sleep(backoff.failed())
                await still_leading()
        finally:
            self.is_connected = False

    def _note_loss(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.is_connected = False
        self._last_error = str(error)
        self.losses += 1
        if isinstance(error, PublishRefused | SubscribeRefused | ConnectRefused):
            if self._throttle.allows("refused"):
                log.error("Mosquitto refused the connection: %s; fix its password file or ACL", error)
        elif self._throttle.allows("away"):
            log.warning("not connected to the broker: %s", error)

    async def _run_session(self, pool: TermPool) -> None:
        will = Will(self.topics.status, self._status("offline"))
        async with connect(self.broker, will=will) as link:
            replay = repair.RetainedReader(link, self.topics)
            usage = UsageSession(self.usage, link)
            leases = LeaseSession(self.leasing, self.topics, link, self._throttle)
            listening = asyncio.create_task(self._listen(link, replay, usage, leases))
            try:
                replay.is_ended = await self._publish_birth(link)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_together(listening))
                    group.create_task(usage.run())
                    group.create_task(leases.run())
                    group.create_task(self._times.run(link))
                    group.create_task(self._keep_publishing_birth(link, replay))
                    group.create_task(self._speak(link, pool, replay))
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                await self._publish_offline(link)

    async def _publish_birth(self, link: Link) -> bool:
        """Say that we are online; false when the broker refuses it, which keeps nobody's document back."""
        refusals = self.publisher.refusals
        try:
            await link.publish(self.topics.status, self._status("online"), retain=True)
        except PublishRefused as error:
            refusals.refused(error)
            return False
        refusals.accepted(self.topics.status)
        return True

    async def _keep_publishing_birth(self, link: Link, replay: repair.RetainedReader) -> None:
        while not replay.is_ended:
            await asyncio.sleep(REFUSED_WAIT)
            replay.is_ended = await self._publish_birth(link)

    async def _publish_offline(self, link: Link) -> None:
        """A graceful exit sends no will, so say it ourselves; a lost link says it for us."""
        try:
            async with asyncio.timeout(1):
                await link.publish(self.topics.status, self._status("offline"), retain=True)
        except (LinkLost, PublishRefused, TimeoutError):
            log.debug("the will is published in our place")

    async def _speak(self, link: Link, pool: TermPool, replay: repair.RetainedReader) -> None:
        remembered = await repair.read_watermark(replay, self.topics)
        self._withheld = replay.withheld
        async with pool.connection() as connection:
            start = await reservation.start(connection, remembered, self._floor)
        # Until everything was compared in this term, gates may hold what this database never said.
        repeats = self._repaired_at is not None and start.reservation.floor == self._floor
        self._floor = start.reservation.floor
        if start.went_back:
            log.warning(
                "the database is older than what was published (restored from a backup, or a standby was"
                " promoted?): all documents are published again, above version %d",
                self._floor,
            )
        self.is_connected = True
        self._throttle.forget("away")
        log.info(
            "connected to the broker; republishing %d of %d documents", start.lost, start.position.documents
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self.publisher.run(link, pool, start, repeats=repeats))
            group.create_task(self._repair(link, pool, replay, at_once=start.after == 0))

    async def _repair(
        self, link: Link, pool: TermPool, replay: repair.RetainedReader, *, at_once: bool
    ) -> None:
        """Compare everything when the broker forgot, after a start, and a few times a day."""
        loop = asyncio.get_running_loop()
        while True:
            due = 0.0
            if not at_once and self._repaired_at is not None:
                due = self._repaired_at + REPAIR_EVERY - loop.time()
            await asyncio.sleep(max(0.0, due))
            await self.publisher.republished.wait()  # what is about to come is not missing
            try:
                await repair.repair(link, replay, pool, self.topics, changed=self.publisher.wake)
                self._withheld = None
            except LinkLost:
                raise
            except (Unavailable, SubscribeRefused) as error:
                self._withheld = replay.withheld
                log.warning("comparing the broker's documents was put off: %s", error)
                await asyncio.sleep(60)
                continue
            self._repaired_at = loop.time()
            at_once = False

    async def _listen(
        self, link: Link, replay: repair.RetainedReader, usage: UsageSession, leases: LeaseSession
    ) -> None:
        while True:
            for message in await link.receive():
                if not (usage.take(message) or leases.take(message) or self._times.take(message)):
                    replay.take(message)
                    link.acknowledge(message)

    def _status(self, state: str) -> bytes:
        return StatusDocument(
            state=state, instance=self.instance, version=self.version, since=self.clock()
        ).encode()


async def _together(task: asyncio.Task[None]) -> None:
    """Fail with a task that was started before the group."""
    await asyncio.shield(task)

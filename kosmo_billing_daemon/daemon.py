"""The daemon in one screen: open, build, one task group, stop.

HTTP answers first (with 503 while the database is away); then the schema is brought forward; then the
daemon seeks leadership, and the leader runs the loops and speaks MQTT. Any bug ends the process, and
systemd starts it again; any outage is waited out.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from kosmo_billing_daemon.assembly.connections import (
    btcpay_of,
    database_of,
    links_of,
    renewals_of,
    settlement_of,
)
from kosmo_billing_daemon.assembly.console import ConsoleServer
from kosmo_billing_daemon.assembly.front import Front
from kosmo_billing_daemon.assembly.leader import Leader
from kosmo_billing_daemon.assembly.wakeups import Wakeups
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.monitoring.monitor import Monitor
from kosmo_billing_daemon.monitoring.parts import WatchedParts
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch, utc_now
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.runtime.task_groups import ungrouped
from kosmo_billing_daemon.runtime.watchdog import Watched, keep_alive
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.settings import Settings
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Readiness

log = logging.getLogger(__name__)

LEADERSHIP_WITHIN = 120.0  # seconds between signs of life of who leads or seeks to


@record
class Started:
    """What came up: the port HTTP listens on, and where the console does, if anywhere."""

    port: int
    console: str = ""


class Daemon:
    """Everything one process is made of, put together by hand."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now) -> None:
        watch, topics = ClockWatch(clock), Topics(settings.mqtt.prefix)
        database = database_of(settings)
        self._pool = pool = Pool(database)
        wakeups = Wakeups(is_ours=pool.has_session)
        self._btcpay = btcpay_of(settings, clock)
        links = links_of(settings, pool, clock)
        settlement = settlement_of(settings, pool, self._btcpay, clock, changed=wakeups.changed)
        renewals = renewals_of(settings, pool, clock)
        self._schema = SchemaUpgrade(database)
        self._leadership = Leadership(database, wakeups.notified)
        self._leader = Leader(
            settings,
            pool=pool,
            settlement=settlement,
            links=links,
            renewals=renewals,
            topics=topics,
            clock=clock,
            watch=watch,
            wakeups=wakeups,
        )
        self._front = Front(
            settings,
            pool=pool,
            btcpay=self._btcpay,
            settlement=settlement,
            links=links,
            renewals=renewals,
            topics=topics,
            clock=clock,
            wakeups=wakeups,
            leads=lambda: self._leadership.leads,
            readiness=self.readiness,
        )
        self._console = ConsoleServer(
            settings, pool=pool, settlement=settlement, links=links, clock=clock, readiness=self.readiness
        )
        parts = WatchedParts(
            pool=pool,
            clock=clock,
            watch=watch,
            btcpay=self._btcpay,
            schema=self._schema,
            leadership=self._leadership,
            leader=self._leader,
            admission=self._front.admission,
        )
        self._monitor = Monitor(parts, self._front.app, settings.instance)

    async def run(
        self,
        *,
        stop: asyncio.Event,
        started: Callable[[Started], None] = lambda _: None,
        status: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], None] = lambda: None,
        alive: Callable[[], None] = lambda: None,
        alive_within: float | None = None,
        sockets: Sequence[socket.socket] = (),
        admin_sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Serve until ``stop`` is set; the console opens before the port, and all closes in reverse.

        ``alive`` is called several times in ``alive_within`` seconds, as long as there is progress.
        """
        async with (
            self._pool,
            self._btcpay,
            self._console.serving(admin_sockets) as console,
            self._front.serving(sockets) as port,
        ):
            self._btcpay.connect()
            watched = [Watched("leadership", self._leadership, LEADERSHIP_WITHIN), *self._leader.watched()]
            with ungrouped(Misconfigured):
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._govern()),
                        group.create_task(self._front.streams.run()),
                        group.create_task(self._monitor.run(status)),
                        group.create_task(keep_alive(watched, interval=alive_within, sign=alive)),
                    ]
                    started(Started(port, console))
                    await stop.wait()
                    stopping()
                    self._front.streams.close()
                    for task in tasks:
                        task.cancel()
        log.info("stopped")

    async def _govern(self) -> None:
        await self._schema.run()
        await self._leadership.run(lambda: self._leader.work(self._leadership))

    async def readiness(self) -> Readiness:
        """Say how each part is."""
        return await self._monitor.readiness()

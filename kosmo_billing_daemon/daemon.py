"""The daemon in one screen: open, build, one task group, stop.

HTTP answers first (with 503 while the database is away); then the schema is brought forward; then the
daemon seeks leadership, and the leader runs the loops and speaks MQTT. Any bug ends the process, and
systemd starts it again; any outage is waited out.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.connections import broker_of, btcpay_of, database_of, links_of, read_catalogue
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Misconfigured, Unavailable
from kosmo_billing_daemon.hooks.client import HookClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.monitoring import alarms
from kosmo_billing_daemon.monitoring.collector import MetricsCollector
from kosmo_billing_daemon.monitoring.readiness import HealthMonitor, describe
from kosmo_billing_daemon.mqtt.broker_session import BrokerSession
from kosmo_billing_daemon.mqtt.lease_intake import LeaseIntake
from kosmo_billing_daemon.mqtt.publisher import Publisher
from kosmo_billing_daemon.mqtt.usage_intake import UsageIntake
from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch, utc_now
from kosmo_billing_daemon.runtime.loop import Loop
from kosmo_billing_daemon.runtime.metrics import Metrics
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.runtime.task_groups import ungrouped
from kosmo_billing_daemon.runtime.watchdog import Watched, keep_alive
from kosmo_billing_daemon.services.backlog import RightsWatch
from kosmo_billing_daemon.services.ceilings import Ceilings
from kosmo_billing_daemon.services.entitlements import Entitlements
from kosmo_billing_daemon.services.expiry import Expiry
from kosmo_billing_daemon.services.hooks import HookSenders
from kosmo_billing_daemon.services.housekeeping import EVERY, Housekeeping
from kosmo_billing_daemon.services.inbox import Inbox
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.metering import Metering
from kosmo_billing_daemon.services.reconciliation import MOST_AT_ONCE, Reconciliation
from kosmo_billing_daemon.services.recounting import Recounting
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.settings import CreditMode, Settings, WebhookTrust
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.app import build_app, serve
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.server.admission import OWN, Admission
from kosmo_billing_daemon.web.server.draining import drain

log = logging.getLogger(__name__)

LOOKED_UP_AT_LEAST = 15.0  # seconds: another daemon may have reserved an invoice meanwhile
GATHERED = 0.1  # seconds: no purchase ends this soon, and each wakes the loop
ROUND_WITHIN = 300.0  # seconds one round of a loop may take: each of its calls ends much sooner
LEADERSHIP_WITHIN = 120.0  # seconds between signs of life of who leads or seeks to
STREAMS = 75  # per cent of all connections at most: they stay, and others must still come in
STATUS_EVERY = 5.0  # seconds between looks at the state for systemd's STATUS line


@record
class Started:
    """What came up: the port HTTP listens on."""

    port: int


class CannotListen(Unavailable):
    """The address is taken, or not ours to listen on."""

    code = "cannot_listen"


class Daemon:
    """Everything one process is made of, put together by hand."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        watch = ClockWatch(clock)
        topics = Topics(settings.mqtt.prefix)
        catalogue = read_catalogue(settings.plans_file)
        self._database = database_of(settings)
        self._pool = Pool(self._database)
        self._btcpay = btcpay_of(settings, clock)
        self._settlement = Settlement(
            pool=self._pool,
            btcpay=self._btcpay,
            store_id=settings.btcpay.store_id,
            clock=clock,
            changed=self._changed,
            trust_body=settings.webhook.trust is WebhookTrust.BODY,
            credit=settings.credit is CreditMode.AUTO,
        )
        links = links_of(settings, self._pool, clock)
        self._expiry = Expiry(
            pool=self._pool,
            clock=clock,
            remind_hours=settings.remind_hours,
            links=links,
            changed=self._changed,
        )
        self._reconciliation = Reconciliation(
            pool=self._pool, settlement=self._settlement, clock=clock, watch=watch
        )
        housekeeping = Housekeeping(
            pool=self._pool,
            clock=clock,
            keep_deliveries=settings.retention.deliveries,
            keep_usage=settings.retention.usage,
        )
        self._publisher = Publisher(topics=topics, clock=clock)
        self._metering = Metering(
            pool=self._pool,
            clock=clock,
            changed=self._counted,
            ceilings=Ceilings(settings.usage_messages, settings.usage_users),
        )
        self._usage = UsageIntake(metering=self._metering, topics=topics)
        self._conversation = BrokerSession(
            broker=broker_of(settings.mqtt),
            topics=topics,
            pool=self._pool,
            publisher=self._publisher,
            usage=self._usage,
            leases=LeaseIntake(leasing=Leasing(pool=self._pool, clock=clock), topics=topics),
            clock=clock,
            instance=settings.instance,
            version=__version__,
        )
        self._settling = Loop(
            "settlement",
            self._reconciliation.run_once,
            clock=clock,
            next_due=self._reconciliation.next_due,
            poll=LOOKED_UP_AT_LEAST,
            batch=MOST_AT_ONCE,
        )
        self._expiring = Loop(
            "expiry", self._expiry.run_once, clock=clock, next_due=self._expiry.next_due, gather=GATHERED
        )
        recounting = Recounting(pool=self._pool, clock=clock, changed=self._changed)
        self._recounting = Loop(
            "recounting",
            recounting.run_once,
            clock=clock,
            next_due=recounting.next_due,
            gather=GATHERED,
        )
        self._cleaning = Loop("housekeeping", housekeeping.run_once, clock=clock, poll=EVERY)
        self._loops = (self._settling, self._expiring, self._recounting, self._cleaning)
        self._hooks = HookSenders(pool=self._pool, clock=clock, client=HookClient())
        self._leadership = Leadership(self._database, self._notified)
        self._admission = Admission(own=OWN + settings.database.connections)
        self._live = EntitlementStreams(
            pool=self._pool,
            clock=clock,
            beat=settings.http.stream_beat,
            most=self._admission.most * STREAMS // 100,
        )
        self._schema = SchemaUpgrade(self._database)
        self._standing = HealthMonitor(
            pool=self._pool,
            clock=clock,
            btcpay=self._btcpay,
            publisher=self._publisher,
            conversation=self._conversation,
            usage=self._usage,
            leadership=self._leadership,
            admission=self._admission,
            rights=RightsWatch(self._pool),
            waits_for_schema=lambda: self._schema.waits_for,
        )
        watching = alarms.Alarms(
            pool=self._pool,
            clock=clock,
            readiness=self.readiness,
            leads=lambda: self._leadership.leads,
            changed=self._publisher.wake,
            instance=settings.instance,
        )
        self._alarming = Loop("alarms", watching.run_once, clock=clock, poll=alarms.EVERY)
        inbox = Inbox(pool=self._pool, wake=self._wake_settlement)
        invoicing = Invoicing(
            pool=self._pool,
            btcpay=self._btcpay,
            settlement=self._settlement,
            catalogue=catalogue,
            clock=clock,
            expiration=settings.btcpay.invoice_expiration,
            limit=RateLimit(settings.http.invoice_rate),
        )
        self._app = build_app(
            http=settings.http,
            webhook=settings.webhook,
            pool=self._pool,
            invoicing=invoicing,
            inbox=inbox,
            entitlements=Entitlements(pool=self._pool, clock=clock),
            whitelist=Whitelist(
                pool=self._pool,
                clock=clock,
                changed=self._changed,
                new_per_day=settings.http.new_nodes_per_day,
            ),
            links=links,
            live=self._live,
            catalogue=catalogue,
            clock=clock,
            readiness=self.readiness,
            topics=topics,
        )
        self._measuring = MetricsCollector(
            metrics=Metrics(__version__),
            pool=self._pool,
            clock=clock,
            btcpay=self._btcpay,
            publisher=self._publisher,
            conversation=self._conversation,
            metering=self._metering,
            leadership=self._leadership,
            admission=self._admission,
            watch=watch,
            timers=(self._expiring, self._settling),
        )
        self._measuring.install(self._app)

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
    ) -> None:
        """Serve until ``stop`` is set; requests in flight finish, then everything closes in reverse.

        ``alive`` is called several times in ``alive_within`` seconds, as long as there is progress.
        """
        http = self._settings.http
        async with self._pool, self._btcpay:
            try:
                runner, port = await serve(
                    self._app, host=http.host, port=http.port, sockets=sockets, admission=self._admission
                )
            except OSError as error:
                raise CannotListen(f"cannot listen on {http.host} port {http.port}: {error}") from error
            log.info("listening on %s port %d", http.host, port)
            try:
                with ungrouped(Misconfigured):
                    async with asyncio.TaskGroup() as group:
                        tasks = [
                            group.create_task(self._govern()),
                            group.create_task(self._tell_status(status)),
                            group.create_task(self._live.run()),
                            group.create_task(self._measuring.run()),
                            group.create_task(self._alarming.run()),
                            group.create_task(keep_alive(self._watched(), interval=alive_within, sign=alive)),
                        ]
                        started(Started(port))
                        await stop.wait()
                        stopping()
                        self._live.close()
                        for task in tasks:
                            task.cancel()
            finally:
                await drain(runner, sockets)
        log.info("stopped")

    def _watched(self) -> list[Watched]:
        return [
            Watched("leadership", self._leadership, LEADERSHIP_WITHIN),
            *(Watched(loop.name, loop, ROUND_WITHIN) for loop in (*self._loops, self._hooks.loop)),
        ]

    async def _govern(self) -> None:
        await self._schema.run()
        await self._leadership.run(self._lead)

    async def _lead(self) -> None:
        await self._reconciliation.begin()
        await self._leadership.working()
        with ungrouped(Unavailable):
            async with asyncio.TaskGroup() as group:
                for loop in self._loops:
                    group.create_task(loop.run())
                group.create_task(self._hooks.run())
                group.create_task(self._conversation.run(self._leadership.still_leading))

    def _changed(self) -> None:
        """Rights or invoices changed in this process: publish, and look at the timers again."""
        self._publisher.wake()
        self._expiring.wake()
        self._live.wake()

    def _counted(self) -> None:
        """Usage was counted in this process: no subscription ends sooner by it, unless it came late."""
        self._publisher.wake()
        self._recounting.wake()
        self._live.wake()

    def _notified(self, payload: str, sender: int) -> None:
        """Rows changed elsewhere; an empty payload says that anything may have."""
        if payload in ("", "hooks"):  # queued by a trigger, of which no session knows
            self._hooks.wake()
        if payload == "hooks" or self._pool.has_session(sender):
            return  # what was changed here is known since the commit
        if payload != "entitlements":
            self._settling.wake()
        if payload != "deliveries":
            self._changed()

    def _wake_settlement(self) -> bool:
        self._settling.wake()
        return self._leadership.leads

    async def _tell_status(self, status: Callable[[str], None]) -> None:
        told, backoff = "", Backoff(0.05, STATUS_EVERY)
        while True:
            readiness = await self.readiness()
            line = describe(readiness, leads=self._leadership.leads)
            if line != told:
                status(line)
                told = line
            # Looked at often after a start and a change for the worse, so that "unready" ends when it ends.
            if readiness.status == "ready":
                backoff.succeeded()
                await asyncio.sleep(STATUS_EVERY)
            else:
                await asyncio.sleep(backoff.failed())

    async def readiness(self) -> Readiness:
        """Say how each part is."""
        return await self._standing.readiness()

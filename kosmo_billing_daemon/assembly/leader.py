"""What only the leader does: the loops, the senders of hooks, and the session with the broker."""

import asyncio
from collections.abc import Iterator

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.assembly.connections import broker_of
from kosmo_billing_daemon.assembly.wakeups import Wakeups
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.hooks.client import HookClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.mqtt.broker_session import BrokerSession
from kosmo_billing_daemon.mqtt.publisher import Publisher
from kosmo_billing_daemon.mqtt.usage_intake import UsageIntake
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch
from kosmo_billing_daemon.runtime.loop import Loop
from kosmo_billing_daemon.runtime.task_groups import ungrouped
from kosmo_billing_daemon.runtime.watchdog import Watched
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.ceilings import Ceilings
from kosmo_billing_daemon.services.expiry import Expiry
from kosmo_billing_daemon.services.figures import EVERY as FIGURES_EVERY
from kosmo_billing_daemon.services.figures import PAGE as FIGURES_PAGE
from kosmo_billing_daemon.services.figures import Figures
from kosmo_billing_daemon.services.hooks import HookSenders
from kosmo_billing_daemon.services.housekeeping import EVERY, Housekeeping
from kosmo_billing_daemon.services.inquiries import Inquiries
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.metering import Metering
from kosmo_billing_daemon.services.reconciliation import MOST_AT_ONCE, ROUNDS, Reconciliation
from kosmo_billing_daemon.services.recounting import Recounting
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.services.topups import TopUps
from kosmo_billing_daemon.settings import Settings
from kosmo_billing_daemon.store.postgres import Pool

LOOKED_UP_AT_LEAST = 15.0  # seconds: another daemon may have reserved an invoice meanwhile
GATHERED = 0.1  # seconds: no purchase ends this soon, and each wakes the loop
INQUIRED_WITHIN = 1.0  # seconds: every webhook wakes the loop, and few of them ask for it
ROUND_WITHIN = 300.0  # seconds one round of a loop may take: each of its calls ends much sooner


class Leader:
    """Built in every daemon, and at work in the one that leads."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool: Pool,
        settlement: Settlement,
        links: RenewalLinks,
        renewals: AutoRenewals,
        topics: Topics,
        clock: Clock,
        watch: ClockWatch,
        wakeups: Wakeups,
    ) -> None:
        topups = TopUps(links=links, catalogue=renewals.catalogue)
        self.publisher = Publisher(topics=topics, clock=clock, topups=topups)
        self.metering = Metering(
            pool=pool,
            clock=clock,
            changed=wakeups.counted,
            ceilings=Ceilings(settings.usage_messages, settings.usage_users),
        )
        self.usage = UsageIntake(metering=self.metering, topics=topics)
        self.session = BrokerSession(
            broker=broker_of(settings.mqtt),
            topics=topics,
            pool=pool,
            publisher=self.publisher,
            usage=self.usage,
            leasing=Leasing(pool=pool, clock=clock),
            clock=clock,
            instance=settings.instance,
            version=__version__,
        )
        self._reconciliation = Reconciliation(pool=pool, settlement=settlement, clock=clock, watch=watch)
        expiry = Expiry(
            pool=pool,
            clock=clock,
            remind_hours=settings.remind_hours,
            links=links,
            renewals=renewals,
            changed=wakeups.changed,
        )
        recounting = Recounting(pool=pool, clock=clock, changed=wakeups.changed)
        inquiries = Inquiries(pool=pool, btcpay=settlement.btcpay, store_id=settlement.store_id, clock=clock)
        housekeeping = Housekeeping(pool=pool, clock=clock, retention=settings.retention)
        settling = Loop(
            "settlement",
            self._reconciliation.run_once,
            clock=clock,
            next_due=self._reconciliation.next_due,
            poll=LOOKED_UP_AT_LEAST,
            batch=MOST_AT_ONCE,
            parallel=ROUNDS,
        )
        expiring = Loop("expiry", expiry.run_once, clock=clock, next_due=expiry.next_due, gather=GATHERED)
        correcting = Loop(
            "recounting", recounting.run_once, clock=clock, next_due=recounting.next_due, gather=GATHERED
        )
        inquiring = Loop(
            "inquiries", inquiries.run_once, clock=clock, next_due=inquiries.next_due, gather=INQUIRED_WITHIN
        )
        figures = Figures(pool=pool)
        summing = Loop("figures", figures.run_once, clock=clock, poll=FIGURES_EVERY, batch=FIGURES_PAGE)
        cleaning = Loop("housekeeping", housekeeping.run_once, clock=clock, poll=EVERY)
        self.timers = (expiring, settling)
        self._loops = (settling, expiring, correcting, inquiring, summing, cleaning)
        self._hooks = HookSenders(pool=pool, clock=clock, client=HookClient(), topups=topups)
        wakeups.publish = self.publisher.wake
        wakeups.settle = self._reconciliation.more = settling.wake
        wakeups.inquire = inquiring.wake
        wakeups.expire = expiring.wake
        wakeups.recount = correcting.wake
        wakeups.send_hooks = self._hooks.wake

    async def work(self, leadership: Leadership) -> None:
        """Do what the leader does, for as long as it leads; raises ``Unavailable``."""
        await self._reconciliation.begin()
        await leadership.working()
        with ungrouped(Unavailable):
            async with asyncio.TaskGroup() as group:
                for loop in self._loops:
                    group.create_task(loop.run())
                group.create_task(self._hooks.run())
                group.create_task(self.session.run(leadership.still_leading))

    def watched(self) -> Iterator[Watched]:
        """Give what must make progress, for the watchdog."""
        for loop in (*self._loops, self._hooks.loop):
            yield Watched(loop.name, loop, ROUND_WITHIN)

"""Reads every part for one scrape: what it counted, how it stands, and what waits in the database.

And watches what no part notices by itself: how late the event loop is, and that the clock was set.
"""

import asyncio
from typing import Final

from aiohttp import web

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.monitoring.parts import WatchedParts
from kosmo_billing_daemon.runtime import descriptors
from kosmo_billing_daemon.runtime.metrics import Metrics, Reading
from kosmo_billing_daemon.services.backlog import ANSWER_WITHIN, read_backlog
from kosmo_billing_daemon.store import figures
from kosmo_billing_daemon.store.outbox import OutboxEvent
from kosmo_billing_daemon.store.queue_sizes import load_waiting
from kosmo_billing_daemon.web.metrics import install

FIGURES: Final = {
    "active": "active_subscriptions",
    "settled": "settled_amount",
    "credit": "credit",
    "invoices": "invoices_total",
}
"""Sums that the leader keeps in the database -> the metrics that show them."""


class MetricsCollector:
    """Asks every part, and the database."""

    def __init__(self, parts: WatchedParts) -> None:
        self._parts = parts
        self._metrics = Metrics(__version__)

    def install(self, app: web.Application) -> None:
        """Serve ``/metrics`` and count what is answered; must be called before the application runs."""
        install(app, self._metrics, self.expose)
        self._parts.leader.publisher.on_event_ack = self.observe_event_ack
        self._parts.pool.commits.observed = self._metrics.commit.observe

    async def run(self) -> None:
        """Watch the event loop and the clock, until cancelled; wake what waits by a clock that was set."""
        while True:
            await self._metrics.sample_lag()
            if self._parts.watch.look():
                for timer in self._parts.leader.timers:
                    timer.wake()

    def observe_event_ack(self, event: OutboxEvent) -> None:
        """Note that the broker acknowledged an event; those of rights say how long everything took."""
        if event.type.startswith("subscription."):
            seconds = (self._parts.clock() - event.occurred_at).total_seconds()
            self._metrics.settle_to_publish.observe(max(0.0, seconds))

    async def expose(self) -> bytes:
        """Return everything in Prometheus' text format; a database that is away is a fact, no failure."""
        reading = self._read_parts()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._database(reading)
        except (Unavailable, TimeoutError):
            reading.values["database_up"] = 0
        return self._metrics.expose(reading)

    def _read_parts(self) -> Reading:
        found = descriptors.count()
        return Reading(
            {
                "leader": self._parts.leadership.leads,
                "clock_steps_total": self._parts.watch.steps,
                **self._parts.leader.session.metrics(),
                **self._parts.btcpay.state.metrics(),
                **self._parts.admission.metrics(),
            },
            {
                "descriptors": {"open": found.open, "most": found.most},
                "usage_total": self._parts.leader.metering.tally.metrics(),
            },
        )

    async def _database(self, reading: Reading) -> None:
        now = self._parts.clock()
        async with self._parts.pool.connection(wait=ANSWER_WITHIN) as connection:
            waiting = await load_waiting(connection, now)
            business = await figures.load(connection)
        backlog = await read_backlog(self._parts.pool, self._parts.clock)
        late = 0.0 if waiting.earliest_deadline is None else (now - waiting.earliest_deadline).total_seconds()
        reading.values |= {
            "database_up": backlog.error is None,
            "attention_cases": waiting.attention,
            "unknown_orders": waiting.unknown_orders,
            "expiry_lateness_seconds": max(0.0, late),
            "usage_lag_seconds": waiting.usage_lag or 0.0,
        }
        for name, sums in business.items():
            reading.labelled[FIGURES[name]] = {label: float(value) for label, value in sums.items()}
        reading.labelled |= {
            "oldest_waiting_seconds": {
                "delivery": backlog.deliveries,
                "entitlement": backlog.entitlements,
                "event": backlog.events,
            },
            "waiting": {
                "delivery": waiting.deliveries,
                "entitlement": waiting.entitlements,
                "event": waiting.events,
                "quarantined_report": waiting.quarantine,
                "hook_event": waiting.hook_events,
            },
            "hooks": {
                "on": waiting.hooks_on,
                "failing": waiting.hooks_failing,
                "off": waiting.hooks_off,
            },
        }

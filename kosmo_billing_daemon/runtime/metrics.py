"""What Prometheus is told, each name in one place, so that alerts and dashboard can be checked against it.

The rule it keeps: cheap where it is hot. A request adds to a counter; everything else is read from the
parts and the database when somebody asks. No metric names a user.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

PREFIX: Final = "kosmo_billing"
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LAG_EVERY: Final = 1.0  # seconds between samples of the event loop's lag; each wakes an idle daemon

_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
_COMMITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

GAUGES: Final[Mapping[str, tuple[str, str | None]]] = {
    "database_up": ("1 when the database answered this scrape, and refused no write a moment ago", None),
    "leader": ("1 while this daemon leads: speaks MQTT and runs the loops", None),
    "broker_connected": ("1 while this daemon is connected to the broker", None),
    "broker_refuses": ("1 while the broker refuses a publication of ours", None),
    "btcpay_up": ("1 unless BTCPay is unreachable or something in front of it answers", None),
    "btcpay_denies": ("1 while BTCPay denies our key or a right", None),
    "btcpay_refuses": ("1 while BTCPay refuses in its own words what selling needs", None),
    "oldest_waiting_seconds": ("how long the oldest one waits, by what waits", "what"),
    "waiting": ("how many wait, at most 10000, by what waits", "what"),
    "expiry_lateness_seconds": ("how late the oldest end of a subscription is, or reminder of it", None),
    "usage_lag_seconds": ("between sending and counting, the worst of the newest 500 messages", None),
    "attention_cases": ("open cases: payments and gateways that need attention", None),
    "unknown_orders": ("open cases: paid orders that are not in the database", None),
    "active_subscriptions": ("current subscriptions, by plan; at most two minutes old", "plan"),
    "settled_amount": ("money that BTCPay confirmed, less what turned invalid, by currency", "currency"),
    "credit": ("credit of all users, less what they owe, by currency", "currency"),
    "hooks": ("endpoints of operators, by their state", "state"),
    "http_connections": ("connections that clients hold", None),
    "descriptors": ("file descriptors: how many are open, and how many may be at most", "what"),
    "loop_lag_seconds": ("the worst delay of the event loop since the last scrape", None),
}
"""Read at each scrape: name -> what it means, and its label."""

COUNTERS: Final[Mapping[str, tuple[str, str | None]]] = {
    "publications_total": ("publications the broker acknowledged", None),
    "broker_losses_total": ("connections to the broker lost, or refused", None),
    "btcpay_errors_total": ("calls to BTCPay without a usable answer, denied or refused", None),
    "http_displaced_total": ("idle connections closed because too many were held", None),
    "clock_steps_total": ("how often the system clock was set, by more than a second", None),
    "invoices_total": ("invoices created, settled and expired, by what became of them", "outcome"),
    "usage_total": ("usage since the start, by what became of it", "outcome"),
}
"""Counted by the parts themselves, and read at each scrape."""


@dataclass(slots=True)
class Reading:
    """What was read for one scrape: name -> value, or label -> value. What is missing is not shown."""

    values: dict[str, float] = field(default_factory=dict)
    labelled: dict[str, dict[str, float]] = field(default_factory=dict)


class _Read:
    """Shows the newest reading to the registry."""

    def __init__(self) -> None:
        self.reading = Reading()

    def collect(self) -> Iterator[Metric]:
        for kind, metrics in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (meaning, label) in metrics.items():
                family = kind(f"{PREFIX}_{name}", meaning, labels=[] if label is None else [label])
                if name in self.reading.values:
                    family.add_metric([], self.reading.values[name])
                for shown, value in self.reading.labelled.get(name, {}).items():
                    family.add_metric([shown], value)
                yield family


class Metrics:
    """One daemon's registry."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._read = _Read()
        self.registry.register(self._read)
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            f"{PREFIX}_http_requests",
            "requests answered, by route and status",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.refusals = Counter(
            f"{PREFIX}_http_refusals",
            "requests refused, by the code of the problem",
            ["code"],
            registry=self.registry,
        )
        self.settle_to_publish = Histogram(
            f"{PREFIX}_settle_to_publish_seconds",
            "from a change of rights in the database to the broker's acknowledgement of its events",
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self.commit = Histogram(
            f"{PREFIX}_commit_seconds",
            "how long PostgreSQL takes to commit a transaction",
            buckets=_COMMITS,
            registry=self.registry,
        )
        build = Gauge(f"{PREFIX}_build_info", "the version that runs", ["version"], registry=self.registry)
        build.labels(version).set(1)
        self._lag = 0.0

    def expose(self, reading: Reading) -> bytes:
        """Write everything in Prometheus' text format."""
        self._lag, lag = 0.0, self._lag
        reading.values["loop_lag_seconds"] = lag
        self._read.reading = reading
        return generate_latest(self.registry)

    async def sample_lag(self) -> None:
        """Rest for ``LAG_EVERY``, and notice how late the event loop ends it."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LAG_EVERY
        await asyncio.sleep(LAG_EVERY)
        self._lag = max(self._lag, loop.time() - due)

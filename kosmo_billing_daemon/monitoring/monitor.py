"""Everything that watches one daemon: readiness, metrics, alarms and the status line."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from kosmo_billing_daemon.monitoring.alarms import Alarms
from kosmo_billing_daemon.monitoring.collector import MetricsCollector
from kosmo_billing_daemon.monitoring.parts import WatchedParts
from kosmo_billing_daemon.monitoring.readiness import HealthMonitor
from kosmo_billing_daemon.monitoring.status_line import keep_reporting


class Monitor:
    """Built last, since it looks at every other part; ``app`` serves the metrics."""

    def __init__(self, parts: WatchedParts, app: web.Application, instance: str) -> None:
        self._leads: Callable[[], bool] = lambda: parts.leadership.leads
        self.readiness = HealthMonitor(parts).readiness
        self._metrics = MetricsCollector(parts)
        self._metrics.install(app)
        self._alarms = Alarms(
            pool=parts.pool,
            clock=parts.clock,
            readiness=self.readiness,
            leads=self._leads,
            changed=parts.leader.publisher.wake,
            instance=instance,
        )

    async def run(self, report: Callable[[str], None]) -> None:
        """Watch until cancelled; ``report`` is called with each new status line."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_reporting(self.readiness, self._leads, report))
            group.create_task(self._metrics.run())
            group.create_task(self._alarms.run())

"""Everything that watches one daemon: readiness, metrics, alarms and the status line."""

import asyncio
from collections.abc import Callable

from kosmo_billing_daemon.assembly.front import Front
from kosmo_billing_daemon.assembly.leader import Leader
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.monitoring.alarms import Alarms
from kosmo_billing_daemon.monitoring.collector import MetricsCollector
from kosmo_billing_daemon.monitoring.readiness import HealthMonitor
from kosmo_billing_daemon.monitoring.status_line import keep_reporting
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.store.postgres import Pool


class Monitor:
    """Built last, since it looks at every other part."""

    def __init__(
        self,
        *,
        pool: Pool,
        clock: Clock,
        watch: ClockWatch,
        btcpay: BtcpayClient,
        schema: SchemaUpgrade,
        leadership: Leadership,
        leader: Leader,
        front: Front,
        instance: str,
    ) -> None:
        self._leads: Callable[[], bool] = lambda: leadership.leads
        health = HealthMonitor(
            pool=pool,
            clock=clock,
            btcpay=btcpay,
            leader=leader,
            leadership=leadership,
            admission=front.admission,
            schema=schema,
        )
        self.readiness = health.readiness
        self._metrics = MetricsCollector(
            pool=pool,
            clock=clock,
            btcpay=btcpay,
            leader=leader,
            leadership=leadership,
            admission=front.admission,
            watch=watch,
        )
        self._metrics.install(front.app)
        self._alarms = Alarms(
            pool=pool,
            clock=clock,
            readiness=self.readiness,
            leads=self._leads,
            changed=leader.publisher.wake,
            instance=instance,
        )

    async def run(self, report: Callable[[str], None]) -> None:
        """Watch until cancelled; ``report`` is called with each new status line."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_reporting(self.readiness, self._leads, report))
            group.create_task(self._metrics.run())
            group.create_task(self._alarms.run())

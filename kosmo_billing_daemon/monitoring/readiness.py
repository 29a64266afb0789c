"""How one daemon is, by what each of its parts says.

The rule it keeps: the daemon is unready when a queue is too old, nobody leads, or the database is down. Every
other problem is reported as degraded, and requests may come: taking payments never depends on the broker.
"""

from kosmo_billing_daemon.monitoring.parts import WatchedParts
from kosmo_billing_daemon.runtime.descriptors import DescriptorWatch
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.services.backlog import Backlog, RightsWatch, read_backlog
from kosmo_billing_daemon.web.health import Readiness

VITAL = ("database", "deliveries", "publishing")


class HealthMonitor:
    """Asks every part."""

    def __init__(self, parts: WatchedParts) -> None:
        self._parts = parts
        self._descriptors = DescriptorWatch()
        self._rights = RightsWatch(parts.pool)

    async def readiness(self) -> Readiness:
        """Say how each part is."""
        parts = self._parts
        waits = parts.schema.waits_for
        if waits is None:
            backlog, lacks = await read_backlog(parts.pool, parts.clock), await self._rights.look()
        else:
            backlog, lacks = Backlog(error=waits), None
        checks = {
            "database": Check.of(lacks or backlog.error, "answers"),
            "commits": parts.pool.commits.health(),
            **backlog.health(),
            "btcpay": parts.btcpay.state.health(),
            "connections": parts.admission.health(),
            "descriptors": self._descriptors.health(),
        }
        refused = parts.leader.publisher.refusals.problem
        if refused is not None:
            checks["publishing"] = Check(False, refused)
        if parts.leadership.leads:
            checks["broker"] = parts.leader.session.health()
        is_led, checks["leadership"] = parts.leadership.health(backlog.is_led)
        return Readiness(is_led and all(checks[name].ok for name in VITAL), checks)

"""How one daemon is, by what each of its parts says.

The rule it keeps: the daemon is unready when a queue is too old, nobody leads, or the database is down. Every
other problem is reported as degraded, and requests may come: taking payments never depends on the broker.
"""

from dataclasses import field

from kosmo_billing_daemon.assembly.leader import Leader
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.descriptors import DescriptorWatch
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.backlog import Backlog, RightsWatch, read_backlog
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.server.admission import Admission

VITAL = ("database", "deliveries", "publishing")


@record(kw_only=True)
class HealthMonitor:
    """The parts that may have a problem."""

    pool: Pool
    clock: Clock
    btcpay: BtcpayClient
    leader: Leader
    leadership: Leadership
    admission: Admission
    schema: SchemaUpgrade
    descriptors: DescriptorWatch = field(default_factory=DescriptorWatch)
    rights: RightsWatch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rights", RightsWatch(self.pool))

    async def readiness(self) -> Readiness:
        """Say how each part is."""
        waits = self.schema.waits_for
        if waits is None:
            backlog, lacks = await read_backlog(self.pool, self.clock), await self.rights.look()
        else:
            backlog, lacks = Backlog(error=waits), None
        refused = self.leader.publisher.refusals.problem
        checks = {
            "database": Check.of(lacks or backlog.error, "answers"),
            "commits": self.pool.commits.health(),
            **backlog.health(),
            "btcpay": self.btcpay.state.health(),
            "connections": self.admission.health(),
            "descriptors": self.descriptors.health(),
        }
        if refused is not None:
            checks["publishing"] = Check(False, refused)
        if self.leadership.leads:
            checks["broker"] = self.leader.session.health()
        is_led, checks["leadership"] = self.leadership.health(backlog.is_led)
        return Readiness(is_led and all(checks[name].ok for name in VITAL), checks)

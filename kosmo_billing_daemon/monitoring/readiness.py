"""How each part of one daemon is.

The rule it keeps: the daemon is unready when a queue is too old, nobody leads, or the database is down. Every
other problem is reported as degraded, and requests may come: taking payments never depends on the broker.
"""

from dataclasses import field

from kosmo_billing_daemon.assembly.leader import Leader
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.descriptors import DescriptorWatch
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.backlog import TOO_OLD, Backlog, RightsWatch, read_backlog
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Check, Readiness
from kosmo_billing_daemon.web.server.admission import Admission

VITAL = ("database", "deliveries", "publishing")

UNLED_FOR = 30.0
"""Seconds without a leader after which no daemon is ready: replacing a frozen one takes half of that."""


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
        checks = {
            "database": _database(lacks or backlog.error),
            "commits": _commits(self.pool),
            "deliveries": Check(backlog.deliveries <= TOO_OLD, f"oldest waits {backlog.deliveries:.0f} s"),
            "set_aside": Check(backlog.aside is None, backlog.aside or "nothing"),
            "publishing": self._publishing(backlog),
            "btcpay": self._btcpay(),
            "connections": self._connections(),
            "descriptors": self._descriptors(),
        }
        if self.leadership.leads:
            checks["broker"] = self._broker()
        unled = self.leadership.unled_for(backlog.is_led)
        checks["leadership"] = self._leadership(unled)
        return Readiness(unled <= UNLED_FOR and all(checks[name].ok for name in VITAL), checks)

    def _leadership(self, unled: float) -> Check:
        role = self.leadership.role
        told = role or "no connection to the database for it"
        if unled > 0:
            told += f"; no leader for {unled:.0f} s"
        return Check(role is not None and unled <= UNLED_FOR, told)

    def _publishing(self, backlog: Backlog) -> Check:
        refusal = self.leader.publisher.refusals.current
        if refusal is not None:
            return Check(False, f"the broker refuses {refusal.topic}: {refusal.reason}; fix its ACL")
        oldest = max(backlog.entitlements, backlog.events)
        return Check(oldest <= TOO_OLD, f"oldest waits {oldest:.0f} s")

    def _broker(self) -> Check:
        line = self.leader.session.line
        if line.connected_since is None:
            return Check(False, line.last_error or "connecting")
        withheld = self.leader.usage.refusal or line.withheld
        return Check(withheld is None, withheld or "connected")

    def _btcpay(self) -> Check:
        problem = self.btcpay.state.problem
        return Check(problem is None, problem or "reachable")

    def _connections(self) -> Check:
        crowded = self.admission.look()
        told = f"{self.admission.held} of {self.admission.most}"
        return Check(not crowded, f"{told}; idle ones are closed for new ones" if crowded else told)

    def _descriptors(self) -> Check:
        found = self.descriptors.look()
        return Check(not found.are_short, str(found))


def _database(error: str | None) -> Check:
    return Check(error is None, error or "answers")


def _commits(pool: Pool) -> Check:
    problem = pool.commits.look()
    return Check(problem is None, problem or "quick")

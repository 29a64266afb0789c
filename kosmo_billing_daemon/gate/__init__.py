"""The library for gateways and bridges: what each user may do, decided at the edge.

    async with Gate(broker, Path("gate.db"), reporter="gateway-1") as gate:
        await gate.ready(30)
        with gate.hold(user_id, "!a1b2c3d4") as hold:
            if hold:
                send(...)

Every entitlement is in memory and in a SQLite file, so answers need no network, survive restarts and days
offline, and end with the plan. What passed is reported until the daemon has counted it, exactly once; what
could not be sent is given back.
Threads use ``SyncGate``. Needs aiomqtt and the standard library alone.

Reading order: ``decisions`` (the answer), ``timekeeping`` (what time it is), ``ledger`` (own messages no
document has yet), ``holds``, ``leases``, ``rows``, ``state``, ``seal`` and ``journal`` (the file),
``salvage`` (what is left of a damaged one), ``documents``, ``replay``, ``reports``, ``connection`` (the
broker), ``gate``.
"""

from kosmo_billing_daemon.gate.decisions import Decision, Reason
from kosmo_billing_daemon.gate.errors import NotJournaled, StateInUse, StateOfAnother, StateUnwritable
from kosmo_billing_daemon.gate.gate import Gate
from kosmo_billing_daemon.gate.holds import Hold, OnTimeout
from kosmo_billing_daemon.gate.salvage import salvage
from kosmo_billing_daemon.gate.status import GateStatus
from kosmo_billing_daemon.gate.synchronous import SyncGate

__all__ = [
    "Decision",
    "Gate",
    "GateStatus",
    "Hold",
    "NotJournaled",
    "OnTimeout",
    "Reason",
    "StateInUse",
    "StateOfAnother",
    "StateUnwritable",
    "SyncGate",
    "salvage",
]

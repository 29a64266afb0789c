"""What an open gate consists of."""

from kosmo_billing_daemon.gate.connection import Connection
from kosmo_billing_daemon.gate.disk import Disk
from kosmo_billing_daemon.gate.documents import Documents
from kosmo_billing_daemon.gate.holds import Holds
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.leases import LeaseBook
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.reports import Reporter
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.runtime.records import record


@record
class Parts:
    """Made when a gate is opened and dropped when it is closed."""

    state: StateFile
    journal: Journal
    ledger: UsageLedger
    holds: Holds
    leases: LeaseBook | None
    documents: Documents
    reporter: Reporter | None
    disk: Disk
    connection: Connection

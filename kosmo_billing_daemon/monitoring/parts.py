"""The parts of one daemon that say how they are."""

from kosmo_billing_daemon.assembly.leader import Leader
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.leadership import Leadership
from kosmo_billing_daemon.runtime.clock import Clock, ClockWatch
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.schema import SchemaUpgrade
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.server.admission import Admission


@record(kw_only=True)
class WatchedParts:
    """What readiness and metrics are made of."""

    pool: Pool
    clock: Clock
    watch: ClockWatch
    btcpay: BtcpayClient
    schema: SchemaUpgrade
    leadership: Leadership
    leader: Leader
    admission: Admission

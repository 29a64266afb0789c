"""A BTCPay Server that needs no bitcoin: Greenfield API, signed webhooks, checkout page, failure modes.

Read ``invoices`` (what is known), ``state`` (what happens), ``webhooks`` (who is told), ``engine`` (time),
then ``greenfield`` and ``simulator``. The rule it keeps: what the real server refuses, delays or loses, this
one refuses, delays or loses too.
"""

from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from kosmo_billing_daemon.demo.btcpay.simulator import Simulator
from kosmo_billing_daemon.demo.btcpay.stores import BILLING_PERMISSIONS, Permission, SimulatedStore
from kosmo_billing_daemon.demo.btcpay.webhooks import BTCPAY_RETRY_WAITS

__all__ = [
    "BILLING_PERMISSIONS",
    "BTCPAY_RETRY_WAITS",
    "GreenfieldRefused",
    "Permission",
    "SimulatedInvoice",
    "SimulatedStore",
    "Simulator",
]

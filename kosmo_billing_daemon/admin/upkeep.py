"""Looking up all open invoices now, whoever else does so too: works beside a running daemon.

The rule it keeps: settlement is the only path, so two lookups at once change nothing twice.
"""

from collections.abc import Callable

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from kosmo_billing_daemon.store import invoices, lookups


@record
class Moved:
    """One invoice that stands elsewhere than before."""

    before: Invoice
    after: Invoice


async def reconcile_now(
    reconciliation: Reconciliation, total: Callable[[int], None], progress: Callable[[int], None]
) -> tuple[int, list[Moved]]:
    """Look up every open invoice at BTCPay; returns how many, and those that moved.

    ``total`` is told once how many there are, ``progress`` how many lookups were made. Raises
    ``Unavailable`` when BTCPay is away.
    """
    if reconciliation.settlement.trust_body:
        raise Conflict("with WEBHOOK_TRUST=body no BTCPay is asked")
    pool = reconciliation.pool
    before = {invoice.id: invoice for invoice in await pool.read(lookups.load_open)}
    total(len(before))
    await reconciliation.begin()
    looked = 0
    while batch := await reconciliation.run_once():
        looked += batch
        progress(min(looked, len(before)))
    progress(len(before))
    after = await pool.read(invoices.load, before)
    moved = [
        Moved(old, new)
        for old in before.values()
        if (new := after.get(old.id)) is not None
        and (new.status, new.payment, new.effect) != (old.status, old.payment, old.effect)
    ]
    return len(before), moved

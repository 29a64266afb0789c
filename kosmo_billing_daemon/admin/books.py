"""Compares our books with BTCPay's own list of invoices, and names every difference (R13). It only reads."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.btcpay import payloads
from kosmo_billing_daemon.btcpay import refunds as refunds_at_btcpay
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, Garbled
from kosmo_billing_daemon.domain.currencies import smallest_unit
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import attention, invoices, ledger_faults, refunds
from kosmo_billing_daemon.store.postgres import Pool

PAGE = 200
"""Invoices in one call to BTCPay."""


@record(kw_only=True)
class Difference:
    """Something that the two sides disagree about; ``amount`` is how much more BTCPay has."""

    fact: str
    invoice_id: str | None = None
    order_id: str | None = None
    amount: Decimal | None = None
    currency: str | None = None


async def compare(
    pool: Pool,
    btcpay: BtcpayClient,
    first: datetime,
    before: datetime,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Difference]:
    """Compare invoices that were created in a period; raises ``Unavailable`` where BTCPay cannot be asked.

    ``progress`` is told how many invoices BTCPay has listed so far.
    """
    seen, found = await _list(btcpay, first, before, progress)
    orders = {order for each in seen if (order := _order(each)) is not None}
    async with pool.connection() as connection:
        known = await invoices.load(connection, orders)
        # Those that v0.1 opened have an order id of v0.1 there.
        attached = await invoices.load_attached(connection, [each.btcpay_invoice_id for each in seen])
        ours = await invoices.load_created(connection, first, before)
        faults = await ledger_faults.load(connection)
        decided = await attention.load_decided(connection, [each.btcpay_invoice_id for each in seen])
        again = await attention.load_decided_twice(connection, list(known))
    for each in seen:
        order = _order(each)
        invoice = attached.get(each.btcpay_invoice_id) or (order and known.get(InvoiceId(order)))
        if order is not None or invoice is not None:
            elsewhere = decided.get(each.btcpay_invoice_id, Decimal(0))
            if order is not None and invoice and invoice.btcpay_invoice_id != each.btcpay_invoice_id:
                elsewhere = min(again.get(order, Decimal(0)), each.paid_amount or each.amount)
                again[order] = again.get(order, Decimal(0)) - elsewhere
            found += await _compare(btcpay, each, invoice or None, elsewhere)
    found += await _refunds(pool, btcpay, seen)
    there = {each.btcpay_invoice_id for each in seen}
    found += [
        Difference(
            invoice_id=each.btcpay_invoice_id,
            order_id=str(each.id),
            fact="BTCPay does not list it",
            currency=each.plan.price.currency,
        )
        for each in ours
        if each.btcpay_invoice_id is not None and each.btcpay_invoice_id not in there
    ]
    found += [
        Difference(
            order_id=None if each.order_id is None else str(each.order_id),
            fact=f"{each.what}: {each.booked:f}, must be {each.right:f}; report this as a bug",
        )
        for each in faults
    ]
    return found


async def _list(
    btcpay: BtcpayClient, first: datetime, before: datetime, progress: Callable[[int], None]
) -> tuple[list[Observation], list[Difference]]:
    seen: dict[str, Observation] = {}
    found: list[Difference] = []
    skip = 0
    while True:
        # endDate is included, and in whole seconds.
        where = f"startDate={int(first.timestamp())}&endDate={int(before.timestamp()) - 1}"
        path = f"invoices?{where}&includeArchived=true&skip={skip}&take={PAGE}"
        document = await btcpay.ask("list_invoices", path)
        try:
            page = payloads.observations(document, links=btcpay.links)
            unreadable: Sequence[str | None] = ()
        except Garbled as error:
            page, unreadable = list(error.readable), error.order_ids
        seen |= {each.btcpay_invoice_id: each for each in page}
        found += [Difference(order_id=order, fact="BTCPay's invoice cannot be read") for order in unreadable]
        progress(len(seen))
        if len(page) + len(unreadable) < PAGE:
            return list(seen.values()), found
        skip += PAGE


async def _compare(
    btcpay: BtcpayClient, seen: Observation, invoice: Invoice | None, decided: Decimal
) -> list[Difference]:
    """Compare one invoice of BTCPay with ours; one without money on either side cannot differ.

    Of an order that this database does not know, operators have ``decided`` about so much.
    """
    paid = seen.paid_amount or Decimal(0)
    if seen.status is InvoiceStatus.SETTLED and seen.paid_amount is None:
        paid = seen.amount
    is_ours = invoice is not None and invoice.btcpay_invoice_id == seen.btcpay_invoice_id
    booked = invoice.received if invoice is not None and is_ours else decided
    unit = smallest_unit(seen.currency)
    is_plain = seen.status is InvoiceStatus.SETTLED and seen.payment is not Payment.MARKED
    if abs(paid - booked) >= unit and not (is_plain and paid == seen.amount):
        confirmed = (await btcpay.fetch_confirmations(seen)).confirmed_amount
        paid = paid if confirmed is None else confirmed
    if abs(paid - booked) < unit:
        return []
    if invoice is None:
        fact = f"an order that this database does not know was paid {paid:f}"
    elif not is_ours:
        fact = f"a further invoice of order {invoice.id} was paid {paid:f}"
    else:
        fact = f"BTCPay received {paid:f}, the ledger has {booked:f}"
    return [
        Difference(
            invoice_id=seen.btcpay_invoice_id,
            order_id=seen.order_id,
            fact=fact,
            amount=paid - booked,
            currency=seen.currency,
        )
    ]


async def _refunds(pool: Pool, btcpay: BtcpayClient, seen: Sequence[Observation]) -> list[Difference]:
    """Find refunds that one side alone has, by the name that BTCPay gives those made in its pages.

    They are made there and not booked, or archived there and still booked. It needs the right to see them.
    """
    names = {
        refunds_at_btcpay.name_in_pages(each.btcpay_invoice_id): each
        for each in seen
        if _order(each) is not None
    }
    try:
        listed = await refunds_at_btcpay.load(btcpay)
    except BtcpayDenied:
        return []
    booked = await pool.read(refunds.load_booked, [each.id for each in listed])
    found = [
        Difference(
            invoice_id=names[each.name].btcpay_invoice_id,
            order_id=names[each.name].order_id,
            fact=f"refund {each.id} over {each.total.amount:f} was made in BTCPay and is not in the ledger",
            amount=-each.total.amount,
            currency=each.total.currency,
        )
        for each in listed
        if each.name in names and each.id not in booked and not each.is_archived
    ]
    shown = {each.btcpay_invoice_id: each for each in seen}
    for each in listed:
        refund = booked.get(each.id)
        if refund is None or refund.cancelled_at is not None or not each.is_archived:
            continue
        if refund.btcpay_invoice_id not in shown:
            continue
        claims = await refunds_at_btcpay.fetch_claims(btcpay, each.id)
        if claims and each.total.currency != refund.total.currency:
            continue
        left = refund.total.amount - sum((claim.amount for claim in claims), Decimal(0))
        if left > 0:
            found.append(
                Difference(
                    invoice_id=refund.btcpay_invoice_id,
                    order_id=shown[refund.btcpay_invoice_id].order_id,
                    fact=f"{left:f} of refund {each.id} cannot be claimed, since BTCPay has archived it; see:"
                    f" kosmo-billing refund cancel {refund.btcpay_invoice_id}",
                    amount=left,
                    currency=refund.total.currency,
                )
            )
    return found


def _order(seen: Observation) -> UUID | None:
    """Return the order id, if it looks like one of ours; the store may sell other things too."""
    try:
        return UUID(seen.order_id or "")
    except ValueError:
        return None

"""What is observed of invoices: looked up at BTCPay, or claimed by a webhook's body.

An invoice that cannot be read is told apart from one that BTCPay does not know, and from an outage: it
must neither hold up the others nor be taken for absent.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from decimal import Decimal

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayRefused, Garbled
from kosmo_billing_daemon.btcpay.payloads import STATUSES
from kosmo_billing_daemon.domain.invoices import (
    Case,
    CaseKind,
    Invoice,
    InvoiceStatus,
    Observation,
    Payment,
    needs_confirmation,
)
from kosmo_billing_daemon.domain.subscriptions import InvoiceId
from kosmo_billing_daemon.domain.verdicts import Verdict
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.lookups import DueLookup

log = logging.getLogger(__name__)

SINGLE_CALLS = 8
"""Calls for single invoices at the same time; they are rare (late, lost or re-labelled invoices)."""

Observations = Mapping[InvoiceId, Sequence[Observation]]


@record
class LookupResult:
    """``observations`` are what BTCPay showed; an invoice that is in neither is not known there.

    ``number`` orders lookups by when they were asked for; an answer overtaken by a later one is dropped.
    """

    observations: dict[InvoiceId, list[Observation]] = field(default_factory=dict)
    unreadable: set[InvoiceId] = field(default_factory=set)
    number: int | None = None


async def look_up(btcpay: BtcpayClient, asked: Mapping[InvoiceId, str | None], number: int) -> LookupResult:
    """Ask BTCPay for invoices: one list call, then single ones only where that was not enough.

    ``asked`` has BTCPay's id of each, as far as it is known. Raises ``Unavailable`` when BTCPay cannot be
    asked at all.
    """
    result = LookupResult(number=number)
    if not asked:
        return result
    await _list(btcpay, asked, result)
    found = result.observations
    limit = asyncio.Semaphore(SINGLE_CALLS)

    async def fetch(invoice_id: InvoiceId, btcpay_id: str) -> None:
        async with limit:
            try:
                observation = await btcpay.fetch_invoice(btcpay_id)
            except (Garbled, BtcpayRefused) as error:
                _note_unreadable(result, invoice_id, error)
                return
        if observation is not None:
            found.setdefault(invoice_id, []).append(observation)

    async def confirm(invoice_id: InvoiceId, shown: list[Observation], place: int) -> None:
        async with limit:
            try:
                shown[place] = await btcpay.fetch_confirmations(shown[place])
            except (Garbled, BtcpayRefused) as error:
                _note_unreadable(result, invoice_id, error)

    # An order id edited at BTCPay hides the invoice from the list; its own id still finds it (R9).
    lost = [
        (invoice_id, btcpay_id)
        for invoice_id, btcpay_id in asked.items()
        if btcpay_id is not None
        and invoice_id not in result.unreadable
        and all(o.btcpay_invoice_id != btcpay_id for o in found.get(invoice_id, ()))
    ]
    await asyncio.gather(*(fetch(*one) for one in lost))
    await asyncio.gather(
        *(
            confirm(invoice_id, shown, place)
            for invoice_id, shown in found.items()
            for place, observation in enumerate(shown)
            if needs_confirmation(observation)
        )
    )
    for invoice_id in result.unreadable:
        found.pop(invoice_id, None)
    return result


async def _list(btcpay: BtcpayClient, asked: Mapping[InvoiceId, str | None], result: LookupResult) -> None:
    by_order = {str(invoice_id): invoice_id for invoice_id in asked}
    try:
        readable: Sequence[Observation] = await btcpay.find_invoices(list(asked))
    except BtcpayRefused as error:
        raise Unavailable(f"invoices cannot be listed: {error}", code="btcpay_refused") from error
    except Garbled as error:
        if not error.readable and by_order.keys().isdisjoint(error.order_ids):
            raise  # not one invoice of several, but no answer at all
        readable = error.readable
        for order_id in error.order_ids:
            if order_id in by_order:
                _note_unreadable(result, by_order[order_id], error)
            else:
                # Nobody can tell whose it is: no reservation may be taken for unknown at BTCPay.
                found = {observation.order_id for observation in readable}
                result.unreadable.update(
                    invoice_id
                    for order, invoice_id in by_order.items()
                    if order not in found and asked[invoice_id] is None
                )
    for observation in readable:
        of = by_order.get(observation.order_id or "")
        if of is not None:
            result.observations.setdefault(of, []).append(observation)


def _note_unreadable(result: LookupResult, invoice_id: InvoiceId, error: Exception) -> None:
    result.unreadable.add(invoice_id)
    log.error("an invoice cannot be read at BTCPay: %s", error, extra=fields(order=invoice_id))


def choose(invoice: Invoice, shown: Sequence[Observation]) -> tuple[Observation | None, list[Observation]]:
    """Tell the invoice that is ours from strays with the same order id (a creation that was repeated)."""
    ordered = sorted(shown, key=lambda o: (o.btcpay_invoice_id != invoice.btcpay_invoice_id, o.expires_at))
    if invoice.btcpay_invoice_id is None:
        return ordered[0], ordered[1:]
    ours = [o for o in ordered if o.btcpay_invoice_id == invoice.btcpay_invoice_id]
    strays = [o for o in ordered if o.btcpay_invoice_id != invoice.btcpay_invoice_id]
    return (ours[0] if ours else None), strays


def with_strays(verdict: Verdict, strays: Sequence[Observation]) -> Verdict:
    """List money that came in on further BTCPay invoices for the same order, in one case."""
    paid = {
        o.btcpay_invoice_id: amount
        for o in strays
        if (amount := o.paid_amount or (o.amount if o.status is InvoiceStatus.SETTLED else None))
    }
    if not paid:
        return verdict
    ids = ", ".join(sorted(paid))
    detail = f"paid for the same order too at BTCPay: invoice {ids}"
    is_final = all(
        o.status is InvoiceStatus.SETTLED
        and not needs_confirmation(o)
        and o.currency == verdict.invoice.plan.price.currency
        for o in strays
        if o.btcpay_invoice_id in paid
    )
    case = Case(CaseKind.PAID_TWICE, detail, sum(paid.values(), Decimal(0)), is_final)
    return replace(verdict, cases=(*verdict.cases, case))


def claimed(due: Sequence[DueLookup], known: Mapping[InvoiceId, Invoice], store_id: str) -> LookupResult:
    """Take the body's word (``WEBHOOK_TRUST=body``); the last delivery about an invoice counts."""
    result = LookupResult()
    for lookup in due:
        status, invoice = STATUSES.get(lookup.claimed_status or ""), known.get(lookup.invoice_id)
        if status is None or invoice is None or invoice.expires_at is None:
            continue
        price = invoice.asked
        result.observations[invoice.id] = [
            Observation(
                btcpay_invoice_id=invoice.btcpay_invoice_id or "",
                store_id=store_id,
                order_id=str(invoice.id),
                amount=price.amount,
                currency=price.currency,
                status=status,
                payment=Payment.NONE,
                expires_at=invoice.expires_at,
                paid_amount=price.amount if status is InvoiceStatus.SETTLED else None,
                checkout_url=invoice.checkout_url or "",
            )
        ]
    return result

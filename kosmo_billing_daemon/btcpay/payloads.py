"""What BTCPay sends and expects about invoices, turned into the domain's words and back.

The rule it keeps: strict where a value decides about rights or money, tolerant about the rest. The invoice
fetched from BTCPay is the fact; a webhook body is only a hint of where to look.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from kosmo_billing_daemon.btcpay.addresses import Links
from kosmo_billing_daemon.btcpay.errors import Garbled, InvalidResponse
from kosmo_billing_daemon.btcpay.reading import (
    MAX_URL_LENGTH,
    decode,
    items,
    mapping,
    number,
    one_of,
    optional_number,
    optional_text,
    short,
    text,
    time,
    whole,
)
from kosmo_billing_daemon.domain.currencies import nearest, smallest_unit
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.domain.plans import Plan, Price
from kosmo_billing_daemon.runtime.records import record

MAX_TYPE_LENGTH = 64

STATUSES = {
    "New": InvoiceStatus.NEW,
    "Processing": InvoiceStatus.PROCESSING,
    "Settled": InvoiceStatus.SETTLED,
    "Expired": InvoiceStatus.EXPIRED,
    "Invalid": InvoiceStatus.INVALID,
}
_PAYMENTS = {
    "None": Payment.NONE,
    "PaidPartial": Payment.PARTIAL,
    "PaidOver": Payment.OVER,
    "PaidLate": Payment.LATE,
    "Marked": Payment.MARKED,
}
_COUNTED_STATUSES = ("Processing", "Settled")
# Sums of products of two numbers of 29 + 28 digits; money is kept to a satoshi's eight decimals.
_WIDE = 120
_KEPT = _SATOSHI = Decimal("1e-8")


@record(kw_only=True)
class Hint:
    """One webhook body, reduced to where it points. ``claimed_status`` is what the body says of the
    invoice, in BTCPay's spelling, and no more than a claim.
    """

    delivery_id: str | None
    type: str
    invoice_id: str | None
    order_id: str | None
    store_id: str | None
    pull_payment_id: str | None
    claimed_status: str | None


def hint(body: bytes) -> Hint:
    """Read a webhook body; ``InvalidResponse`` unless it is a JSON object in UTF-8 with a ``type``.

    An optional field of a wrong type, over-long or not printable counts as absent: the delivery may be
    authentic all the same, and what it hints at is found by polling.
    """
    try:
        document = decode(body)
    except ValueError as error:
        raise InvalidResponse(f"the body is not JSON in UTF-8: {short(error)}") from None
    if not isinstance(document, dict):
        raise InvalidResponse("the body is not a JSON object")
    kind = optional_text(document, "type", most=MAX_TYPE_LENGTH)
    if kind is None:
        raise InvalidResponse(f"type: a printable text of 1 to {MAX_TYPE_LENGTH} characters is needed")
    return Hint(
        delivery_id=optional_text(document, "deliveryId"),
        type=kind,
        invoice_id=optional_text(document, "invoiceId"),
        order_id=_order_id(document),
        store_id=optional_text(document, "storeId"),
        pull_payment_id=optional_text(document, "pullPaymentId"),
        claimed_status=optional_text(document, "status", most=MAX_TYPE_LENGTH),
    )


def observation(document: Any, *, links: Links | None = None) -> Observation:
    """Read one invoice; raises ``Garbled`` naming the field that is not what the API promises."""
    invoice = mapping(document, "invoice")
    amount = number(invoice, "amount")
    if amount < 0:
        raise Garbled("amount", "less than nothing")
    return Observation(
        btcpay_invoice_id=text(invoice, "id"),
        store_id=text(invoice, "storeId"),
        order_id=_order_id(invoice),
        amount=amount,
        currency=text(invoice, "currency", most=32),
        status=one_of(invoice, "status", STATUSES),
        payment=one_of(invoice, "additionalStatus", _PAYMENTS),
        expires_at=time(invoice, "expirationTime"),
        paid_amount=optional_number(invoice, "paidAmount"),
        checkout_url=_link(invoice, links),
    )


def observations(document: Any, *, links: Links | None = None) -> list[Observation]:
    """Read a list of invoices, newest first as BTCPay has them.

    If some cannot be read, ``Garbled`` carries those that could: an unreadable invoice is not an absent one.
    """
    readable: list[Observation] = []
    unreadable: list[str | None] = []
    first: Garbled | None = None
    for entry in items(document, "invoices"):
        try:
            readable.append(observation(entry, links=links))
        except Garbled as error:
            first = first or error
            unreadable.append(_order_id(entry) if isinstance(entry, dict) else None)
    if first is not None:
        raise Garbled(first.field, first.problem, readable=readable, order_ids=unreadable)
    return readable


def _order_id(invoice: Mapping[str, Any]) -> str | None:
    metadata = invoice.get("metadata")
    return optional_text(metadata, "orderId") if isinstance(metadata, Mapping) else None


def sample(document: Any, store_id: str) -> None:
    """Make sure that these are invoices of our store; ``Garbled`` if not."""
    for entry in items(document, "invoices"):
        if text(mapping(entry, "invoice"), "storeId") != store_id:
            raise Garbled("storeId", "not our store; does BTCPAY_URL lead to BTCPay itself?")


def of_orders(seen: list[Observation], order_ids: Sequence[UUID]) -> list[Observation]:
    """Return what was seen; ``Garbled`` if any of it is of an order that was not asked for."""
    if not {observation.order_id for observation in seen} <= {str(order_id) for order_id in order_ids}:
        raise Garbled(
            "metadata.orderId", "orders that were not asked for; does BTCPAY_URL lead to BTCPay itself?"
        )
    return seen


def of_id(seen: Observation, btcpay_id: str) -> Observation:
    """Return what was seen; ``Garbled`` if it is another invoice than the one asked for."""
    if seen.btcpay_invoice_id != btcpay_id:
        raise Garbled("id", "not the invoice that was asked for; does BTCPAY_URL lead to BTCPay itself?")
    return seen


def joined(parts: Sequence[list[Observation] | BaseException]) -> list[Observation]:
    """Join the answers to the parts of one question; any error but an unreadable invoice spoils it all."""
    readable: list[Observation] = []
    garbled: list[Garbled] = []
    for part in parts:
        if isinstance(part, Garbled) and part.order_ids:
            garbled.append(part)
            readable += part.readable
        elif isinstance(part, BaseException):
            raise part
        else:
            readable += part
    if garbled:
        order_ids = [order_id for part in garbled for order_id in part.order_ids]
        raise Garbled(garbled[0].field, garbled[0].problem, readable=readable, order_ids=order_ids)
    return readable


def creation(
    order_id: UUID, plan: Plan, *, asked: Price, redirect_url: str | None, expiration: timedelta | None
) -> dict[str, Any]:
    """Write the body that creates an invoice. ``amount`` is never absent: BTCPay would make a top-up
    invoice of it, which any payment settles.
    """
    # What the store tolerates to be missing would look like a price that was not paid (R6, R9).
    checkout: dict[str, Any] = {"paymentTolerance": 0}
    if redirect_url is not None:
        checkout["redirectURL"] = redirect_url
    if expiration is not None:
        # Whole minutes as an integer: BTCPay refuses a JSON float here.
        checkout["expirationMinutes"] = max(1, round(expiration / timedelta(minutes=1)))
    lasts = f"{plan.quota} messages" if plan.is_pack else f"{plan.period / timedelta(days=1):g} days"
    return {
        "amount": f"{asked.amount:f}",
        "currency": asked.currency,
        "metadata": {
            "orderId": str(order_id),
            "itemDesc": f"KosmoConnect {plan.plan_type.replace('_', ' ').title()}, {lasts}",
            "itemCode": str(plan.plan_type),
        },
        "checkout": checkout,
    }


@record
class PaymentOption:
    """One way to pay an invoice: ``link`` is what wallets open and what a QR code holds."""

    method: str
    link: str


def payment_options(document: Any) -> tuple[PaymentOption, ...]:
    """Read the links of an invoice's payment methods, Lightning first; what has none is left out."""
    found = []
    for entry in items(document, "paymentMethods"):
        method = mapping(entry, "paymentMethod")
        link = optional_text(method, "paymentLink")
        if method.get("activated") is not False and link and _PAYMENT_LINK.fullmatch(link):
            found.append(PaymentOption(text(method, "paymentMethodId"), link))
    return tuple(sorted(found, key=lambda option: not option.link.lower().startswith("lightning:")))


# Nothing else becomes a link on a page of ours.
_PAYMENT_LINK: Final = re.compile(r"(?:bitcoin|lightning):[!-~]{1,1900}", re.IGNORECASE)


IMPOSSIBLE_CREATION: Final = {"amount": "-1", "currency": "USD", "checkout": {"paymentTolerance": -1}}
"""What BTCPay refuses for two reasons before it does anything."""


def confirmed(seen: Observation, payment_methods: Any, now: datetime) -> Observation:
    """Add what the accounted payments say: how much of the money is settled, and when it last came.

    It is their sum, whatever BTCPay calls the invoice. Converting back from bitcoin loses fractions of the
    smallest unit: BTCPay's own total is taken where it is the same but for those, and a whole number of units
    where that is within a satoshi of each payment.
    """
    settled = lost = Decimal(0)
    received: list[datetime] = []
    for entry in items(payment_methods, "paymentMethods"):
        method = mapping(entry, "paymentMethod")
        payments = [mapping(payment, "payment") for payment in items(method.get("payments"), "payments")]
        for payment in payments:
            status = text(payment, "status")
            if status not in _COUNTED_STATUSES:
                continue
            if status == "Settled":
                rate = number(method, "rate")
                settled, lost = _add(settled, payment, rate), lost + abs(rate) * _SATOSHI
                received.append(_received(payment, seen.expires_at, now))
    total, whole = seen.paid_amount, nearest(settled, seen.currency)
    if total is not None and abs(total - settled) < smallest_unit(seen.currency):
        settled = total
    elif abs(whole - settled) <= lost:
        settled = whole
    return replace(seen, confirmed_amount=settled, last_received_at=max(received, default=None))


def _add(total: Decimal, payment: Mapping[str, Any], rate: Decimal) -> Decimal:
    with localcontext(prec=_WIDE):
        net = number(payment, "value") - (optional_number(payment, "fee") or 0)
        return (total + net * rate).quantize(_KEPT)


def _received(payment: Mapping[str, Any], expires_at: datetime, now: datetime) -> datetime:
    """Clip the time to the only span that matters: servers were seen shifting it by their UTC offset."""
    seconds = whole(payment, "receivedDate")
    if seconds >= now.timestamp():
        return now
    if seconds <= expires_at.timestamp():
        return min(expires_at, now)
    return expires_at + timedelta(seconds=seconds - expires_at.timestamp())


def _link(document: Mapping[str, Any], links: Links | None) -> str:
    link = text(document, "checkoutLink", most=MAX_URL_LENGTH)
    if links is not None and links.usual is not None and link.startswith(links.usual):
        return link
    try:
        parts = urlsplit(link)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(link)
    except ValueError:
        raise Garbled("checkoutLink", "an http or https address is needed") from None
    return link if links is None else links.reachable(link)

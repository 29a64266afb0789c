"""Refunds, the pull payments behind them, and the payouts that claim them.

The rule it keeps: a refund of a sum in the invoice's currency waits for its claim, a claim waits until the
operator of BTCPay approves and pays it, and what was claimed can be archived but not taken back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from kosmo_billing_daemon.demo.btcpay.answers import business_refusal, invalid
from kosmo_billing_daemon.demo.btcpay.invoices import (
    CURRENCIES,
    ZERO,
    AdditionalStatus,
    Currency,
    PaymentMethod,
    SimulatedInvoice,
    SimulatedStatus,
    new_id,
)
from kosmo_billing_daemon.demo.btcpay.reading import RequestReader, finite_decimal

_REFUNDABLE_LATE = (AdditionalStatus.PAID_LATE, AdditionalStatus.PAID_OVER, AdditionalStatus.PAID_PARTIAL)


class RefundVariant(StrEnum):
    """What a refund gives back."""

    RATE_THEN = "RateThen"
    CURRENT_RATE = "CurrentRate"
    FIAT = "Fiat"
    OVERPAID = "OverpaidAmount"
    CUSTOM = "Custom"


class PayoutState(StrEnum):
    """The ``state`` of a payout."""

    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_PAYMENT = "AwaitingPayment"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"


@dataclass(slots=True, kw_only=True)
class SimulatedPayout:
    """One claim of a pull payment, in its currency."""

    id: str
    pull_payment_id: str
    amount: Decimal
    destination: str
    method: PaymentMethod
    date: datetime
    state: PayoutState = PayoutState.AWAITING_APPROVAL


@dataclass(slots=True, kw_only=True)
class SimulatedPullPayment:
    """One pull payment; ``invoice_id`` says whose refund it is."""

    id: str
    store_id: str
    invoice_id: str
    name: str
    description: str | None
    amount: Decimal
    currency: Currency
    starts: datetime
    approves_claims: bool
    archived: bool = False
    payouts: list[SimulatedPayout] = field(default_factory=list)

    @property
    def unclaimed(self) -> Decimal:
        """What nobody has claimed yet."""
        claimed = (payout.amount for payout in self.payouts if payout.state is not PayoutState.CANCELLED)
        return self.amount - sum(claimed, ZERO)


def build_refund(
    invoice: SimulatedInvoice, body: Mapping[str, Any], now: datetime, *, may_approve: bool
) -> SimulatedPullPayment:
    """Read the body of a refund; refused as BTCPay refuses it."""
    is_late = invoice.status is SimulatedStatus.EXPIRED and invoice.additional_status in _REFUNDABLE_LATE
    if not is_late and invoice.status not in (SimulatedStatus.SETTLED, SimulatedStatus.INVALID):
        raise business_refusal("non-refundable", "Cannot refund this invoice")
    variant = next((known for known in RefundVariant if known == body.get("refundVariant")), None)
    reader = RequestReader()
    if variant is None:
        reader.wrong("RefundVariant", "`refundVariant` is mandatory")
    if variant is not RefundVariant.CUSTOM:
        for name in ("CustomAmount", "CustomCurrency"):
            if body.get(name[0].lower() + name[1:]) is not None:
                reader.wrong(name, f"{name} should only be set if the refundVariant is Custom")
    percentage = _decimal(body.get("subtractPercentage"), "SubtractPercentage", reader) or ZERO
    if not 0 <= percentage <= 100:
        reader.wrong("SubtractPercentage", "Percentage must be a numeric value between 0 and 100")
    reader.finish()
    assert variant is not None  # noqa: S101 - else refused
    amount, currency = _sum(invoice, variant, body)
    if percentage:
        amount = currency.rounded(amount * (1 - percentage / 100))
    approves = variant is not RefundVariant.FIAT and currency.code == "BTC" and may_approve
    return SimulatedPullPayment(
        id=new_id(),
        store_id=invoice.store_id,
        invoice_id=invoice.id,
        name=str(body.get("name") or f"Refund {invoice.id}"),
        description=body.get("description"),
        amount=amount,
        currency=currency,
        starts=now,
        approves_claims=approves,
    )


def _sum(
    invoice: SimulatedInvoice, variant: RefundVariant, body: Mapping[str, Any]
) -> tuple[Decimal, Currency]:
    paid = invoice.paid
    if not paid and (invoice.status, invoice.additional_status) == (
        SimulatedStatus.SETTLED,
        AdditionalStatus.MARKED,
    ):
        paid = invoice.price
    bitcoin = CURRENCIES["BTC"]
    match variant:
        case RefundVariant.FIAT:
            return invoice.currency.rounded(paid), invoice.currency
        case RefundVariant.RATE_THEN | RefundVariant.CURRENT_RATE:
            return bitcoin.rounded(paid / invoice.currency.rate), bitcoin
        case RefundVariant.OVERPAID:
            if invoice.additional_status is not AdditionalStatus.PAID_OVER:
                raise invalid("RefundVariant", "Invoice is not overpaid")
            return bitcoin.rounded((paid - invoice.price) / invoice.currency.rate), bitcoin
        case RefundVariant.CUSTOM:
            reader = RequestReader()
            amount = _decimal(body.get("customAmount"), "CustomAmount", reader) or ZERO
            currency = CURRENCIES.get(str(body.get("customCurrency")))
            if amount <= 0:
                reader.wrong("CustomAmount", "Amount must be greater than 0")
            if currency is None:
                reader.wrong("CustomCurrency", "Invalid currency")
            reader.finish()
            assert currency is not None  # noqa: S101 - else refused
            return amount, currency


def claim(
    pull_payment: SimulatedPullPayment, amount: Decimal | None, now: datetime, destination: str = "bc1qclaim"
) -> SimulatedPayout:
    """Claim a pull payment, all of it unless ``amount`` says less."""
    if pull_payment.archived:
        raise business_refusal("archived", "This pull payment has been archived")
    wanted = pull_payment.unclaimed if amount is None else amount
    if wanted <= 0 or wanted > pull_payment.unclaimed:
        raise business_refusal("overdraft", "The payout amount overdraft the pull payment")
    payout = SimulatedPayout(
        id=new_id(),
        pull_payment_id=pull_payment.id,
        amount=wanted,
        destination=destination,
        method=PaymentMethod.CHAIN,
        date=now,
        state=PayoutState.AWAITING_PAYMENT if pull_payment.approves_claims else PayoutState.AWAITING_APPROVAL,
    )
    pull_payment.payouts.append(payout)
    return payout


def archive(pull_payment: SimulatedPullPayment) -> None:
    """Archive: claims that are not being paid yet are cancelled with it."""
    pull_payment.archived = True
    for payout in pull_payment.payouts:
        if payout.state in (PayoutState.AWAITING_APPROVAL, PayoutState.AWAITING_PAYMENT):
            payout.state = PayoutState.CANCELLED


def pull_payment_json(pull_payment: SimulatedPullPayment, base_url: str) -> dict[str, Any]:
    """Return a pull payment as the API shows it."""
    return {
        "id": pull_payment.id,
        "startsAt": int(pull_payment.starts.timestamp()),
        "expiresAt": None,
        "amount": f"{pull_payment.amount:f}",
        "name": pull_payment.name,
        "description": pull_payment.description,
        "currency": pull_payment.currency.code,
        "archived": pull_payment.archived,
        "autoApproveClaims": pull_payment.approves_claims,
        "BOLT11Expiration": 30 * 24 * 60,
        "viewLink": f"{base_url}/pull-payments/{pull_payment.id}",
    }


def payout_json(payout: SimulatedPayout, pull_payment: SimulatedPullPayment) -> dict[str, Any]:
    """Return a payout as the API shows it; it has a sum in bitcoin once it was approved."""
    is_approved = payout.state not in (PayoutState.AWAITING_APPROVAL, PayoutState.CANCELLED)
    bitcoin = CURRENCIES["BTC"].rounded(payout.amount / pull_payment.currency.rate)
    return {
        "id": payout.id,
        "revision": 0,
        "pullPaymentId": payout.pull_payment_id,
        "date": int(payout.date.timestamp()),
        "destination": payout.destination,
        "originalCurrency": pull_payment.currency.code,
        "originalAmount": f"{payout.amount:f}",
        "payoutCurrency": "BTC",
        "payoutAmount": f"{bitcoin:f}" if is_approved else None,
        "payoutMethodId": payout.method.value,
        "state": payout.state.value,
        "paymentProof": None,
        "metadata": {},
    }


def _decimal(value: object, name: str, reader: RequestReader) -> Decimal | None:
    number = None if value is None else finite_decimal(value)
    if value is not None and number is None:
        reader.wrong(name, f'Error converting value "{value}".')
    return number

"""Refunds, the pull payments behind them, and the payouts that claim them.

The rule it keeps: a refund of a sum in the invoice's currency waits for its claim, a claim waits until the
operator of BTCPay approves and pays it, and what was claimed can be archived but not taken back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldProblem, business_refusal, validation_refusal
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
    problems: list[GreenfieldProblem] = []
    if variant is None:
        problems.append(GreenfieldProblem("RefundVariant", "`refundVariant` is mandatory"))
    if variant is not RefundVariant.CUSTOM:
        problems += [
            GreenfieldProblem(name, f"{name} should only be set if the refundVariant is Custom")
            for name in ("CustomAmount", "CustomCurrency")
            if body.get(name[0].lower() + name[1:]) is not None
        ]
    percentage = _decimal(body.get("subtractPercentage"), "SubtractPercentage", problems) or ZERO
    if not 0 <= percentage <= 100:
        message = "Percentage must be a numeric value between 0 and 100"
        problems.append(GreenfieldProblem("SubtractPercentage", message))
    if problems or variant is None:
        raise validation_refusal(*problems)
    amount, currency = _sum(invoice, variant, body)
    if percentage:
        amount = _rounded(amount * (1 - percentage / 100), currency)
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
            return _rounded(paid, invoice.currency), invoice.currency
        case RefundVariant.RATE_THEN | RefundVariant.CURRENT_RATE:
            return _rounded(paid / invoice.currency.rate, bitcoin), bitcoin
        case RefundVariant.OVERPAID:
            if invoice.additional_status is not AdditionalStatus.PAID_OVER:
                raise validation_refusal(GreenfieldProblem("RefundVariant", "Invoice is not overpaid"))
            return _rounded((paid - invoice.price) / invoice.currency.rate, bitcoin), bitcoin
        case RefundVariant.CUSTOM:
            problems: list[GreenfieldProblem] = []
            amount = _decimal(body.get("customAmount"), "CustomAmount", problems)
            currency = CURRENCIES.get(str(body.get("customCurrency")))
            if amount is None or amount <= 0:
                problems.append(GreenfieldProblem("CustomAmount", "Amount must be greater than 0"))
            if currency is None:
                problems.append(GreenfieldProblem("CustomCurrency", "Invalid currency"))
            if problems or amount is None or currency is None:
                raise validation_refusal(*problems)
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
    bitcoin = _rounded(payout.amount / pull_payment.currency.rate, CURRENCIES["BTC"])
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


def _decimal(value: object, name: str, problems: list[GreenfieldProblem]) -> Decimal | None:
    if value is None:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        problems.append(GreenfieldProblem(name, f'Error converting value "{value}".'))
        return None
    return number


def _rounded(amount: Decimal, currency: Currency) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-currency.digits), ROUND_HALF_UP)

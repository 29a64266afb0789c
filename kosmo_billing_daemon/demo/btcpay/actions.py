"""What a payer or an operator can do to a simulated invoice.

The rule it keeps: an action that cannot happen in the present state is refused with the list of those that
can, and none of them sets a state: they make payments, confirmations and time, and the state machine decides.
"""

from decimal import ROUND_DOWN, ROUND_UP, Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import assert_never

from kosmo_billing_daemon.demo.btcpay import state
from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused, business_refusal, invalid
from kosmo_billing_daemon.demo.btcpay.engine import Engine
from kosmo_billing_daemon.demo.btcpay.invoices import (
    PaymentMethod,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedPayment,
    SimulatedStatus,
    new_transaction_id,
)
from kosmo_billing_daemon.demo.btcpay.reading import finite_decimal
from kosmo_billing_daemon.demo.btcpay.rendering import destination, in_bitcoin

_OVERPAID = Decimal("1.5")
_LEAST, _MOST = Decimal("0.00000001"), Decimal(1_000_000_000_000)
_TOP_UP_AMOUNT = Decimal(10)  # what pays an invoice that names no amount


class PayerAction(StrEnum):
    """The actions of ``POST /simulate/invoices/{id}``."""

    PAY = "pay"
    PAY_PARTIAL = "pay_partial"
    PAY_OVER = "pay_over"
    CONFIRM = "confirm"
    EXPIRE = "expire"
    PAY_LATE = "pay_late"
    MARK_SETTLED = "mark_settled"
    MARK_INVALID = "mark_invalid"
    REPLACE_PAYMENT = "replace_payment"


def possible_actions(invoice: SimulatedInvoice) -> list[PayerAction]:
    """Return the actions that work, without an amount, in the present state."""
    status = invoice.status
    owed = invoice.due > 0 or invoice.is_unset_top_up
    payable = bool(invoice.checkout.payment_methods)
    unpaid = status in (SimulatedStatus.NEW, SimulatedStatus.EXPIRED)
    marks = state.markable(invoice)
    possible = {
        PayerAction.PAY: payable and status is SimulatedStatus.NEW and owed,
        PayerAction.PAY_PARTIAL: payable and unpaid and _half_of_due(invoice) > 0,
        PayerAction.PAY_OVER: payable and unpaid and invoice.due > 0,
        PayerAction.CONFIRM: bool(_unconfirmed(invoice)),
        PayerAction.EXPIRE: status is SimulatedStatus.NEW,
        PayerAction.PAY_LATE: payable and unpaid and owed,
        PayerAction.MARK_SETTLED: SimulatedStatus.SETTLED in marks,
        PayerAction.MARK_INVALID: SimulatedStatus.INVALID in marks,
        PayerAction.REPLACE_PAYMENT: bool(_unconfirmed(invoice)),
    }
    return [action for action, is_possible in possible.items() if is_possible]


def act(
    engine: Engine, invoice: SimulatedInvoice, action: str, amount: object = None, method: object = None
) -> None:
    """Do one action; 409 when the state does not allow it, 422 when it is unknown or an argument is wrong.

    A payment with an explicit amount is possible at any time: an address stays payable for ever.
    """
    if action not in list(PayerAction):
        raise invalid("action", f"Unknown action {action!r}; known are {', '.join(PayerAction)}")
    chosen, given, means = PayerAction(action), _read_amount(amount), _read_method(invoice, method)
    is_payment = given is not None and chosen in (PayerAction.PAY, PayerAction.PAY_LATE)
    if chosen not in possible_actions(invoice) and not (is_payment and invoice.checkout.payment_methods):
        raise _impossible(invoice, chosen)
    match chosen:
        case PayerAction.PAY:
            _pay(engine, invoice, means, given or _price_due(invoice))
        case PayerAction.PAY_PARTIAL:
            part = given or _half_of_due(invoice)
            if invoice.paid + part >= invoice.minimum:
                raise invalid("amount", f"{part} is not less than what is due")
            _pay(engine, invoice, means, part)
        case PayerAction.PAY_OVER:
            more = given or invoice.currency.rounded(invoice.price * _OVERPAID - invoice.paid, ROUND_UP)
            if invoice.paid + more <= invoice.price:
                raise invalid("amount", f"{more} is not more than what is due")
            _pay(engine, invoice, means, more)
        case PayerAction.CONFIRM:
            engine.confirm(invoice, _unconfirmed(invoice))
        case PayerAction.EXPIRE:
            engine.expire(invoice)
        case PayerAction.PAY_LATE:
            if invoice.status is SimulatedStatus.NEW:
                engine.expire(invoice)
            _pay(engine, invoice, means, given or _price_due(invoice))
        case PayerAction.MARK_SETTLED:
            engine.mark(invoice, SimulatedStatus.SETTLED)
        case PayerAction.MARK_INVALID:
            engine.mark(invoice, SimulatedStatus.INVALID)
        case PayerAction.REPLACE_PAYMENT:  # the newest one, by one that pays elsewhere, or pays this sum here
            state.drop_payment(_unconfirmed(invoice)[-1])
            if given is None:
                engine.look_at(invoice)
            else:
                _pay(engine, invoice, means, given)
        case _:
            assert_never(chosen)


def _pay(engine: Engine, invoice: SimulatedInvoice, method: PaymentMethod, amount: Decimal) -> None:
    """Send ``amount``; Lightning settles at once, a transaction waits for ``confirm``."""
    lightning = method is PaymentMethod.LIGHTNING
    number = new_transaction_id()
    payment = SimulatedPayment(
        id=number if lightning else f"{number}-0",
        method=method,
        amount=amount,
        value=in_bitcoin(invoice, amount, method),
        received=engine.clock(),
        status=PaymentStatus.SETTLED if lightning else PaymentStatus.PROCESSING,
        destination=destination(invoice, method),
    )
    engine.receive(invoice, payment)


def _unconfirmed(invoice: SimulatedInvoice) -> list[SimulatedPayment]:
    return [payment for payment in invoice.payments if payment.status is PaymentStatus.PROCESSING]


def _price_due(invoice: SimulatedInvoice) -> Decimal:
    return _TOP_UP_AMOUNT if invoice.is_unset_top_up else invoice.due


def _half_of_due(invoice: SimulatedInvoice) -> Decimal:
    return invoice.currency.rounded(invoice.due / 2, ROUND_DOWN)


def _read_amount(amount: object) -> Decimal | None:
    if amount is None:
        return None
    number = finite_decimal(amount)
    if number is None or not _LEAST <= number <= _MOST:
        raise invalid("amount", 'must be an amount above 0, as text: "2.50"')
    return number


def _read_method(invoice: SimulatedInvoice, method: object) -> PaymentMethod:
    offered = invoice.checkout.payment_methods
    if method is None:
        return offered[0] if offered else PaymentMethod.CHAIN
    chosen = next((known for known in PaymentMethod if known == method), None)
    if chosen is None:
        raise invalid("method", f"must be one of {', '.join(PaymentMethod)}")
    if chosen not in offered:
        raise business_refusal(
            "method-not-offered", f"The invoice does not offer {chosen}", HTTPStatus.CONFLICT
        )
    return chosen


def _impossible(invoice: SimulatedInvoice, action: PayerAction) -> GreenfieldRefused:
    possible = ", ".join(possible_actions(invoice)) or "nothing"
    message = (
        f"{action} is impossible while the invoice is {invoice.status}/{invoice.additional_status}; "
        f"possible now: {possible}"
    )
    return business_refusal("action-impossible", message, HTTPStatus.CONFLICT)

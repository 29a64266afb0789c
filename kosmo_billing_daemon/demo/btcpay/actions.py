"""What a payer or an operator can do to a simulated invoice.

The rule it keeps: an action that cannot happen in the present state is refused with the list of those that
can, and none of them sets a state: they make payments, confirmations and time, and the state machine decides.
"""

from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_UP, Decimal, InvalidOperation
from enum import StrEnum
from http import HTTPStatus

from kosmo_billing_daemon.demo.btcpay import state
from kosmo_billing_daemon.demo.btcpay.answers import (
    GreenfieldProblem,
    GreenfieldRefused,
    business_refusal,
    validation_refusal,
)
from kosmo_billing_daemon.demo.btcpay.engine import Engine
from kosmo_billing_daemon.demo.btcpay.invoices import (
    PaymentMethod,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedPayment,
    SimulatedStatus,
    new_transaction_id,
)
from kosmo_billing_daemon.demo.btcpay.rendering import destination, in_bitcoin
from kosmo_billing_daemon.runtime.records import record

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


_BY_NAME = {action.value: action for action in PayerAction}


@record
class _Order:
    """One action with its arguments."""

    engine: Engine
    invoice: SimulatedInvoice
    amount: Decimal | None
    method: PaymentMethod

    def pay(self, amount: Decimal) -> None:
        """Send ``amount``; Lightning settles at once, a transaction waits for ``confirm``."""
        invoice, method = self.invoice, self.method
        lightning = method is PaymentMethod.LIGHTNING
        number = new_transaction_id()
        payment = SimulatedPayment(
            id=number if lightning else f"{number}-0",
            method=method,
            amount=amount,
            value=in_bitcoin(invoice, amount, method),
            received=self.engine.clock(),
            status=PaymentStatus.SETTLED if lightning else PaymentStatus.PROCESSING,
            destination=destination(invoice, method),
        )
        self.engine.receive(invoice, payment)


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
    chosen = _BY_NAME.get(action)
    if chosen is None:
        known = ", ".join(_BY_NAME)
        raise validation_refusal(GreenfieldProblem("action", f"Unknown action {action!r}; known are {known}"))
    order = _Order(engine, invoice, _read_amount(amount), _read_method(invoice, method))
    is_payment = order.amount is not None and chosen in (PayerAction.PAY, PayerAction.PAY_LATE)
    if chosen not in possible_actions(invoice) and not (is_payment and invoice.checkout.payment_methods):
        raise _impossible(invoice, chosen)
    _ACTIONS[chosen](order)


def _pay(order: _Order) -> None:
    order.pay(order.amount or _price_due(order.invoice))


def _pay_partial(order: _Order) -> None:
    amount = order.amount or _half_of_due(order.invoice)
    if order.invoice.paid + amount >= order.invoice.minimum:
        raise validation_refusal(GreenfieldProblem("amount", f"{amount} is not less than what is due"))
    order.pay(amount)


def _pay_over(order: _Order) -> None:
    invoice = order.invoice
    amount = order.amount or _round_up(invoice, invoice.price * _OVERPAID - invoice.paid)
    if invoice.paid + amount <= invoice.price:
        raise validation_refusal(GreenfieldProblem("amount", f"{amount} is not more than what is due"))
    order.pay(amount)


def _confirm(order: _Order) -> None:
    order.engine.confirm(order.invoice, _unconfirmed(order.invoice))


def _expire(order: _Order) -> None:
    order.engine.expire(order.invoice)


def _pay_late(order: _Order) -> None:
    if order.invoice.status is SimulatedStatus.NEW:
        order.engine.expire(order.invoice)
    _pay(order)


def _mark_settled(order: _Order) -> None:
    order.engine.mark(order.invoice, SimulatedStatus.SETTLED)


def _mark_invalid(order: _Order) -> None:
    order.engine.mark(order.invoice, SimulatedStatus.INVALID)


def _replace_payment(order: _Order) -> None:
    """Replace the newest unconfirmed transaction by one that pays elsewhere, or pays ``amount`` here."""
    state.drop_payment(_unconfirmed(order.invoice)[-1])
    if order.amount is None:
        order.engine.look_at(order.invoice)
    else:
        order.pay(order.amount)


_ACTIONS: dict[PayerAction, Callable[[_Order], None]] = {
    PayerAction.PAY: _pay,
    PayerAction.PAY_PARTIAL: _pay_partial,
    PayerAction.PAY_OVER: _pay_over,
    PayerAction.CONFIRM: _confirm,
    PayerAction.EXPIRE: _expire,
    PayerAction.PAY_LATE: _pay_late,
    PayerAction.MARK_SETTLED: _mark_settled,
    PayerAction.MARK_INVALID: _mark_invalid,
    PayerAction.REPLACE_PAYMENT: _replace_payment,
}


def _unconfirmed(invoice: SimulatedInvoice) -> list[SimulatedPayment]:
    return [payment for payment in invoice.payments if payment.status is PaymentStatus.PROCESSING]


def _price_due(invoice: SimulatedInvoice) -> Decimal:
    return _TOP_UP_AMOUNT if invoice.is_unset_top_up else invoice.due


def _round_up(invoice: SimulatedInvoice, amount: Decimal) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-invoice.currency.digits), ROUND_UP)


def _half_of_due(invoice: SimulatedInvoice) -> Decimal:
    return (invoice.due / 2).quantize(Decimal(1).scaleb(-invoice.currency.digits), ROUND_DOWN)


def _read_amount(amount: object) -> Decimal | None:
    if amount is None:
        return None
    try:
        number = Decimal(str(amount))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not _LEAST <= number <= _MOST:
        raise validation_refusal(GreenfieldProblem("amount", 'must be an amount above 0, as text: "2.50"'))
    return number


def _read_method(invoice: SimulatedInvoice, method: object) -> PaymentMethod:
    offered = invoice.checkout.payment_methods
    if method is None:
        return offered[0] if offered else PaymentMethod.CHAIN
    chosen = next((known for known in PaymentMethod if known == method), None)
    if chosen is None:
        raise validation_refusal(GreenfieldProblem("method", f"must be one of {', '.join(PaymentMethod)}"))
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

"""The JSON of invoices as the Greenfield API answers it.

The rule it keeps: money is a string, a time is unix seconds, and links are built from the scheme and host of
the request that asks.
"""

from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from hashlib import sha256
from typing import Any

from kosmo_billing_daemon.demo.btcpay.invoices import (
    PaymentMethod,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedStatus,
)
from kosmo_billing_daemon.demo.btcpay.state import markable, payment_json

_WIDE = Context(prec=50)  # the greatest amount in bitcoin has 20 digits before the point and 11 behind it
_SATOSHI = Decimal("0.00000001")
_MILLISATOSHI = Decimal("0.00000000001")


def invoice_json(
    invoice: SimulatedInvoice, base_url: str, *, payment_methods: bool = False
) -> dict[str, Any]:
    """Return the invoice object; ``paymentMethods`` stays empty unless asked for."""
    checkout = invoice.checkout
    return {
        "id": invoice.id,
        "storeId": invoice.store_id,
        "amount": f"{invoice.price:f}",
        "paidAmount": _paid_amount(invoice),
        "currency": invoice.currency.code,
        "type": "TopUp" if invoice.is_top_up else "Standard",
        "checkoutLink": f"{base_url}/i/{invoice.id}",
        "createdTime": _seconds(invoice.created),
        "expirationTime": _seconds(invoice.expires),
        "monitoringExpiration": _seconds(invoice.monitored_until),
        "status": invoice.status.value,
        "additionalStatus": invoice.additional_status.value,
        "availableStatusesForManualMarking": [status.value for status in markable(invoice)],
        "archived": invoice.archived,
        "metadata": invoice.metadata,
        "checkout": {
            "speedPolicy": checkout.speed_policy,
            "paymentMethods": [method.value for method in checkout.payment_methods],
            "defaultPaymentMethod": checkout.default_payment_method,
            "expirationMinutes": checkout.expiration_minutes,
            "monitoringMinutes": checkout.monitoring_minutes,
            "paymentTolerance": float(checkout.payment_tolerance),
            "redirectURL": checkout.redirect_url,
            "redirectAutomatically": checkout.redirect_automatically,
            "defaultLanguage": checkout.default_language,
        },
        "receipt": invoice.receipt,
        "paymentMethods": payment_methods_json(invoice) if payment_methods else [],
    }


def payment_methods_json(invoice: SimulatedInvoice, *, only_counted: bool = True) -> list[dict[str, Any]]:
    """Return the payment methods with their payments; replaced ones only without ``only_counted``."""
    return [_payment_method(invoice, method, only_counted) for method in invoice.checkout.payment_methods]


def _payment_method(invoice: SimulatedInvoice, method: PaymentMethod, only_counted: bool) -> dict[str, Any]:
    payments = [payment for payment in invoice.payments if payment.method is method]
    counted = [payment for payment in payments if payment.status is not PaymentStatus.INVALID]
    unpaid = invoice.status is SimulatedStatus.NEW
    address = destination(invoice, method)
    amount = in_bitcoin(invoice, invoice.price, method)
    scheme = "bitcoin" if method is PaymentMethod.CHAIN else "lightning"
    return {
        "activated": True,
        "paymentMethodId": method.value,
        "currency": "BTC",
        "destination": address,
        "paymentLink": f"{scheme}:{address}"
        + (f"?amount={amount:f}" if unpaid and scheme == "bitcoin" else ""),
        "rate": f"{invoice.currency.rate:f}",
        "paymentMethodFee": "0",
        "totalPaid": f"{in_bitcoin(invoice, invoice.paid, method):f}",
        "paymentMethodPaid": f"{sum((payment.value for payment in counted), Decimal(0)):f}",
        "due": f"{in_bitcoin(invoice, invoice.due, method):f}",
        "amount": f"{amount:f}",
        "payments": [payment_json(payment) for payment in (counted if only_counted else payments)],
        "additionalData": {},
    }


def in_bitcoin(invoice: SimulatedInvoice, amount: Decimal, method: PaymentMethod) -> Decimal:
    """Convert an amount of the invoice's currency at the rate fixed for the invoice."""
    unit = _SATOSHI if method is PaymentMethod.CHAIN else _MILLISATOSHI
    return (amount / invoice.currency.rate).quantize(unit, ROUND_HALF_UP, _WIDE)


def destination(invoice: SimulatedInvoice, method: PaymentMethod) -> str:
    """Return the address or Lightning invoice of one payment method, the same each time."""
    digest = sha256(f"{invoice.id}/{method}".encode()).hexdigest()
    return f"bcrt1q{digest[:38]}" if method is PaymentMethod.CHAIN else f"lnbcrt1p{digest}"


def _paid_amount(invoice: SimulatedInvoice) -> str:
    if not invoice.payments:
        return "0"
    return f"{invoice.currency.rounded(invoice.paid):f}"


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())

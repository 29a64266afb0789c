"""Reading the body that creates an invoice, as strictly as BTCPay Server does.

The rule it keeps: what the real server refuses is refused here with the same status and path. Wrong JSON
types carry the JSON path, broken rules the name of the property.
"""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from kosmo_billing_daemon.demo.btcpay.answers import business_refusal
from kosmo_billing_daemon.demo.btcpay.invoices import (
    CURRENCIES,
    CheckoutOptions,
    PaymentMethod,
    SimulatedInvoice,
    new_id,
    round_to_currency,
)
from kosmo_billing_daemon.demo.btcpay.reading import RequestReader, finite_decimal
from kosmo_billing_daemon.demo.btcpay.stores import SimulatedStore

NO_WALLET = (
    "No wallet has been linked to your BTCPay Store. See the following link for more information on how to"
    " connect your store and wallet. (https://docs.btcpayserver.org/WalletSetup/)\n"
)
_MAX_AMOUNT = Decimal(2**64 - 1)
_SMALLEST = Decimal("1e-28")  # the scale of a .NET decimal
_MIN_EXPIRATION_SECONDS = 30
_MAX_MINUTES = 1_000_000_000  # dates end at the year 9999
_SPEED_POLICIES = ("HighSpeed", "MediumSpeed", "LowSpeed", "LowMediumSpeed")
_METHODS = {  # spellings before 2.0.0 are still understood
    "BTC-CHAIN": PaymentMethod.CHAIN,
    "BTC": PaymentMethod.CHAIN,
    "BTC-LN": PaymentMethod.LIGHTNING,
    "BTC-LIGHTNINGNETWORK": PaymentMethod.LIGHTNING,
    "BTC_LIGHTNINGLIKE": PaymentMethod.LIGHTNING,
}
_LANGUAGES = (
    "bg-BG", "cs-CZ", "da-DK", "de-DE", "el-GR", "en", "es-ES", "fi-FI", "fr-FR", "he", "hi", "hr-HR",
    "hu-HU", "id", "it-IT", "ja-JP", "ko", "lt-LT", "nl-NL", "no", "pl", "pt-BR", "pt-PT", "ro", "ru-RU",
    "sk-SK", "sl-SI", "sr", "sv", "th-TH", "tr", "uk-UA", "vi-VN", "zh-SP", "zh-TW",
)  # fmt: skip


class _Reader(RequestReader):
    """What only the creation of an invoice has."""

    def decimal(self, values: dict[str, Any], name: str, path: str) -> Decimal | None:
        value = values.get(name)
        if value is None:
            return None
        number = finite_decimal(value)
        if number is None:
            self.wrong(path, "Invalid number")
        return number if number is not None and abs(number) >= _SMALLEST else Decimal(0)

    def minutes(self, checkout: dict[str, Any], name: str, default: int) -> int:
        value = checkout.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_MINUTES:
            self.wrong(f"checkout.{name}", "Invalid timespan")
            return default
        return value


def build_invoice(body: dict[str, Any], text: str, store: SimulatedStore, now: datetime) -> SimulatedInvoice:
    """Return the invoice the body asks for, or refuse; ``text`` is that body, for exact numbers."""
    has_float = any(isinstance(value, float) for value in (body.get("amount"), _tolerance_of(body)))
    exact = json.loads(text, parse_float=Decimal) if has_float else body
    reader = _Reader()
    amount = reader.decimal(exact, "amount", "amount")
    code = (reader.text(body, "currency", "currency") or store.default_currency).strip().upper()
    metadata = reader.section(body, "metadata")
    receipt = reader.section(body, "receipt")
    terms = reader.texts(body, "additionalSearchTerms", "additionalSearchTerms")
    checkout = _checkout(reader, reader.section(body, "checkout"), reader.section(exact, "checkout"), store)
    shown = {
        name: reader.flag(receipt, name, f"receipt.{name}") for name in ("enabled", "showQR", "showPayments")
    }
    if amount is not None and amount < 0:
        reader.wrong("Amount", "The amount should be 0 or more.")
    if amount is not None and amount > _MAX_AMOUNT:
        reader.wrong("Amount", f"The amount should less than {_MAX_AMOUNT}.")
    reader.finish()
    currency = CURRENCIES.get(code)
    if currency is None:
        raise business_refusal("generic-error", f"Error retrieving rates: no rate for BTC_{code}")
    price = Decimal(0) if amount is None else round_to_currency(amount, currency)
    if amount == 0:
        checkout = replace(checkout, payment_methods=())
    created = now.replace(microsecond=0)
    expires = created + timedelta(minutes=checkout.expiration_minutes)
    return SimulatedInvoice(
        id=new_id(),
        store_id=store.store_id,
        is_top_up=amount is None,
        price=price,
        currency=currency,
        created=created,
        expires=expires,
        monitored_until=expires + timedelta(minutes=checkout.monitoring_minutes),
        metadata=metadata,
        checkout=checkout,
        receipt=shown,
        search_terms=tuple(term for term in terms if term),
    )


def _checkout(
    reader: _Reader, checkout: dict[str, Any], exact: dict[str, Any], store: SimulatedStore
) -> CheckoutOptions:
    expiration = reader.minutes(checkout, "expirationMinutes", store.expiration_minutes)
    monitoring = reader.minutes(checkout, "monitoringMinutes", store.monitoring_minutes)
    tolerance = reader.decimal(exact, "paymentTolerance", "checkout.paymentTolerance")
    speed = reader.text(checkout, "speedPolicy", "checkout.speedPolicy") or store.speed_policy
    policy = next((known for known in _SPEED_POLICIES if known.lower() == speed.lower()), None)
    if policy is None:
        reader.wrong("checkout.speedPolicy", f'Error converting value "{speed}".')
    methods: dict[PaymentMethod, None] = {}
    for index, name in enumerate(reader.texts(checkout, "paymentMethods", "checkout.paymentMethods")):
        if (method := _METHODS.get((name or "").upper())) is None:
            reader.wrong(f"Checkout.PaymentMethods[{index}]", "Invalid PaymentMethodId")
        else:
            methods[method] = None
    if expiration * 60 < _MIN_EXPIRATION_SECONDS:
        reader.wrong("Checkout.Expiration", "Expiration time must be at least 30 seconds")
    if tolerance is not None and not 0 <= tolerance <= 100:
        reader.wrong("Checkout.PaymentTolerance", "PaymentTolerance can only be between 0 and 100 percent")
    options = CheckoutOptions(
        expiration_minutes=expiration,
        monitoring_minutes=monitoring,
        speed_policy=policy or store.speed_policy,
        payment_methods=tuple(methods) or tuple(PaymentMethod),
        default_payment_method=reader.text(checkout, "defaultPaymentMethod", "checkout.defaultPaymentMethod"),
        payment_tolerance=store.payment_tolerance if tolerance is None else tolerance,
        redirect_url=reader.text(checkout, "redirectURL", "checkout.redirectURL"),
        redirect_automatically=bool(
            reader.flag(checkout, "redirectAutomatically", "checkout.redirectAutomatically")
        ),
        default_language=_language(reader, checkout),
    )
    reader.flag(checkout, "lazyPaymentMethods", "checkout.lazyPaymentMethods")
    return options


def _language(reader: _Reader, checkout: dict[str, Any]) -> str | None:
    asked = reader.text(checkout, "defaultLanguage", "checkout.defaultLanguage")
    if asked is None:
        return None
    wanted = asked.lower()
    exact = [code for code in _LANGUAGES if code.lower() == wanted]
    similar = [code for code in _LANGUAGES if code.lower().split("-")[0] == wanted.split("-")[0]]
    if found := exact or similar:
        return found[0]
    message = (
        "The requested defaultLang does not exists, Browse the ~/misc/lang page of your BTCPay Server "
        "instance to see the list of supported languages."
    )
    reader.wrong("Checkout.DefaultLanguage", message)
    return None


def _tolerance_of(body: dict[str, Any]) -> object:
    checkout = body.get("checkout")
    return checkout.get("paymentTolerance") if isinstance(checkout, dict) else None

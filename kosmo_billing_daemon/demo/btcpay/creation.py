"""Reading the body that creates an invoice, as strictly as BTCPay Server does.

The rule it keeps: what the real server refuses is refused here with the same status and path. Wrong JSON
types carry the JSON path, broken rules the name of the property.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldProblem, business_refusal, validation_refusal
from kosmo_billing_daemon.demo.btcpay.invoices import (
    CURRENCIES,
    CheckoutOptions,
    PaymentMethod,
    SimulatedInvoice,
    new_id,
    round_to_currency,
)
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


@dataclass(slots=True)
class _Reader:
    """Typed access to the body, collecting a problem for each value of a wrong type."""

    exact: dict[str, Any]
    problems: list[GreenfieldProblem] = field(default_factory=list)

    def amount(self) -> Decimal | None:
        value = self.exact.get("amount")
        return None if value is None else self._decimal(value, "amount")

    def tolerance(self, checkout: dict[str, Any]) -> Decimal | None:
        value = checkout.get("paymentTolerance")
        return None if value is None else self._decimal(value, "checkout.paymentTolerance")

    def section(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        value = body.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(GreenfieldProblem(name, f"The value of {name} must be a JSON object."))
            return {}
        return value

    def minutes(self, checkout: dict[str, Any], name: str, default: int) -> int:
        value = checkout.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_MINUTES:
            self.problems.append(GreenfieldProblem(f"checkout.{name}", "Invalid timespan"))
            return default
        return value

    def text(self, values: dict[str, Any], name: str, path: str) -> str | None:
        value = values.get(name)
        if isinstance(value, dict | list):
            self.problems.append(GreenfieldProblem(path, f"Unexpected JSON type for {path}."))
            return None
        return None if value is None else str(value)

    def texts(self, values: dict[str, Any], name: str, path: str) -> tuple[str | None, ...] | None:
        value = values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.problems.append(GreenfieldProblem(path, f"The value of {path} must be a JSON array."))
            return None
        return tuple(item if isinstance(item, str) else None for item in value)

    def flag(self, values: dict[str, Any], name: str, path: str) -> bool | None:
        value = values.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.problems.append(GreenfieldProblem(path, f"Could not convert the value of {path} to a boolean."))
        return None

    def _decimal(self, value: object, path: str) -> Decimal:
        if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
            try:
                number = Decimal(value)
            except InvalidOperation:
                number = Decimal("NaN")
            if number.is_finite():
                return number if abs(number) >= _SMALLEST else Decimal(0)
        self.problems.append(GreenfieldProblem(path, "Invalid number"))
        return Decimal(0)


def build_invoice(body: dict[str, Any], text: str, store: SimulatedStore, now: datetime) -> SimulatedInvoice:
    """Return the invoice the body asks for, or refuse; ``text`` is that body, for exact numbers."""
    has_float = any(isinstance(value, float) for value in (body.get("amount"), _tolerance_of(body)))
    exact = json.loads(text, parse_float=Decimal) if has_float else body
    reader = _Reader(exact)
    amount = reader.amount()
    code = (reader.text(body, "currency", "currency") or store.default_currency).strip().upper()
    metadata = reader.section(body, "metadata")
    receipt = reader.section(body, "receipt")
    terms = reader.texts(body, "additionalSearchTerms", "additionalSearchTerms") or ()
    checkout = _checkout(reader, reader.section(body, "checkout"), reader.section(exact, "checkout"), store)
    shown = {
        name: reader.flag(receipt, name, f"receipt.{name}") for name in ("enabled", "showQR", "showPayments")
    }
    if amount is not None and amount < 0:
        reader.problems.append(GreenfieldProblem("Amount", "The amount should be 0 or more."))
    if amount is not None and amount > _MAX_AMOUNT:
        reader.problems.append(GreenfieldProblem("Amount", f"The amount should less than {_MAX_AMOUNT}."))
    if reader.problems:
        raise validation_refusal(*dict.fromkeys(reader.problems))
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
    tolerance = reader.tolerance(exact)
    speed = reader.text(checkout, "speedPolicy", "checkout.speedPolicy") or store.speed_policy
    policy = next((known for known in _SPEED_POLICIES if known.lower() == speed.lower()), None)
    if policy is None:
        reader.problems.append(
            GreenfieldProblem("checkout.speedPolicy", f'Error converting value "{speed}".')
        )
    named = reader.texts(checkout, "paymentMethods", "checkout.paymentMethods") or ()
    methods = dict.fromkeys(
        found for name in named if (found := _METHODS.get((name or "").upper())) is not None
    )
    reader.problems += [
        GreenfieldProblem(f"Checkout.PaymentMethods[{index}]", "Invalid PaymentMethodId")
        for index, name in enumerate(named)
        if (name or "").upper() not in _METHODS
    ]
    if expiration * 60 < _MIN_EXPIRATION_SECONDS:
        reader.problems.append(
            GreenfieldProblem("Checkout.Expiration", "Expiration time must be at least 30 seconds")
        )
    if tolerance is not None and not 0 <= tolerance <= 100:
        reader.problems.append(
            GreenfieldProblem(
                "Checkout.PaymentTolerance", "PaymentTolerance can only be between 0 and 100 percent"
            )
        )
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
    reader.problems.append(GreenfieldProblem("Checkout.DefaultLanguage", message))
    return None


def _tolerance_of(body: dict[str, Any]) -> object:
    checkout = body.get("checkout")
    return checkout.get("paymentTolerance") if isinstance(checkout, dict) else None

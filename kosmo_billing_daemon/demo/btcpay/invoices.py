"""What BTCPay Server knows about one invoice, and the sums it derives from the payments.

The rule it keeps: every amount is an exact ``Decimal`` in the currency of the invoice, and only payments that
still count (not replaced, not double-spent) enter a sum.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from secrets import SystemRandom
from typing import Any

from kosmo_billing_daemon.runtime.records import record

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_random = SystemRandom()

ZERO = Decimal(0)


class SimulatedStatus(StrEnum):
    """The ``status`` of an invoice."""

    NEW = "New"
    PROCESSING = "Processing"
    SETTLED = "Settled"
    EXPIRED = "Expired"
    INVALID = "Invalid"


class AdditionalStatus(StrEnum):
    """The ``additionalStatus`` of an invoice."""

    NONE = "None"
    PAID_PARTIAL = "PaidPartial"
    PAID_OVER = "PaidOver"
    PAID_LATE = "PaidLate"
    MARKED = "Marked"


class PaymentStatus(StrEnum):
    """The ``status`` of one payment; Invalid means no longer counted."""

    INVALID = "Invalid"
    PROCESSING = "Processing"
    SETTLED = "Settled"


class PaymentMethod(StrEnum):
    """The payment methods a simulated store offers."""

    CHAIN = "BTC-CHAIN"
    LIGHTNING = "BTC-LN"


@record
class Currency:
    """A currency with its decimals and what one bitcoin costs in it."""

    code: str
    digits: int
    rate: Decimal

    def rounded(self, amount: Decimal, rounding: str = ROUND_HALF_UP) -> Decimal:
        """Round to what can be paid in it."""
        return amount.quantize(Decimal(1).scaleb(-self.digits), rounding)


CURRENCIES = {
    currency.code: currency
    for currency in (
        Currency("USD", 2, Decimal(100_000)),
        Currency("EUR", 2, Decimal(90_000)),
        Currency("GBP", 2, Decimal(80_000)),
        Currency("CHF", 2, Decimal(90_000)),
        Currency("CAD", 2, Decimal(140_000)),
        Currency("AUD", 2, Decimal(150_000)),
        Currency("JPY", 0, Decimal(15_000_000)),
        Currency("BTC", 8, Decimal(1)),
        Currency("SATS", 0, Decimal(100_000_000)),
    )
}


@record(kw_only=True)
class CheckoutOptions:
    """The ``checkout`` settings fixed at creation."""

    expiration_minutes: int
    monitoring_minutes: int
    speed_policy: str
    payment_methods: tuple[PaymentMethod, ...]
    default_payment_method: str | None
    payment_tolerance: Decimal
    redirect_url: str | None
    redirect_automatically: bool
    default_language: str | None


@dataclass(slots=True, kw_only=True)
class SimulatedPayment:
    """One payment, in the currency of the invoice (``amount``) and in bitcoin (``value``)."""

    id: str
    method: PaymentMethod
    amount: Decimal
    value: Decimal
    received: datetime
    status: PaymentStatus
    destination: str


@dataclass(slots=True, kw_only=True)
class SimulatedInvoice:
    """One invoice; changed only by ``state`` and by metadata and archive calls."""

    id: str
    store_id: str
    is_top_up: bool
    price: Decimal
    currency: Currency
    created: datetime
    expires: datetime
    monitored_until: datetime
    metadata: dict[str, Any]
    checkout: CheckoutOptions
    receipt: dict[str, bool | None]
    search_terms: tuple[str, ...] = ()
    status: SimulatedStatus = SimulatedStatus.NEW
    additional_status: AdditionalStatus = AdditionalStatus.NONE
    archived: bool = False
    payments: list[SimulatedPayment] = field(default_factory=list)

    @property
    def order_id(self) -> str | None:
        """``metadata.orderId`` as the text BTCPay indexes."""
        value = self.metadata.get("orderId")
        return None if value is None else str(value)

    @property
    def counted_payments(self) -> list[SimulatedPayment]:
        """The payments neither replaced nor double-spent."""
        return [payment for payment in self.payments if payment.status is not PaymentStatus.INVALID]

    @property
    def paid(self) -> Decimal:
        """What was paid, unconfirmed payments included."""
        return sum((payment.amount for payment in self.counted_payments), ZERO)

    @property
    def confirmed(self) -> Decimal:
        """What was paid and has enough confirmations."""
        return sum((p.amount for p in self.payments if p.status is PaymentStatus.SETTLED), ZERO)

    @property
    def minimum(self) -> Decimal:
        """What counts as paid in full: the price less the payment tolerance."""
        return self.price * (100 - self.checkout.payment_tolerance) / 100

    @property
    def due(self) -> Decimal:
        """What is missing to the price; negative when overpaid."""
        return self.price - self.paid

    @property
    def is_underpaid(self) -> bool:
        return self.paid < self.minimum

    @property
    def is_overpaid(self) -> bool:
        return self.paid > self.price

    @property
    def is_unset_top_up(self) -> bool:
        """Whether the first payment has yet to set the price."""
        return self.is_top_up and self.price == 0


def new_id() -> str:
    """Return an opaque id of 22 base58 characters, never equal to one of an earlier run."""
    return "".join(_random.choices(_BASE58, k=22))


def new_transaction_id() -> str:
    """Return 64 hex characters, the look of a transaction id or payment hash."""
    return f"{_random.getrandbits(256):064x}"


def round_to_currency(amount: Decimal, currency: Currency) -> Decimal:
    """Round half away from zero to the digits of ``currency``, to more only where that changes over 1 %."""
    digits = currency.digits
    while True:
        unit = Decimal(1).scaleb(-digits)
        rounded = amount if _scale(amount) <= digits else amount.quantize(unit, ROUND_HALF_UP)
        if amount == 0 or abs(rounded - amount) < abs(amount) / 100:
            return rounded
        digits += 1


def _scale(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0

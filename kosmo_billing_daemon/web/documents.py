"""What the bodies of several routes share: types of fields, and the one purchase that all examples tell of.

Handlers build the dataclasses of their route and ``rendering`` writes them field by field; ``requests`` takes
the field names of a request from its class; ``openapi`` derives the schemas from them.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import Field, WithJsonSchema

from kosmo_billing_daemon.domain.plans import Price
from kosmo_billing_daemon.runtime.records import record

Amount = Annotated[
    Decimal,
    WithJsonSchema({"type": "number", "examples": [5.0]}),
    Field(description="A JSON number with exactly the digits it has; read it as a decimal"),
]
Time = Annotated[datetime, Field(description="RFC 3339, UTC", examples=["2026-03-01T12:00:00Z"])]
Currency = Annotated[str, Field(description="ISO 4217", examples=["USD"])]
PlanName = Annotated[str, Field(examples=["wanderer"])]


@record(kw_only=True)
class PriceDocument:
    """What a plan costs."""

    amount: Amount
    currency: Currency

    @classmethod
    def of(cls, price: Price) -> "PriceDocument":
        return cls(amount=price.amount, currency=price.currency)


EXAMPLE_ORDER = UUID("0b6f6a4c-6a0e-4a55-8e0b-6a5f5f1f4c1d")
EXAMPLE_INVOICE = "Wq3dMbcS2PnM7mDNEj4cVg"
EXAMPLE_SUBSCRIPTION = UUID("7d0a4c1e-35f5-4f0c-9a39-0c6f0a7b2f58")
EXAMPLE_TIME = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EXAMPLE_END = EXAMPLE_TIME + timedelta(days=30)
EXAMPLE_PRICE = PriceDocument(amount=Decimal("5.00"), currency="USD")

"""Every body that the API takes or gives, as the handlers use them: the one source of the OpenAPI document.

Handlers build these dataclasses and ``rendering`` writes them field by field; ``requests`` takes the field
names of a request from its class. pydantic only derives the schemas from them (``reference``): answers need
no validation, and bodies that ask for money get errors in words of our own, which its validation has not.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, WithJsonSchema

from kosmo_billing_daemon.contract.payloads import EntitlementDocument, Scope
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Payment
from kosmo_billing_daemon.domain.metering import Decision
from kosmo_billing_daemon.domain.subscriptions import Rule, Source, Status
from kosmo_billing_daemon.runtime.records import record

MAX_PLAN_LENGTH = 64  # twice the longest name there can be: a slip is told by its name
MAX_URL_LENGTH = 2048
MAX_KEY_LENGTH = 255

SHOWN_STATUSES = tuple(s for s in InvoiceStatus if s not in (InvoiceStatus.RESERVED, InvoiceStatus.ABANDONED))
"""A reservation is our own affair until BTCPay knows it."""

Amount = Annotated[
    Decimal,
    WithJsonSchema({"type": "number", "examples": [5.0]}),
    Field(description="A JSON number with exactly the digits it has; read it as a decimal"),
]
Time = Annotated[datetime, Field(description="RFC 3339, UTC", examples=["2026-03-01T12:00:00Z"])]
Currency = Annotated[str, Field(description="ISO 4217", examples=["USD"])]
PlanName = Annotated[str, Field(examples=["wanderer"])]
NodeId = Annotated[str, Field(pattern="^![0-9a-f]{8}$", examples=["!a1b2c3d4"])]


@record(kw_only=True)
class InvoiceRequest:
    """What to buy. Other fields are refused."""

    plan_type: Annotated[
        str, Field(min_length=1, max_length=MAX_PLAN_LENGTH, description="A plan of GET /plans")
    ]
    redirect_url: Annotated[
        str | None,
        Field(
            description="Where the customer is sent after paying: https (http on loopback), on a listed host "
            "where the operator lists hosts. BTCPay fills in {InvoiceId} and {OrderId}",
            examples=["https://kosmoconnect.example.org/thank-you"],
        ),
    ] = None


@record(kw_only=True)
class InvoiceDocument:
    """One invoice: send the customer to ``checkout_url``."""

    invoice_id: Annotated[str | None, Field(description="BTCPay's id", examples=["Wq3dMbcS2PnM7mDNEj4cVg"])]
    order_id: Annotated[UUID, Field(description="Our id; BTCPay shows it as orderId")]
    checkout_url: str | None
    amount: Amount
    currency: Currency
    plan_type: PlanName
    status: Annotated[
        InvoiceStatus,
        WithJsonSchema({"type": "string", "enum": [status.value for status in SHOWN_STATUSES]}),
        Field(description="new: unpaid; processing: seen, not final; settled: final"),
    ]
    payment: Annotated[Payment, Field(description="What is unusual about the payment")]
    paid_amount: Amount | None
    redirect_url: str | None
    created_at: Time
    expires_at: Time | None


@record(kw_only=True)
class InvoicePage:
    """One page, newest first; ``next_cursor`` is null on the last."""

    items: tuple[InvoiceDocument, ...]
    next_cursor: Annotated[str | None, Field(description="Give it as ``cursor`` for the next page")]


@record(kw_only=True)
class PriceDocument:
    """What a plan costs."""

    amount: Amount
    currency: Currency


@record(kw_only=True)
class PlanDocument:
    """One plan for sale."""

    plan_type: PlanName
    price: PriceDocument
    period_days: Annotated[int, Field(ge=1, examples=[30])]
    messages_limit: Annotated[int | None, Field(description="null is unlimited", examples=[50])]
    scope: Scope
    features: tuple[str, ...]


@record(kw_only=True)
class CarriedDocument:
    """What a purchase took over from the one before, and by which rule.

    fresh: nothing; added: the same plan, time and messages as they were left; converted: another plan, by
    the worth that was left.
    """

    rule: Rule
    from_subscription_id: UUID | None
    seconds: Annotated[int, Field(ge=0, description="Time taken over, in whole seconds")]
    messages: Annotated[int, Field(ge=0)]


@record(kw_only=True)
class PurchaseDocument:
    """One fulfilled purchase and the dates that came of it."""

    subscription_id: UUID
    order_id: Annotated[UUID | None, Field(description="The invoice; null for a grant")]
    source: Annotated[Source, Field(description="Who says that it was paid")]
    plan_type: PlanName
    price: PriceDocument
    status: Status
    valid_from: Time
    valid_until: Time
    grace_until: Time | None
    ended_at: Annotated[datetime | None, Field(description="When it was replaced, ran out or was revoked")]
    messages_limit: Annotated[int | None, Field(description="null is unlimited")]
    messages_used: Annotated[int, Field(ge=0)]
    carried: CarriedDocument


@record(kw_only=True)
class SubscriptionWithHistory(EntitlementDocument):
    """What the user may do now, and everything bought so far."""

    purchases: Annotated[int, Field(ge=0, description="How many there are in all")]
    history: Annotated[tuple[PurchaseDocument, ...], Field(description="The last 100, newest first")]


@record(kw_only=True)
class DayDocument:
    """Messages counted on one day (UTC)."""

    day: date
    messages: Annotated[int, Field(ge=0)]


@record(kw_only=True)
class MessageDocument:
    """One message that a gateway reported."""

    message_id: str
    node_id: str | None
    count: Annotated[int, Field(ge=1)]
    sent_at: Time
    decision: Annotated[
        Decision,
        Field(description="over_limit was counted too; no_subscription had nothing to count on"),
    ]
    subscription_id: UUID | None


@record(kw_only=True)
class UsageDocument:
    """Messages counted from one day to another, both included."""

    first: Annotated[date, Field(description="The first day")]
    last: Annotated[date, Field(description="The last day")]
    messages: Annotated[int, Field(ge=0, description="All of these days together")]
    days: Annotated[tuple[DayDocument, ...], Field(description="Days with messages, oldest first")]
    latest: Annotated[tuple[MessageDocument, ...], Field(description="The last 20 of all, newest first")]


@record(kw_only=True)
class NodeRequest:
    """How to call a node."""

    label: Annotated[
        str | None, Field(min_length=1, max_length=64, description="Printable", examples=["Hilltop"])
    ] = None


@record(kw_only=True)
class NodeDocument:
    """One listed node."""

    node_id: NodeId
    label: str | None
    added_at: Time


@record(kw_only=True)
class NodeList:
    """The whitelist, in the order in which nodes were added."""

    items: tuple[NodeDocument, ...]
    limit: Annotated[int, Field(description="How many may be listed")]


@record(kw_only=True)
class Recorded:
    """The delivery is recorded, and will be looked into."""

    recorded: Literal[True]


@record(kw_only=True)
class Alive:
    """The process answers."""

    status: Literal["alive"]


@record(kw_only=True)
class CheckDocument:
    """How one part is."""

    ok: bool
    detail: str


@record(kw_only=True)
class Ready:
    """Whether requests should come here; degraded: yes, but a part has a problem."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, CheckDocument]


@record
class FieldProblem:
    """One wrong field of the request, and what would be right."""

    field: str
    message: str


@record(kw_only=True)
class Problem:
    """RFC 9457. Match on ``code``; show ``detail`` to a developer; tell the operator the ``request_id``."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: Annotated[str, Field(examples=["unknown_plan"])]
    request_id: str
    errors: Annotated[
        tuple[FieldProblem, ...], Field(description="There only where single fields are wrong")
    ] = ()

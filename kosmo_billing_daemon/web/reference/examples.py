"""One body of each kind for the OpenAPI document: built as handlers build them, so they cannot be wrong."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import EntitlementDocument, QuotaState, Scope, Standing
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Payment
from kosmo_billing_daemon.domain.metering import Decision
from kosmo_billing_daemon.domain.subscriptions import Rule, Source, Status
from kosmo_billing_daemon.web.documents import (
    Alive,
    CarriedDocument,
    CheckDocument,
    DayDocument,
    InvoiceDocument,
    InvoicePage,
    InvoiceRequest,
    MessageDocument,
    NodeDocument,
    NodeList,
    NodeRequest,
    PlanDocument,
    PriceDocument,
    PurchaseDocument,
    Ready,
    Recorded,
    SubscriptionWithHistory,
    UsageDocument,
)

_USER = UUID("11111111-1111-1111-1111-111111111111")
_ORDER = UUID("0b6f6a4c-6a0e-4a55-8e0b-6a5f5f1f4c1d")
_BOUGHT = UUID("7d0a4c1e-35f5-4f0c-9a39-0c6f0a7b2f58")
_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_END = _NOW + timedelta(days=30)
_FIVE = PriceDocument(amount=Decimal("5.00"), currency="USD")

INVOICE_REQUEST = InvoiceRequest(
    plan_type="wanderer", redirect_url="https://kosmoconnect.example.org/thank-you?invoice={InvoiceId}"
)
INVOICE = InvoiceDocument(
    invoice_id="Wq3dMbcS2PnM7mDNEj4cVg",
    order_id=_ORDER,
    checkout_url="https://btcpay.example.org/i/Wq3dMbcS2PnM7mDNEj4cVg",
    amount=Decimal("5.00"),
    currency="USD",
    plan_type="wanderer",
    status=InvoiceStatus.NEW,
    payment=Payment.NONE,
    paid_amount=Decimal(0),
    redirect_url=INVOICE_REQUEST.redirect_url,
    created_at=_NOW,
    expires_at=_NOW + timedelta(minutes=15),
)
INVOICE_PAGE = InvoicePage(items=(INVOICE,), next_cursor=None)
PLANS = (
    PlanDocument(
        plan_type="wanderer",
        price=_FIVE,
        period_days=30,
        messages_limit=50,
        scope=Scope.ANY_NODE,
        features=(),
    ),
)
ENTITLEMENT = EntitlementDocument(
    version=42,
    user_id=_USER,
    plan_type="wanderer",
    status=Standing.ACTIVE,
    scope=Scope.ANY_NODE,
    allowed_nodes=(),
    features=(),
    messages_limit=50,
    messages_used=3,
    quota_state=QuotaState.OK,
    subscription_id=_BOUGHT,
    valid_from=_NOW,
    valid_until=_END,
    grace_until=None,
    issued_at=_NOW + timedelta(hours=1),
)
PURCHASE = PurchaseDocument(
    subscription_id=_BOUGHT,
    order_id=_ORDER,
    source=Source.BTCPAY,
    plan_type="wanderer",
    price=_FIVE,
    status=Status.ACTIVE,
    valid_from=_NOW,
    valid_until=_END,
    grace_until=None,
    ended_at=None,
    messages_limit=50,
    messages_used=3,
    carried=CarriedDocument(rule=Rule.FRESH, from_subscription_id=None, seconds=0, messages=0),
)
WITH_HISTORY = SubscriptionWithHistory(
    version=ENTITLEMENT.version,
    user_id=ENTITLEMENT.user_id,
    plan_type=ENTITLEMENT.plan_type,
    status=ENTITLEMENT.status,
    scope=ENTITLEMENT.scope,
    allowed_nodes=ENTITLEMENT.allowed_nodes,
    features=ENTITLEMENT.features,
    messages_limit=ENTITLEMENT.messages_limit,
    messages_used=ENTITLEMENT.messages_used,
    quota_state=ENTITLEMENT.quota_state,
    subscription_id=ENTITLEMENT.subscription_id,
    valid_from=ENTITLEMENT.valid_from,
    valid_until=ENTITLEMENT.valid_until,
    grace_until=ENTITLEMENT.grace_until,
    issued_at=ENTITLEMENT.issued_at,
    purchases=1,
    history=(PURCHASE,),
)
EVENT_STREAM = f"retry: 3000\n\nevent: entitlement\nid: 42\ndata: {ENTITLEMENT.encode().decode()}\n\n:\n\n"
USAGE = UsageDocument(
    first=_NOW.date(),
    last=_END.date(),
    messages=3,
    days=(DayDocument(day=date(2026, 3, 1), messages=3),),
    latest=(
        MessageDocument(
            message_id="gateway-1-000017",
            node_id="!a1b2c3d4",
            count=1,
            sent_at=_NOW + timedelta(minutes=50),
            decision=Decision.COUNTED,
            subscription_id=_BOUGHT,
        ),
    ),
)
NODE_REQUEST = NodeRequest(label="Hilltop")
NODE = NodeDocument(node_id="!a1b2c3d4", label="Hilltop", added_at=_NOW)
NODES = NodeList(items=(NODE,), limit=32)
RECORDED = Recorded(recorded=True)
ALIVE = Alive(status="alive")
READY = Ready(status="ready", checks={"database": CheckDocument(ok=True, detail="answers")})
UNREADY = Ready(status="unready", checks={"database": CheckDocument(ok=False, detail="does not answer")})
DELIVERY = {
    "deliveryId": "PQBaNDwtUuFDTCqmHfSeqR",
    "webhookId": "BvJTkpHXk4LFM8vGLQ8XKz",
    "type": "InvoiceSettled",
    "storeId": "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776",
    "invoiceId": INVOICE.invoice_id,
    "metadata": {"orderId": str(_ORDER)},
}

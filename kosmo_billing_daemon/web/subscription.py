"""What the user may do now: the same document that gateways get, once, with its history, or live."""

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.payloads import EntitlementDocument, QuotaState, Scope, Standing
from kosmo_billing_daemon.domain.subscriptions import Rule, Source, Status, Subscription, UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import subscriptions
from kosmo_billing_daemon.web import documents, keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import PlanName, PriceDocument, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import WRONG_PARAMETER, Answer, Operation, Parameter
from kosmo_billing_daemon.web.requests import parameter

HISTORY = 100
RETRY_MS = 3000  # after how long a browser comes back: soon, but not all in the same second
RETRY_STOPPING_MS = 1000
READ_WITHIN = 30.0  # seconds for a reader to take what was written, before the stream is given up

_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    source: Annotated[Source, Field(description="Where it came from: BTCPay, or an operator")]
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
class SubscriptionDocument(EntitlementDocument):
    """What the user may do now, and where to pay for more without a login."""

    renew_url: Annotated[
        str | None,
        Field(
            description="The user's renewal link, for nobody else; missing without PUBLIC_URL",
            examples=["https://billing.example.org/r/q83vEjRWeJCrze8SNFZ4kA"],
        ),
    ] = None


@record(kw_only=True)
class SubscriptionWithHistory(SubscriptionDocument):
    """What the user may do now, and everything bought so far."""

    purchases: Annotated[int, Field(ge=0, description="How many there are in all")]
    history: Annotated[tuple[PurchaseDocument, ...], Field(description=f"The last {HISTORY}, newest first")]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    wants_history = _history(request)
    document = await request.app[keys.SERVICES].entitlements.show(user_id)
    renew_url = await request.app[keys.SERVICES].links.show(user_id)
    shown = SubscriptionDocument(**_values(document), renew_url=renew_url)
    if wants_history:
        async with request.app[keys.SERVICES].pool.connection() as connection:
            rows = await subscriptions.load_history(connection, user_id, HISTORY)
            number = await subscriptions.count_history(connection, user_id)
        shown = SubscriptionWithHistory(
            **_values(shown), purchases=number, history=tuple(purchase(row) for row in rows)
        )
    return conditional(request, shown, state=replace(shown, issued_at=_EPOCH))


def _history(request: web.Request) -> bool:
    given = parameter(request, "history")
    if given not in (None, "true", "false"):
        raise Invalid("true or false is needed", field="history")
    return given == "true"


def _values(document: EntitlementDocument) -> dict[str, Any]:
    return {field.name: getattr(document, field.name) for field in fields(document)}


def purchase(row: Subscription) -> PurchaseDocument:
    """Describe one purchase to its user."""
    return PurchaseDocument(
        subscription_id=row.id,
        order_id=row.invoice_id,
        source=row.source,
        plan_type=row.plan.plan_type,
        price=PriceDocument.of(row.plan.price),
        status=row.status,
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        grace_until=row.grace_until,
        ended_at=row.ended_at,
        messages_limit=row.messages_limit,
        messages_used=row.messages_used,
        carried=CarriedDocument(
            rule=row.carried.rule,
            from_subscription_id=row.carried.from_id,
            seconds=row.carried.time // _SECOND,
            messages=row.carried.messages,
        ),
    )


async def _stream(request: web.Request) -> web.StreamResponse:
    user_id = await identify(request)
    return await stream(request, user_id, _event, request.headers.get("Last-Event-ID"))


async def stream(
    request: web.Request, user_id: UserId, event: Callable[[EntitlementDocument], str], seen: str | None
) -> web.StreamResponse:
    """Send an event at once, unless the reader has ``seen`` this version, and again after each change."""
    live = request.app[keys.SERVICES].streams

    def gone() -> bool:
        return request.transport is None or request.transport.is_closing()

    with live.watching(user_id, gone) as watcher:
        first = await live.begin(user_id, watcher)
        if seen == str(first.version):
            watcher.skip(first.version)
        response = web.StreamResponse(
            status=HTTPStatus.OK,
            headers={
                "Content-Type": "text/event-stream",
                "X-Accel-Buffering": "no",  # nginx would hold events back
            },
        )
        await response.prepare(request)
        try:
            await _write(response, f"retry: {RETRY_MS}\n\n")
            async for document in watcher.documents():
                await _write(response, ":\n\n" if document is None else event(document))
            await _write(response, f"retry: {RETRY_STOPPING_MS}\n\n")
        except (ConnectionError, TimeoutError):
            request.protocol.force_close()  # the reader has gone, or does not read
        return response


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(READ_WITHIN):
        await response.write(text.encode())


def _event(document: EntitlementDocument) -> str:
    return f"event: entitlement\nid: {document.version}\ndata: {document.encode().decode()}\n\n"


_ENTITLEMENT = EntitlementDocument(
    version=42,
    user_id=UUID("11111111-1111-1111-1111-111111111111"),
    plan_type="wanderer",
    status=Standing.ACTIVE,
    scope=Scope.ANY_NODE,
    allowed_nodes=(),
    features=(),
    messages_limit=50,
    messages_used=3,
    quota_state=QuotaState.OK,
    subscription_id=documents.EXAMPLE_SUBSCRIPTION,
    valid_from=documents.EXAMPLE_TIME,
    valid_until=documents.EXAMPLE_END,
    grace_until=None,
    issued_at=documents.EXAMPLE_TIME + timedelta(hours=1),
)
_PURCHASE = PurchaseDocument(
    subscription_id=documents.EXAMPLE_SUBSCRIPTION,
    order_id=documents.EXAMPLE_ORDER,
    source=Source.BTCPAY,
    plan_type="wanderer",
    price=documents.EXAMPLE_PRICE,
    status=Status.ACTIVE,
    valid_from=documents.EXAMPLE_TIME,
    valid_until=documents.EXAMPLE_END,
    grace_until=None,
    ended_at=None,
    messages_limit=50,
    messages_used=3,
    carried=CarriedDocument(rule=Rule.FRESH, from_subscription_id=None, seconds=0, messages=0),
)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/subscription",
        handler=_show,
        name="showSubscription",
        tag="Rights",
        summary="What the user may do now",
        description="The same document that gateways get, and the user's renewal link. A user who never "
        "bought anything has one too: version 0, plan free. The end is grace_until where that is set, else "
        "valid_until.",
        has_etag=True,
        parameters=(
            Parameter(
                name="history",
                place="query",
                description="With the purchases so far, and the rule that produced each one's dates",
                schema={"type": "boolean", "default": False},
            ),
        ),
        answers={
            200: Answer(
                "The entitlement; with history=true also purchases and history",
                (SubscriptionDocument, SubscriptionWithHistory),
                SubscriptionWithHistory(**_values(_ENTITLEMENT), purchases=1, history=(_PURCHASE,)),
            )
        },
        problems=(WRONG_PARAMETER,),
    ),
    Operation(
        method="get",
        path=f"{API}/subscription/events",
        handler=_stream,
        allow_head=False,  # which would open a stream
        name="watchSubscription",
        tag="Rights",
        summary="Stream the entitlement (SSE)",
        description="Server-Sent Events: an event “entitlement” at once and after each change; its data is "
        "the document, its id the version. A comment every 15 seconds keeps the connection. Give the last id "
        "as Last-Event-ID (browsers do): a version that the client has is not sent again.",
        parameters=(
            Parameter(
                name="Last-Event-ID",
                place="header",
                description="The version that the client has",
                schema={"type": "string", "examples": ["42"]},
            ),
        ),
        answers={
            200: Answer(
                "The stream",
                str,
                f"retry: {RETRY_MS}\n\n{_event(_ENTITLEMENT)}:\n\n",
                media_type="text/event-stream",
            )
        },
        problems=(
            {
                429: {"too_many_streams": "10 streams of the user are open"},
                503: {
                    "stopping": "This server is stopping; connect again",
                    "overloaded": "Too many streams of all users are open",
                },
            },
        ),
    ),
)

"""What the user may do now: the same document that gateways get, once, with its history, or live."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.store import subscriptions
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import (
    CarriedDocument,
    PriceDocument,
    PurchaseDocument,
    SubscriptionWithHistory,
)
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.rendering import encode
from kosmo_billing_daemon.web.requests import parameter

HISTORY = 100
RETRY_MS = 3000  # after how long a browser comes back: soon, but not all in the same second
RETRY_STOPPING_MS = 1000
READ_WITHIN = 30.0  # seconds for a reader to take what was written, before the stream is given up

_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def routes(prefix: str) -> Sequence[web.RouteDef]:
    return [
        web.get(f"{prefix}/subscription", _show),
        # Not for HEAD, which would open a stream.
        web.get(f"{prefix}/subscription/events", _stream, allow_head=False),
    ]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    wants_history = _history(request)
    document = await request.app[keys.ENTITLEMENTS].show(user_id)
    timeless = replace(document, issued_at=_EPOCH)
    if not wants_history:
        return conditional(request, document.encode(), state=timeless.encode())
    async with request.app[keys.POOL].connection() as connection:
        rows = await subscriptions.load_history(connection, user_id, HISTORY)
        number = await subscriptions.count_history(connection, user_id)
    history = tuple(purchase(row) for row in rows)
    shown = with_history(document, number, history)
    state = encode(replace(shown, issued_at=_EPOCH)).encode()
    return conditional(request, encode(shown).encode(), state=state)


def _history(request: web.Request) -> bool:
    given = parameter(request, "history")
    if given not in (None, "true", "false"):
        raise Invalid("true or false is needed", field="history")
    return given == "true"


def with_history(
    document: EntitlementDocument, number: int, history: tuple[PurchaseDocument, ...]
) -> SubscriptionWithHistory:
    """Put the purchases beside what they amount to."""
    values: dict[str, Any] = {field.name: getattr(document, field.name) for field in fields(document)}
    return SubscriptionWithHistory(**values, purchases=number, history=history)


def purchase(row: Subscription) -> PurchaseDocument:
    """Describe one purchase to its user."""
    return PurchaseDocument(
        subscription_id=row.id,
        order_id=row.invoice_id,
        source=row.source,
        plan_type=row.plan.plan_type,
        price=PriceDocument(amount=row.plan.price.amount, currency=row.plan.price.currency),
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
    """Send the document at once, unless the reader says that it has it, and again after each change."""
    user_id = await identify(request)
    live = request.app[keys.LIVE]

    def gone() -> bool:
        return request.transport is None or request.transport.is_closing()

    with live.watching(user_id, gone) as watcher:
        first = await live.begin(user_id, watcher)
        if request.headers.get("Last-Event-ID") == str(first.version):
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
                await _write(response, ":\n\n" if document is None else _event(document))
            await _write(response, f"retry: {RETRY_STOPPING_MS}\n\n")
        except (ConnectionError, TimeoutError):
            request.protocol.force_close()  # the reader has gone, or does not read
        return response


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(READ_WITHIN):
        await response.write(text.encode())


def _event(document: EntitlementDocument) -> str:
    return f"event: entitlement\nid: {document.version}\ndata: {document.encode().decode()}\n\n"

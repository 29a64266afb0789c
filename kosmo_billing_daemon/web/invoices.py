"""A user's invoices: open one, show one, list them."""

import base64
import binascii
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, NotFound
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.services.idempotency import Key
from kosmo_billing_daemon.store import invoices
from kosmo_billing_daemon.store.idempotency import Reply
from kosmo_billing_daemon.web import keys, redirects
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import (
    MAX_KEY_LENGTH,
    MAX_PLAN_LENGTH,
    SHOWN_STATUSES,
    InvoiceDocument,
    InvoicePage,
    InvoiceRequest,
)
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.problems import request_id
from kosmo_billing_daemon.web.rendering import encode, json_bytes
from kosmo_billing_daemon.web.requests import WrongFields, optional_text, parameter, read_object, text

log = logging.getLogger(__name__)

DEFAULT_PAGE = 20
LARGEST_PAGE = 100

Place = tuple[datetime, UUID]
"""Where a page ends: the last invoice's time of creation and our id."""

_NEWEST: Place = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHECK_BYTES = 4
_CURSOR_BYTES = 8 + 16 + _CHECK_BYTES

_LIMIT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")
_INVOICE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def routes(prefix: str) -> Sequence[web.RouteDef]:
    return [
        web.post(f"{prefix}/invoices", _open),
        web.get(f"{prefix}/invoices", _list),
        web.get(f"{prefix}/invoices/{{invoice_id:[^/]+}}", _show),
    ]


async def _open(request: web.Request) -> web.Response:
    user_id = await identify(request)
    document = await read_object(request, InvoiceRequest)
    with WrongFields() as wrong:
        plan_type = wrong.read(text, document, "plan_type", most=MAX_PLAN_LENGTH)
        redirect_url = wrong.read(_redirect_url, request, document)
        named = wrong.read(_key, request)
    key = None if named is None else Key.of(named, plan_type, redirect_url)
    invoicing = request.app[keys.INVOICING]
    opened = await invoicing.open_under(key, user_id, plan_type, redirect_url)
    reply = opened.reply
    if opened.is_new and reply is None:
        invoice_id = opened.invoice.btcpay_invoice_id
        log.info(
            "invoice opened",
            extra=fields(user=user_id, invoice=invoice_id, request_id=request_id(request)),
        )
    if reply is None:
        status = HTTPStatus.CREATED if opened.is_new else HTTPStatus.OK
        reply = Reply(status, encode(shown(opened.invoice)).encode())
        if key is not None:
            reply = await invoicing.keep(user_id, key, opened.invoice, reply)
    where = f"{request.path}/{opened.invoice.btcpay_invoice_id}"
    return json_bytes(reply.body, status=reply.status, headers={"Location": where})


def _redirect_url(request: web.Request, document: Mapping[str, Any]) -> str | None:
    given = optional_text(document, "redirect_url")
    return None if given is None else redirects.checked(given, request.app[keys.REDIRECT_HOSTS])


def _key(request: web.Request) -> str | None:
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise Invalid(
            f"one key of 1 to {MAX_KEY_LENGTH} visible ASCII characters is needed",
            field="Idempotency-Key",
            code="invalid_idempotency_key",
        )
    return given[0]


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    invoice_id = request.match_info["invoice_id"]
    if not _INVOICE_ID.fullmatch(invoice_id):
        raise NotFound("there is no such invoice", code="invoice_not_found")
    invoice = await request.app[keys.INVOICING].show(user_id, invoice_id)
    return conditional(request, encode(shown(invoice)).encode())


async def _list(request: web.Request) -> web.Response:
    user_id = await identify(request)
    with WrongFields() as wrong:
        limit, status = wrong.read(_limit, request), wrong.read(_status, request)
        before = wrong.read(_before, request, user_id)
    async with request.app[keys.POOL].connection() as connection:
        page = await invoices.load_page(connection, user_id, status, before, limit + 1)
    items = page[:limit]
    next_cursor = _cursor((items[-1].created_at, items[-1].id), user_id) if len(page) > limit else None
    listed = InvoicePage(items=tuple(shown(invoice) for invoice in items), next_cursor=next_cursor)
    return conditional(request, encode(listed).encode())


def shown(invoice: Invoice) -> InvoiceDocument:
    """Describe an invoice to its user; ``invoice_id`` is BTCPay's, ``order_id`` ours."""
    return InvoiceDocument(
        invoice_id=invoice.btcpay_invoice_id,
        order_id=invoice.id,
        checkout_url=invoice.checkout_url,
        amount=invoice.plan.price.amount,
        currency=invoice.plan.price.currency,
        plan_type=invoice.plan.plan_type,
        status=invoice.status,
        payment=invoice.payment,
        paid_amount=invoice.paid_amount,
        redirect_url=invoice.redirect_url,
        created_at=invoice.created_at,
        expires_at=invoice.expires_at,
    )


def _limit(request: web.Request) -> int:
    given = parameter(request, "limit")
    if given is None:
        return DEFAULT_PAGE
    if not _LIMIT.fullmatch(given) or int(given) > LARGEST_PAGE:
        raise Invalid(f"a whole number from 1 to {LARGEST_PAGE} is needed", field="limit")
    return int(given)


def _status(request: web.Request) -> str | None:
    given = parameter(request, "status")
    if given is not None and given not in SHOWN_STATUSES:
        raise Invalid(f"one of {', '.join(SHOWN_STATUSES)} is needed", field="status")
    return given


def _before(request: web.Request, user_id: UserId) -> Place:
    given = parameter(request, "cursor")
    return _NEWEST if given is None else _place(given, user_id)


def _cursor(place: Place, user_id: UserId) -> str:
    created_at, invoice_id = place
    where = ((created_at - _EPOCH) // _MICROSECOND).to_bytes(8, "big") + invoice_id.bytes
    return base64.urlsafe_b64encode(where + _check(where, user_id)).rstrip(b"=").decode()


def _place(cursor: str, user_id: UserId) -> Place:
    """Read a cursor back. The check tells slips from places; what is listed is the user's own anyway."""
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"==", altchars=b"-_", validate=True)
        where, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if len(raw) != _CURSOR_BYTES or check != _check(where, user_id):
            raise ValueError(cursor)
        place = _EPOCH + int.from_bytes(where[:8], "big") * _MICROSECOND, UUID(bytes=where[8:])
        if _cursor(place, user_id) != cursor:  # one spelling for each place
            raise ValueError(cursor)
    except (ValueError, OverflowError, binascii.Error):
        raise Invalid(
            "give next_cursor of the page before, as it is", field="cursor", code="invalid_cursor"
        ) from None
    return place


def _check(where: bytes, user_id: UserId) -> bytes:
    return hashlib.sha256(where + user_id.bytes).digest()[:_CHECK_BYTES]

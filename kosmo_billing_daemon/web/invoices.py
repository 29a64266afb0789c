"""A user's invoices: show one, list them. ``buying`` opens them."""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field, WithJsonSchema

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus, Payment
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, NotFound
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import invoices
from kosmo_billing_daemon.web import documents, keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import Amount, Currency, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import WRONG_PARAMETER, Answer, Operation, Parameter
from kosmo_billing_daemon.web.requests import WrongFields, parameter

DEFAULT_PAGE = 20
LARGEST_PAGE = 100

SHOWN_STATUSES = tuple(s for s in InvoiceStatus if s not in (InvoiceStatus.RESERVED, InvoiceStatus.ABANDONED))
"""A reservation is our own affair until BTCPay knows it."""

Place = tuple[datetime, UUID]
"""Where a page ends: the last invoice's time of creation and our id."""

_NEWEST: Place = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHECK_BYTES = 4
_CURSOR_BYTES = 8 + 16 + _CHECK_BYTES

_LIMIT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_INVOICE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@record(kw_only=True)
class InvoiceDocument:
    """One invoice: send the customer to ``checkout_url``."""

    invoice_id: Annotated[
        str | None,
        Field(description="BTCPay's id; null if credit paid it all", examples=[documents.EXAMPLE_INVOICE]),
    ]
    order_id: Annotated[UUID, Field(description="Our id; BTCPay shows it as orderId")]
    checkout_url: str | None
    amount: Amount
    amount_due: Annotated[Amount, Field(description="What BTCPay asks for: the price less credit_used")]
    credit_used: Annotated[Amount, Field(description="The part of the price that the user's credit pays")]
    currency: Currency
    plan_type: Annotated[str | None, Field(description="null for a pack", examples=["guardian"])]
    pack: Annotated[str | None, Field(description="The pack; null for a plan")]
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


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    invoice_id = request.match_info["invoice_id"]
    if not _INVOICE_ID.fullmatch(invoice_id):
        raise NotFound("there is no such invoice", code="invoice_not_found")
    invoice = await request.app[keys.SERVICES].invoicing.show(user_id, invoice_id)
    return conditional(request, shown(invoice))


async def _list(request: web.Request) -> web.Response:
    user_id = await identify(request)
    with WrongFields() as wrong:
        limit, status = wrong.read(_limit, request), wrong.read(_status, request)
        before = wrong.read(_before, request, user_id)
    pool = request.app[keys.SERVICES].pool
    page = await pool.read(invoices.load_page, user_id, status, before, limit + 1)
    items = page[:limit]
    next_cursor = _cursor((items[-1].created_at, items[-1].id), user_id) if len(page) > limit else None
    listed = InvoicePage(items=tuple(shown(invoice) for invoice in items), next_cursor=next_cursor)
    return conditional(request, listed)


def shown(invoice: Invoice) -> InvoiceDocument:
    """Describe an invoice to its user; ``invoice_id`` is BTCPay's, ``order_id`` ours."""
    return InvoiceDocument(
        invoice_id=invoice.btcpay_invoice_id,
        order_id=invoice.id,
        checkout_url=invoice.checkout_url,
        amount=invoice.plan.price.amount,
        amount_due=invoice.asked.amount,
        credit_used=invoice.credit_used,
        currency=invoice.plan.price.currency,
        plan_type=None if invoice.plan.is_pack else invoice.plan.plan_type,
        pack=invoice.plan.plan_type if invoice.plan.is_pack else None,
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


EXAMPLE = InvoiceDocument(
    invoice_id=documents.EXAMPLE_INVOICE,
    order_id=documents.EXAMPLE_ORDER,
    checkout_url=f"https://btcpay.example.org/i/{documents.EXAMPLE_INVOICE}",
    amount=Decimal("5.00"),
    amount_due=Decimal("5.00"),
    credit_used=Decimal(0),
    currency="USD",
    plan_type="wanderer",
    pack=None,
    status=InvoiceStatus.NEW,
    payment=Payment.NONE,
    paid_amount=Decimal(0),
    redirect_url="https://kosmoconnect.example.org/thank-you?invoice={InvoiceId}",
    created_at=documents.EXAMPLE_TIME,
    expires_at=documents.EXAMPLE_TIME + timedelta(minutes=15),
)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/invoices",
        handler=_list,
        name="listInvoices",
        tag="Buying",
        summary="The user's invoices, newest first",
        description="Pages are stable: new invoices do not shift them.",
        has_etag=True,
        parameters=(
            Parameter(
                name="limit",
                place="query",
                description="The greatest number of invoices on a page",
                schema={"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": DEFAULT_PAGE},
            ),
            Parameter(name="cursor", place="query", description="next_cursor of the page before"),
            Parameter(
                name="status",
                place="query",
                description="Only invoices of this status",
                schema={"type": "string", "enum": [status.value for status in SHOWN_STATUSES]},
            ),
        ),
        answers={200: Answer("A page", InvoicePage, InvoicePage(items=(EXAMPLE,), next_cursor=None))},
        problems=(WRONG_PARAMETER, {422: {"invalid_cursor": "It is no next_cursor of this user"}}),
    ),
    Operation(
        method="get",
        path=f"{API}/invoices/{{invoice_id}}",
        handler=_show,
        name="showInvoice",
        tag="Buying",
        summary="One invoice, as BTCPay sees it now",
        description="An open invoice is looked up at BTCPay (at most every 2 seconds); without BTCPay it is "
        "shown as last seen.",
        has_etag=True,
        parameters=(
            Parameter(
                name="invoice_id",
                place="path",
                description="invoice_id of the invoice",
                example=documents.EXAMPLE_INVOICE,
            ),
        ),
        answers={200: Answer("The invoice", InvoiceDocument, EXAMPLE)},
        problems=({404: {"invoice_not_found": "There is none, or it is another user's"}},),
    ),
)

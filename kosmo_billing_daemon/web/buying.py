"""Buy a plan or a pack: open an invoice, or return the one that is open already."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.idempotency import Key
from kosmo_billing_daemon.store.idempotency import Reply
from kosmo_billing_daemon.web import invoices, keys, redirects
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.invoices import InvoiceDocument, shown
from kosmo_billing_daemon.web.operations import OVERLOADED, WRITING, Answer, Operation, Parameter
from kosmo_billing_daemon.web.plans import NOT_FOR_SALE, PackWanted, PlanWanted, wanted
from kosmo_billing_daemon.web.problems import request_id
from kosmo_billing_daemon.web.rendering import encode, json_bytes
from kosmo_billing_daemon.web.requests import WrongFields, optional_text, read_object

log = logging.getLogger(__name__)

MAX_KEY_LENGTH = 255

_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")


@record(kw_only=True)
class InvoiceRequest:
    """What to buy: a plan or a pack. Other fields are refused."""

    plan_type: PlanWanted = None
    pack: PackWanted = None
    redirect_url: Annotated[
        str | None,
        Field(
            description="Where the customer is sent after paying: https (http on loopback), on a listed host "
            "where the operator lists hosts. BTCPay fills in {InvoiceId} and {OrderId}",
            examples=["https://kosmoconnect.example.org/thank-you"],
        ),
    ] = None


async def _open(request: web.Request) -> web.Response:
    user_id = await identify(request)
    document = await read_object(request, InvoiceRequest)
    with WrongFields() as wrong:
        plan = wrong.read(wanted, document, request.app[keys.SERVICES].catalogue)
        redirect_url = wrong.read(_redirect_url, request, document)
        named = wrong.read(_key, request)
    # A plan and a pack never have one name.
    key = None if named is None else Key.of(named, plan.plan_type, redirect_url)
    invoicing = request.app[keys.SERVICES].invoicing
    opened = await invoicing.open(user_id, plan, redirect_url, key=key)
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
    where = f"{request.path}/{opened.invoice.btcpay_invoice_id or opened.invoice.id}"
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


OPERATIONS = (
    Operation(
        method="post",
        path=f"{API}/invoices",
        handler=_open,
        name="openInvoice",
        tag="Buying",
        summary="Buy a plan or a pack",
        description="Answers with an invoice; send the customer to its checkout_url. The user's credit is "
        "spent first: amount_due is the rest, and what credit pays whole is settled at once, without a "
        "checkout_url. A pack adds messages to the current plan, and no time. While an unpaid invoice for "
        "the same plan or pack is open, that one is returned (200), so a double click buys once. A browser "
        "must send its body as application/json. Of other clients JSON is read whatever Content-Type says, "
        "except from a multipart form.",
        parameters=(
            Parameter(
                name="Idempotency-Key",
                place="header",
                description="One per purchase, kept for 24 hours: the same key with the same request gets "
                "the answer of the first time; with another request it is refused. Only successes are kept.",
                # As an example of the schema, not of the parameter: a copied call would reuse it.
                schema={
                    "type": "string",
                    "pattern": f"^{_KEY.pattern}$",
                    "examples": ["3f1c0a52-purchase-1"],
                },
            ),
        ),
        body=InvoiceRequest,
        needs_body=True,
        body_example=InvoiceRequest(plan_type="wanderer", redirect_url=invoices.EXAMPLE.redirect_url),
        answers={
            201: Answer("A new invoice", InvoiceDocument, invoices.EXAMPLE, headers=("Location",)),
            200: Answer(
                "The invoice that is open already", InvoiceDocument, invoices.EXAMPLE, headers=("Location",)
            ),
        },
        problems=(
            WRITING,
            NOT_FOR_SALE,
            {
                409: {
                    "prepaid_cap": "It would pay more than 400 days ahead",
                    "no_fitting_plan": "The pack fits no current plan; detail names those that it fits",
                },
                422: {
                    "invalid_redirect_url": "errors says what address would be right",
                    "invalid_idempotency_key": f"It is not 1 to {MAX_KEY_LENGTH} visible ASCII characters",
                    "idempotency_key_reused": "The key was used for another request",
                },
                429: {
                    "too_many_invoices": "Too many new invoices in a minute; Retry-After says when",
                    "too_many_keys": "More than 30 new Idempotency-Keys in a minute; repeats need the same",
                },
                503: {
                    "btcpay_away": "The payment server does not answer",
                    "btcpay_denied": "The payment server does not accept our key",
                    "btcpay_garbled": "The payment server gives no sense",
                    "btcpay_mismatch": "The payment server asks for another amount than the plan costs; the "
                    "operator is informed",
                    "btcpay_refused": "The payment server refuses to create invoices",
                    "btcpay_creation_unknown": "The payment server did not say whether it created the "
                    "invoice; the same request finds out",
                },
            },
            OVERLOADED,
        ),
    ),
)

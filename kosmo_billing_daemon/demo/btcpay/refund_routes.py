"""The calls of the Greenfield API about refunds, pull payments and payouts.

The rule it keeps: who has a link may see and claim a pull payment; all else needs a key.
"""

from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.access import (
    ENGINE,
    base_url,
    require_invoice,
    require_key,
    require_store,
)
from kosmo_billing_daemon.demo.btcpay.answers import (
    GreenfieldRefused,
    business_refusal,
    invalid,
    json_response,
)
from kosmo_billing_daemon.demo.btcpay.invoices import PaymentMethod
from kosmo_billing_daemon.demo.btcpay.reading import read_json_object
from kosmo_billing_daemon.demo.btcpay.refunds import (
    PayoutState,
    SimulatedPullPayment,
    archive,
    payout_json,
    pull_payment_json,
)
from kosmo_billing_daemon.demo.btcpay.stores import Permission


def routes(*, store_less: bool) -> list[web.RouteDef]:
    """Return the routes; the one without a store in the path exists from version 2.4.0 on."""
    found = [
        web.post("/api/v1/stores/{store_id}/invoices/{invoice_id}/refund", _refund),
        web.get("/api/v1/stores/{store_id}/pull-payments", _list),
        web.delete("/api/v1/stores/{store_id}/pull-payments/{pull_payment_id}", _archive),
        web.get("/api/v1/pull-payments/{pull_payment_id}", _get),
        web.get("/api/v1/pull-payments/{pull_payment_id}/payouts", _payouts),
        web.post("/api/v1/pull-payments/{pull_payment_id}/payouts", _claim),
    ]
    if store_less:
        found.append(web.post("/api/v1/invoices/{invoice_id}/refund", _refund))
    return found


async def _refund(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.CREATE_PULL_PAYMENT)
    body, _ = await read_json_object(request)
    may_approve = require_key(request).allows(Permission.APPROVE_PULL_PAYMENT, invoice.store_id)
    made = request.app[ENGINE].refund(invoice, body, may_approve=may_approve)
    return json_response(pull_payment_json(made, base_url(request)))


async def _list(request: web.Request) -> web.Response:
    store = require_store(request, Permission.VIEW_PULL_PAYMENTS)
    archived = request.query.get("includeArchived", "").lower() == "true"
    found = [
        pull_payment_json(each, base_url(request))
        for each in reversed(request.app[ENGINE].pull_payments.values())
        if each.store_id == store.store_id and (archived or not each.archived)
    ]
    return json_response(found)


async def _archive(request: web.Request) -> web.Response:
    store = require_store(request, Permission.ARCHIVE_PULL_PAYMENT)
    pull_payment = _require(request)
    if pull_payment.store_id != store.store_id:
        raise _unknown()
    archive(pull_payment)
    return web.Response()


async def _get(request: web.Request) -> web.Response:
    return json_response(pull_payment_json(_require(request), base_url(request)))


async def _payouts(request: web.Request) -> web.Response:
    pull_payment = _require(request)
    cancelled = request.query.get("includeCancelled", "").lower() == "true"
    return json_response(
        [
            payout_json(payout, pull_payment)
            for payout in pull_payment.payouts
            if cancelled or payout.state is not PayoutState.CANCELLED
        ]
    )


async def _claim(request: web.Request) -> web.Response:
    pull_payment = _require(request)
    body, _ = await read_json_object(request)
    if body.get("payoutMethodId") not in [method.value for method in PaymentMethod]:
        raise invalid("PayoutMethodId", "Invalid payment method")
    if not isinstance(body.get("destination"), str) or not body["destination"]:
        raise invalid("Destination", "The destination is invalid")
    payout = request.app[ENGINE].claim(pull_payment.id, body.get("amount"), body["destination"])
    return json_response(payout_json(payout, pull_payment))


def _require(request: web.Request) -> SimulatedPullPayment:
    found = request.app[ENGINE].pull_payments.get(request.match_info["pull_payment_id"])
    if found is None:
        raise _unknown()
    return found


def _unknown() -> GreenfieldRefused:
    return business_refusal("pullpayment-not-found", "The pull payment was not found", HTTPStatus.NOT_FOUND)

"""Who asks, and whether the key allows it.

The rule it keeps: refusals come in the order of BTCPay Server: no valid key is 401, a missing right or a
foreign store is 403, and an unknown id looks like a missing right from version 2.4.0 on.
"""

from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.answers import (
    GreenfieldRefused,
    business_refusal,
    missing_permission,
    unauthenticated,
)
from kosmo_billing_daemon.demo.btcpay.engine import Engine
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from kosmo_billing_daemon.demo.btcpay.stores import ApiKey, Permission, SimulatedStore
from kosmo_billing_daemon.demo.btcpay.webhooks import SimulatedWebhook

ENGINE = web.AppKey("engine", Engine)


def base_url(request: web.Request) -> str:
    """Return scheme and host as the client named them."""
    return f"{request.scheme}://{request.host}"


def require_key(request: web.Request) -> ApiKey:
    """Return the key of the request, or refuse with 401."""
    key = request.app[ENGINE].stores.key_of(request.headers.get("Authorization", ""))
    if key is None:
        raise unauthenticated()
    return key


def require_store(request: web.Request, permission: Permission) -> SimulatedStore:
    """Return the store named in the path, if the key has ``permission`` there."""
    key = require_key(request)
    store = request.app[ENGINE].stores.by_id.get(request.match_info["store_id"])
    if store is None or not key.allows(permission, store.store_id):
        raise missing_permission(permission)
    return store


def require_invoice(request: web.Request, permission: Permission) -> SimulatedInvoice:
    """Return the invoice named in the path, if the key has ``permission`` in its store."""
    engine = request.app[ENGINE]
    key = require_key(request)
    invoice = engine.ledger.by_id.get(request.match_info["invoice_id"])
    if invoice is None or not _is_open(request, key, permission, invoice.store_id):
        raise _unknown(request, permission, "invoice-not-found", "The invoice was not found")
    return invoice


def require_webhook(request: web.Request) -> SimulatedWebhook:
    """Return the webhook named in the path, if the key may modify webhooks in its store."""
    engine = request.app[ENGINE]
    key = require_key(request)
    permission = Permission.MODIFY_WEBHOOKS
    webhook = engine.webhooks.registered.get(request.match_info["webhook_id"])
    if webhook is None or not _is_open(request, key, permission, webhook.store_id):
        raise _unknown(request, permission, "webhook-not-found", "The webhook was not found")
    return webhook


def _is_open(request: web.Request, key: ApiKey, permission: Permission, store_id: str) -> bool:
    return request.match_info.get("store_id", store_id) == store_id and key.allows(permission, store_id)


def _unknown(request: web.Request, permission: Permission, code: str, message: str) -> GreenfieldRefused:
    if "store_id" in request.match_info:
        require_store(request, permission)
    if request.app[ENGINE].hides_unknown_ids:
        return missing_permission(permission)
    return business_refusal(code, message, HTTPStatus.NOT_FOUND)

"""Who asks, and whether the key allows it.

The rule it keeps: refusals come in the order of BTCPay Server: no valid key is 401, a missing right or a
foreign store is 403, and an unknown id looks like a missing right from version 2.4.0 on.
"""

from http import HTTPStatus
from typing import TypeVar

from aiohttp import web

from kosmo_billing_daemon.demo.btcpay.answers import business_refusal, missing_permission, unauthenticated
from kosmo_billing_daemon.demo.btcpay.engine import Engine
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from kosmo_billing_daemon.demo.btcpay.stores import ApiKey, Permission, SimulatedStore
from kosmo_billing_daemon.demo.btcpay.webhooks import SimulatedWebhook

ENGINE = web.AppKey("engine", Engine)

_Found = TypeVar("_Found", SimulatedInvoice, SimulatedWebhook)


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
    invoice = request.app[ENGINE].ledger.by_id.get(request.match_info["invoice_id"])
    return _require(request, permission, "invoice", invoice)


def require_webhook(request: web.Request) -> SimulatedWebhook:
    """Return the webhook named in the path, if the key may modify webhooks in its store."""
    webhook = request.app[ENGINE].webhooks.registered.get(request.match_info["webhook_id"])
    return _require(request, Permission.MODIFY_WEBHOOKS, "webhook", webhook)


def _require(request: web.Request, permission: Permission, what: str, found: _Found | None) -> _Found:
    key = require_key(request)
    store = request.match_info.get("store_id")
    if found is not None and store in (None, found.store_id) and key.allows(permission, found.store_id):
        return found
    if store is not None:
        require_store(request, permission)
    if request.app[ENGINE].hides_unknown_ids:
        raise missing_permission(permission)
    raise business_refusal(f"{what}-not-found", f"The {what} was not found", HTTPStatus.NOT_FOUND)

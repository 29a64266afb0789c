"""The invoice calls of the Greenfield API, and the calls about keys, stores and the server itself.

The rule it keeps: path, query and body are refused or accepted as BTCPay Server does; what an invoice
then does is decided elsewhere.
"""

import asyncio
from http import HTTPStatus

from aiohttp import web
from multidict import MultiMapping

from kosmo_billing_daemon.demo.btcpay.access import (
    ENGINE,
    base_url,
    require_invoice,
    require_key,
    require_store,
)
from kosmo_billing_daemon.demo.btcpay.answers import (
    business_refusal,
    invalid,
    json_response,
    missing_permission,
)
from kosmo_billing_daemon.demo.btcpay.engine import Engine
from kosmo_billing_daemon.demo.btcpay.invoices import PaymentMethod, SimulatedStatus
from kosmo_billing_daemon.demo.btcpay.ledger import Search
from kosmo_billing_daemon.demo.btcpay.reading import RequestReader, read_json_object
from kosmo_billing_daemon.demo.btcpay.rendering import invoice_json, payment_methods_json
from kosmo_billing_daemon.demo.btcpay.stores import Permission, key_json, store_json

_STATUSES = {status.value.lower(): status for status in SimulatedStatus}
_GIVE_UP_CHECK_SECONDS = 0.05


def routes(*, store_less: bool) -> list[web.RouteDef]:
    """Return the routes; those without a store in the path exist from version 2.4.0 on."""
    found = [
        web.get("/api/v1/health", _health),
        web.get("/api/v1/server/info", _server_info),
        web.get("/api/v1/api-keys/current", _current_key),
        web.delete("/api/v1/api-keys/current", _revoke_current_key),
        web.get("/api/v1/stores/{store_id}", _store),
        web.get("/api/v1/stores/{store_id}/payment-methods", _store_payment_methods),
        web.post("/api/v1/stores/{store_id}/invoices", _create),
        web.get("/api/v1/stores/{store_id}/invoices", _list),
    ]
    prefixes = ["/api/v1/stores/{store_id}/invoices/{invoice_id}"]
    if store_less:
        prefixes.append("/api/v1/invoices/{invoice_id}")
    for prefix in prefixes:
        found += [
            web.get(prefix, _get),
            web.put(prefix, _replace_metadata),
            web.delete(prefix, _archive),
            web.get(f"{prefix}/payment-methods", _payment_methods),
            web.post(f"{prefix}/status", _mark),
            web.post(f"{prefix}/unarchive", _unarchive),
        ]
    return found


async def _health(_: web.Request) -> web.Response:
    return json_response({"synchronized": True})


async def _server_info(request: web.Request) -> web.Response:
    require_key(request)
    sync = {"paymentMethodId": "BTC-CHAIN", "chainHeight": 800_000, "syncHeight": 800_000, "available": True}
    node = {"headers": 800_000, "blocks": 800_000, "verificationProgress": 1.0}
    return json_response(
        {
            "version": request.app[ENGINE].version,
            "onion": None,
            "supportedPaymentMethods": ["BTC-CHAIN", "BTC-LN", "BTC-LNURL"],
            "fullySynched": True,
            "syncStatus": [{**sync, "nodeInformation": node}],
        }
    )


async def _current_key(request: web.Request) -> web.Response:
    return json_response(key_json(require_key(request)))


async def _revoke_current_key(request: web.Request) -> web.Response:
    key = require_key(request)
    del request.app[ENGINE].stores.keys[key.key]
    return json_response(key_json(key))


async def _store(request: web.Request) -> web.Response:
    return json_response(store_json(require_store(request, Permission.VIEW_STORE)))


async def _store_payment_methods(request: web.Request) -> web.Response:
    require_store(request, Permission.VIEW_STORE)
    methods = () if request.app[ENGINE].faults.no_wallet else PaymentMethod
    return json_response([{"paymentMethodId": str(method), "enabled": True} for method in methods])


async def _create(request: web.Request) -> web.Response:
    store = require_store(request, Permission.CREATE_INVOICE)
    body, text = await read_json_object(request)
    engine = request.app[ENGINE]
    answer = engine.create(body, text, store, base_url(request))
    if engine.faults.create_times_out:
        await _until_client_gives_up(request, engine)
    return json_response(answer)


async def _until_client_gives_up(request: web.Request, engine: Engine) -> None:
    while (  # noqa: ASYNC110 - aiohttp tells a handler of a lost client only by the transport
        not engine.closing.is_set() and request.transport is not None and not request.transport.is_closing()
    ):
        await asyncio.sleep(_GIVE_UP_CHECK_SECONDS)


async def _list(request: web.Request) -> web.Response:
    store = require_store(request, Permission.VIEW_INVOICES)
    query = request.query
    search, with_methods = _read_search(query)
    url = base_url(request)
    found = request.app[ENGINE].ledger.find(store.store_id, search)
    return json_response([invoice_json(invoice, url, payment_methods=with_methods) for invoice in found])


def _read_search(query: MultiMapping[str]) -> tuple[Search, bool]:
    reader = RequestReader()
    start, end, skip, take = (
        reader.query_number(query, name) for name in ("startDate", "endDate", "skip", "take")
    )
    include_archived = reader.query_flag(query, "includeArchived")
    with_methods = reader.query_flag(query, "includePaymentMethods")
    if start is not None and end is not None and start > end:
        reader.wrong("startDate", "startDate should not be above endDate")
        reader.wrong("endDate", "endDate should not be below startDate")
    reader.finish()
    names = (name.lower() for name in query.getall("status", []))
    search = Search(
        order_ids=tuple(query.getall("orderId", [])),
        statuses=frozenset(_STATUSES[name] for name in names if name in _STATUSES),
        start=start,
        end=end,
        text=query.get("textSearch", "").strip(),
        skip=max(0, skip or 0),
        take=None if take is None else max(0, take),
        include_archived=include_archived,
    )
    return search, with_methods


async def _get(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.VIEW_INVOICES)
    reader = RequestReader()
    with_methods = reader.query_flag(request.query, "includePaymentMethods")
    reader.finish()
    return json_response(invoice_json(invoice, base_url(request), payment_methods=with_methods))


async def _replace_metadata(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.MODIFY_INVOICES)
    body, _ = await read_json_object(request)
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise invalid("metadata", "The value of metadata must be a JSON object.")
    request.app[ENGINE].ledger.replace_metadata(invoice, metadata or {})
    return json_response(invoice_json(invoice, base_url(request)))


async def _archive(request: web.Request) -> web.Response:
    require_invoice(request, Permission.MODIFY_INVOICES).archived = True
    return web.Response()


async def _unarchive(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.MODIFY_INVOICES)
    if not invoice.archived:
        raise business_refusal("already-unarchived", "Invoice is already unarchived")
    invoice.archived = False
    return json_response(invoice_json(invoice, base_url(request)))


async def _payment_methods(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.VIEW_INVOICES)
    reader = RequestReader()
    only_counted = reader.query_flag(request.query, "onlyAccountedPayments", default=True)
    sensitive = reader.query_flag(request.query, "includeSensitive")
    reader.finish()
    if sensitive and not require_key(request).allows(Permission.MODIFY_STORE, invoice.store_id):
        raise missing_permission(Permission.MODIFY_STORE)
    return json_response(payment_methods_json(invoice, only_counted=only_counted))


async def _mark(request: web.Request) -> web.Response:
    invoice = require_invoice(request, Permission.MODIFY_INVOICES)
    body, _ = await read_json_object(request)
    status = _STATUSES.get(str(body.get("status")).lower())
    if status is None:
        raise invalid("status", f'Error converting value "{body.get("status")}".')
    if not request.app[ENGINE].mark(invoice, status):
        message = "Status can only be marked to invalid or settled within certain conditions."
        raise invalid("Status", message)
    return json_response(invoice_json(invoice, base_url(request)), HTTPStatus.OK)

"""The webhook calls of the Greenfield API.

The rule it keeps: the secret is shown once, when the webhook is made, and a delivery can be looked at and
repeated only after it was attempted.
"""

from datetime import timedelta
from http import HTTPStatus
from typing import Any

from aiohttp import web
from yarl import URL

from kosmo_billing_daemon.demo.btcpay.access import ENGINE, require_store, require_webhook
from kosmo_billing_daemon.demo.btcpay.answers import business_refusal, invalid, json_response
from kosmo_billing_daemon.demo.btcpay.reading import RequestReader, read_json_object
from kosmo_billing_daemon.demo.btcpay.stores import Permission
from kosmo_billing_daemon.demo.btcpay.webhooks import SimulatedDelivery, SimulatedWebhook

_KEPT = timedelta(days=60)


def routes(*, store_less: bool) -> list[web.RouteDef]:
    """Return the routes; those without a store in the path exist from version 2.4.0 on."""
    found = [
        web.post("/api/v1/stores/{store_id}/webhooks", _create),
        web.get("/api/v1/stores/{store_id}/webhooks", _list),
    ]
    prefixes = ["/api/v1/stores/{store_id}/webhooks/{webhook_id}"]
    if store_less:
        prefixes.append("/api/v1/webhooks/{webhook_id}")
    for prefix in prefixes:
        delivery = prefix + "/deliveries/{delivery_id}"
        found += [
            web.get(prefix, _get),
            web.put(prefix, _update),
            web.delete(prefix, _delete),
            web.get(f"{prefix}/deliveries", _deliveries),
            web.get(delivery, _delivery),
            web.get(f"{delivery}/request", _delivery_request),
            web.post(f"{delivery}/redeliver", _redeliver),
        ]
    return found


def webhook_json(webhook: SimulatedWebhook, *, with_secret: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": webhook.id,
        "enabled": webhook.enabled,
        "automaticRedelivery": webhook.automatic_redelivery,
        "url": webhook.url,
        "authorizedEvents": {
            "everything": webhook.everything,
            "specificEvents": list(webhook.specific_events),
        },
    }
    return {**answer, "secret": webhook.secret} if with_secret else answer


def delivery_json(delivery: SimulatedDelivery) -> dict[str, Any]:
    outcome = delivery.outcome
    return {
        "id": delivery.id,
        "timestamp": int(delivery.created.timestamp()),
        "deliveryTime": None if delivery.sent is None else int(delivery.sent.timestamp()),
        "httpCode": None if outcome is None else outcome.http_code,
        "errorMessage": None if outcome is None else outcome.error_message,
        "status": None if outcome is None else outcome.status.value,
    }


async def _create(request: web.Request) -> web.Response:
    store = require_store(request, Permission.MODIFY_WEBHOOKS)
    url, secret, settings = await _read_settings(request)
    webhook = request.app[ENGINE].webhooks.add(store.store_id, url, secret, **settings)
    return json_response(webhook_json(webhook, with_secret=True))


async def _list(request: web.Request) -> web.Response:
    store = require_store(request, Permission.MODIFY_WEBHOOKS)
    registered = request.app[ENGINE].webhooks.registered.values()
    return json_response([webhook_json(hook) for hook in registered if hook.store_id == store.store_id])


async def _get(request: web.Request) -> web.Response:
    return json_response(webhook_json(require_webhook(request)))


async def _update(request: web.Request) -> web.Response:
    webhook = require_webhook(request)
    url, secret, settings = await _read_settings(request)
    changed = request.app[ENGINE].webhooks.update(webhook, secret, url=url, **settings)
    return json_response(webhook_json(changed))


async def _delete(request: web.Request) -> web.Response:
    request.app[ENGINE].webhooks.remove(require_webhook(request).id)
    return web.Response()


async def _deliveries(request: web.Request) -> web.Response:
    webhook = require_webhook(request)
    count = request.query.get("count", "")
    if count and not count.isdecimal():
        raise invalid("count", f"The value '{count}' is not valid.")
    found = request.app[ENGINE].webhooks.deliveries(webhook.id)
    return json_response([delivery_json(delivery) for delivery in (found[: int(count)] if count else found)])


async def _delivery(request: web.Request) -> web.Response:
    return json_response(delivery_json(_require_delivery(request)))


async def _delivery_request(request: web.Request) -> web.Response:
    delivery = _require_kept_delivery(request)
    return web.Response(body=delivery.body, content_type="application/json")


async def _redeliver(request: web.Request) -> web.Response:
    delivery = _require_kept_delivery(request)
    return json_response(request.app[ENGINE].webhooks.redeliver(delivery))


def _require_delivery(request: web.Request) -> SimulatedDelivery:
    webhook = require_webhook(request)
    found = request.app[ENGINE].webhooks.delivery(webhook.id, request.match_info["delivery_id"])
    if found is None:
        raise business_refusal(
            "webhookdelivery-not-found", "The webhook delivery was not found", HTTPStatus.NOT_FOUND
        )
    return found


def _require_kept_delivery(request: web.Request) -> SimulatedDelivery:
    delivery = _require_delivery(request)
    if request.app[ENGINE].clock() - delivery.created > _KEPT:
        raise business_refusal(
            "webhookdelivery-pruned",
            "This webhook delivery has been pruned, so it can't be redelivered",
            HTTPStatus.CONFLICT,
        )
    return delivery


async def _read_settings(request: web.Request) -> tuple[str, str, dict[str, Any]]:
    body, _ = await read_json_object(request)
    reader = RequestReader()
    events = reader.section(body, "authorizedEvents")
    names = events.get("specificEvents")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        reader.wrong("authorizedEvents.specificEvents", "The value must be a JSON array of strings.")
        names = None
    settings = {
        "enabled": reader.flag(body, "enabled", "enabled", default=True),
        "automatic_redelivery": reader.flag(body, "automaticRedelivery", "automaticRedelivery", default=True),
        "everything": reader.flag(events, "everything", "authorizedEvents.everything", default=True),
        "specific_events": tuple(names or ()),
    }
    url, secret = body.get("url"), body.get("secret")
    if secret is not None and not isinstance(secret, str):
        reader.wrong("secret", "Unexpected JSON type for secret.")
    if not isinstance(url, str) or not _is_absolute(url):
        reader.wrong("Url", "Invalid Url")
    reader.finish()
    return str(url), secret or "", settings


def _is_absolute(url: str) -> bool:
    try:
        parsed = URL(url)
    except ValueError:
        return False
    return parsed.absolute and bool(parsed.scheme)

"""Webhook deliveries: bytes, signature, order, retries, and what is lost."""

import asyncio
import hashlib
import hmac
import json

import aiohttp
import pytest

from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.demo.btcpay import BTCPAY_RETRY_WAITS, Simulator
from tests.demo.btcpay.conftest import DEADLINE, KEY, SECRET, STORE, Api, HandClock, Receiver

HOOKS = f"/api/v1/stores/{STORE}/webhooks"


def test_schedule_is_that_of_btcpay() -> None:
    assert BTCPAY_RETRY_WAITS == (10, 60, 600, 600, 600, 600, 600, 600)


async def test_delivery_carries_signed_indented_json(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str, clock: HandClock
) -> None:
    metadata = {"orderId": "order-1", "buyerName": "Zoë"}
    invoice = await api.create(metadata=metadata)
    await simulator.drained()
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == "BTCPayServer/2.4.1"
    mac = hmac.new(SECRET.encode(), request.raw, hashlib.sha256).hexdigest()
    assert request.headers["BTCPay-Sig"] == f"sha256={mac}"
    assert request.raw.startswith(b'{\n  "deliveryId": ')
    assert "Zoë".encode() in request.raw
    delivery_id = request.body["deliveryId"]
    assert request.body == {
        "deliveryId": delivery_id,
        "webhookId": hook,
        "originalDeliveryId": delivery_id,
        "isRedelivery": False,
        "type": "InvoiceCreated",
        "timestamp": int(clock.now.timestamp()),
        "storeId": STORE,
        "invoiceId": invoice["id"],
        "metadata": metadata,
    }


async def test_payment_events_carry_the_payment(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    invoice = await api.create()
    await simulator.act(invoice["id"], "pay")
    await simulator.drained()
    body = receiver.requests[1].body
    assert (body["webhookId"], body["afterExpiration"], body["paymentMethodId"]) == (hook, False, "BTC-CHAIN")
    payment = body["payment"]
    assert (payment["value"], payment["fee"], payment["status"]) == ("0.00005000", "0", "Processing")


async def test_retries_follow_the_schedule_and_then_give_up(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    receiver.statuses = [503] * 20
    await api.create()
    await simulator.drained()
    assert len(receiver.requests) == 9
    first, *retries = [request.body for request in receiver.requests]
    assert first["isRedelivery"] is False
    assert all(
        retry["isRedelivery"] and retry["originalDeliveryId"] == first["deliveryId"] for retry in retries
    )
    assert len({body["deliveryId"] for body in (first, *retries)}) == 9
    assert {retry["timestamp"] for retry in retries} == {first["timestamp"]}
    rows = simulator.deliveries(hook)
    assert [row.outcome.http_code for row in rows if row.outcome] == [503] * 9


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize("status", [500, 502, 599, 408, 429])
async def test_server_trouble_is_retried(
    api: Api, simulator: Simulator, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    await api.create()
    await simulator.drained()
    assert [request.body["isRedelivery"] for request in receiver.requests] == [False, True]


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 304])
async def test_other_refusals_are_not_retried(
    api: Api, simulator: Simulator, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    await api.create()
    await simulator.drained()
    assert len(receiver.requests) == 1


async def test_no_answer_is_retried_and_listed_as_failed(api: Api, simulator: Simulator) -> None:
    hook = simulator.add_webhook("http://127.0.0.1:1/nobody", SECRET)
    await api.create()
    await simulator.drained()
    status, rows = await api.call("GET", f"{HOOKS}/{hook}/deliveries")
    assert status == 200
    assert len(rows) == 9
    assert {(row["status"], row["httpCode"]) for row in rows} == {("Failed", None)}
    assert all(row["errorMessage"] for row in rows)


@pytest.mark.usefixtures("hook")
async def test_failing_delivery_holds_back_the_later_ones(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    receiver.statuses = [500, 500]
    invoice = await api.create()
    await simulator.act(invoice["id"], "pay")
    await simulator.drained()
    assert receiver.types == ["InvoiceCreated"] * 3 + ["InvoiceReceivedPayment", "InvoiceProcessing"]


async def test_webhook_without_automatic_redelivery_tries_once(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.add_webhook(receiver.url, SECRET, automatic_redelivery=False)
    receiver.statuses = [500]
    await api.create()
    await simulator.drained()
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("redirect", [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
async def test_redirects_are_followed_as_dotnet_does(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str, redirect: tuple[int, str]
) -> None:
    status, method = redirect
    receiver.statuses, receiver.location = [status], "/elsewhere"
    await api.create()
    await simulator.drained()
    followed = receiver.requests[1]
    assert (followed.method, followed.path) == (method, "/elsewhere")
    assert bool(followed.raw) is (method == "POST")
    assert ("BTCPay-Sig" in followed.headers) is (method == "POST")
    [row] = simulator.deliveries(hook)
    assert row.outcome is not None
    assert row.outcome.http_code == 200


async def test_created_event_arrives_before_the_create_call_is_answered(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    simulator.set_faults(create_times_out=True)
    answer = asyncio.create_task(api.create(metadata={"orderId": "slow"}))
    await receiver.wait_for(1)
    assert not answer.done()
    answer.cancel()
    assert receiver.requests[0].body["webhookId"] == hook
    assert await api.found(("orderId", "slow")) == [receiver.requests[0].body["invoiceId"]]


async def test_specific_events_count_only_without_everything(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    for name, events in (
        ("both", {"everything": True, "specificEvents": ["InvoiceSettled"]}),
        ("silent default", {"specificEvents": ["InvoiceSettled"]}),
        ("chosen", {"everything": False, "specificEvents": ["InvoiceSettled", "NoSuchEvent"]}),
        ("wrong case", {"everything": False, "specificEvents": ["invoicesettled"]}),
    ):
        url = f"{receiver.url}/{name.replace(' ', '-')}"
        status, _ = await api.call("POST", HOOKS, {"url": url, "authorizedEvents": events})
        assert status == 200
    await simulator.act((await api.create())["id"], "mark_settled")
    await simulator.drained()
    seen = {(request.path, request.type) for request in receiver.requests}
    assert seen == {
        ("/both", "InvoiceCreated"),
        ("/both", "InvoiceSettled"),
        ("/silent-default", "InvoiceCreated"),
        ("/silent-default", "InvoiceSettled"),
        ("/chosen", "InvoiceSettled"),
    }


async def test_secret_is_shown_once_and_kept_by_an_update_without_one(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    status, made = await api.call("POST", HOOKS, {"url": receiver.url, "secret": "mine"})
    assert (status, made["secret"], made["enabled"], made["automaticRedelivery"]) == (200, "mine", True, True)
    assert made["authorizedEvents"] == {"everything": True, "specificEvents": []}
    path = f"{HOOKS}/{made['id']}"
    assert "secret" not in (await api.call("GET", path))[1]
    assert ["secret" in hook for hook in (await api.call("GET", HOOKS))[1]] == [False]
    for secret in ({}, {"secret": None}, {"secret": ""}):
        status, updated = await api.call("PUT", path, {"url": f"{receiver.url}/new", **secret})
        assert (status, updated["url"], "secret" in updated) == (200, f"{receiver.url}/new", False)
    await api.create()
    await simulator.drained()
    [request] = receiver.requests
    assert request.path == "/new"
    assert request.headers["BTCPay-Sig"] == sign(request.raw, b"mine")


async def test_first_attempt_uses_the_captured_settings_and_a_retry_the_present_ones(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    simulator.set_faults(webhooks={"hold": True})
    receiver.statuses = [500]
    await api.create()
    await api.call("PUT", f"{HOOKS}/{hook}", {"url": f"{receiver.url}/changed", "secret": "changed"})
    simulator.set_faults(webhooks={"hold": False})
    await simulator.drained()
    first, retry = receiver.requests
    assert (first.path, first.headers["BTCPay-Sig"]) == ("/hook", sign(first.raw, SECRET.encode()))
    assert (retry.path, retry.headers["BTCPay-Sig"]) == ("/changed", sign(retry.raw, b"changed"))


async def test_deleted_or_disabled_webhook_gets_nothing_more(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    simulator.set_faults(webhooks={"hold": True})
    await api.create()
    status, body = await api.call("DELETE", f"{HOOKS}/{hook}")
    assert (status, body) == (200, None)
    simulator.set_faults(webhooks={"hold": False})
    simulator.add_webhook(receiver.url, enabled=False)
    await api.create()
    await simulator.drained()
    assert receiver.requests == []


async def test_deliveries_are_listed_and_can_be_repeated(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str, clock: HandClock
) -> None:
    receiver.statuses = [404]
    await simulator.act((await api.create())["id"], "mark_settled")
    await simulator.drained()
    path = f"{HOOKS}/{hook}/deliveries"
    newest, lost = (await api.call("GET", path))[1]
    assert (newest["status"], newest["httpCode"], newest["errorMessage"]) == ("HttpSuccess", 200, None)
    assert (lost["status"], lost["httpCode"], lost["errorMessage"]) == (
        "HttpError",
        404,
        "HTTP Error Code 404",
    )
    assert lost["timestamp"] == lost["deliveryTime"] == int(clock.now.timestamp())
    assert (await api.call("GET", path, query=[("count", "1")]))[1] == [newest]
    assert (await api.call("GET", f"{path}/{lost['id']}"))[1] == lost
    sent = (await api.call("GET", f"{path}/{lost['id']}/request"))[1]
    assert sent == receiver.requests[0].body
    status, repeated = await api.call("POST", f"{path}/{lost['id']}/redeliver")
    await simulator.drained()
    again = receiver.requests[-1].body
    assert (status, again) == (
        200,
        {**sent, "deliveryId": repeated, "isRedelivery": True, "originalDeliveryId": lost["id"]},
    )
    clock.move(days=61)
    status, body = await api.call("POST", f"{path}/{lost['id']}/redeliver")
    assert (status, body["code"]) == (409, "webhookdelivery-pruned")
    status, body = await api.call("GET", f"{path}/nothing")
    assert (status, body["code"]) == (404, "webhookdelivery-not-found")


async def test_restart_loses_queued_events_without_a_trace(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str, clock: HandClock
) -> None:
    simulator.set_faults(webhooks={"hold": True})
    lost = await api.create()
    assert (await api.call("POST", "/simulate/restart", {}))[0] == 200
    simulator.set_faults(webhooks={"hold": False})
    await api.create()
    await simulator.drained()
    assert receiver.types == ["InvoiceCreated"]
    assert receiver.requests[0].body["invoiceId"] != lost["id"]
    assert len(simulator.deliveries(hook)) == 1
    clock.move(minutes=15, seconds=2)
    assert (await api.invoice(lost["id"]))["status"] == "New"
    clock.move(minutes=2)
    assert (await api.invoice(lost["id"]))["status"] == "Expired"


async def test_restart_loses_a_pending_retry(receiver: Receiver) -> None:
    async with Simulator(store_id=STORE, api_key=KEY, retry_waits=(30,)) as simulator:
        simulator.add_webhook(receiver.url)
        receiver.statuses = [500]
        async with asyncio.timeout(DEADLINE):
            invoice_id = await _create(simulator)
            await receiver.wait_for(1)
            await simulator.restart()
            await simulator.act(invoice_id, "mark_settled")
            await simulator.drained()
        assert receiver.types == ["InvoiceCreated", "InvoiceSettled"]


async def test_bad_urls_and_types_are_refused(api: Api) -> None:
    assert await api.call("POST", HOOKS, {"url": "nonsense"}) == (
        422,
        [{"path": "Url", "message": "Invalid Url"}],
    )
    assert (await api.call("POST", HOOKS, {}))[0] == 422
    status, body = await api.call("POST", HOOKS, {"url": "http://a/", "enabled": "maybe"})
    assert (status, body[0]["path"]) == (422, "enabled")


async def test_metadata_is_as_it_stood_when_the_event_was_raised(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    simulator.set_faults(webhooks={"hold": True})
    invoice = await api.create(metadata={"orderId": "before"})
    await api.call("PUT", f"/api/v1/invoices/{invoice['id']}", {"metadata": {"orderId": "after"}})
    await simulator.act(invoice["id"], "mark_settled")
    simulator.set_faults(webhooks={"hold": False})
    await simulator.drained()
    assert [json.loads(row.body)["metadata"]["orderId"] for row in simulator.deliveries(hook)] == [
        "after",
        "before",
    ]
    assert len(receiver.requests) == 2


async def _create(simulator: Simulator) -> str:
    url = f"{simulator.url}/api/v1/stores/{STORE}/invoices"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.post(url, json={"amount": "5.00"}) as response,
    ):
        return str((await response.json())["id"])

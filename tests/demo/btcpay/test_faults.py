"""The failures that can be switched on, and the simulator's own calls, which none of them reaches."""

import asyncio
from typing import Any

import aiohttp
import pytest

from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.demo.btcpay.conftest import KEY, SECRET, STORE, Api, Receiver

INVOICES = f"/api/v1/stores/{STORE}/invoices"
FAULTS = "/simulate/faults"


async def test_faults_are_merged_and_returned(api: Api) -> None:
    status, before = await api.call("GET", FAULTS, key=None)
    assert status == 200
    assert not any(before[name] for name in ("down", "slow_ms", "error_rate", "garbage", "unauthorized"))
    await api.call("POST", FAULTS, {"slow_ms": 1, "webhooks": {"drop": True}}, key=None)
    status, after = await api.call("POST", FAULTS, {"webhooks": {"delay_ms": 2}}, key=None)
    changed = {**before, "slow_ms": 1, "webhooks": {**before["webhooks"], "drop": 1.0, "delay_ms": 2}}
    assert (status, after) == (200, changed)


@pytest.mark.parametrize(
    ("faults", "path"),
    [
        ({"downn": True}, "downn"),
        ({"down": 1}, "down"),
        ({"slow_ms": -1}, "slow_ms"),
        ({"slow_ms": True}, "slow_ms"),
        ({"error_rate": 2}, "error_rate"),
        ({"webhooks": True}, "webhooks"),
        ({"webhooks": {"dropp": True}}, "webhooks.dropp"),
        ({"webhooks": {"drop": "no"}}, "webhooks.drop"),
    ],
)
async def test_wrong_faults_change_nothing(api: Api, faults: dict[str, Any], path: str) -> None:
    before = await api.call("GET", FAULTS)
    status, problems = await api.call("POST", FAULTS, faults)
    assert (status, [problem["path"] for problem in problems]) == (422, [path])
    assert await api.call("GET", FAULTS) == before


async def test_down_closes_connections_but_can_be_taken_back(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    await api.call("POST", FAULTS, {"down": True})
    with pytest.raises(aiohttp.ClientError):
        await api.call("POST", INVOICES, {"amount": "1"})
    assert (await api.call("POST", FAULTS, {"down": False}))[0] == 200
    assert await api.found() == []
    assert caplog.messages == []


async def test_server_gone_away_comes_back_on_the_same_port_with_its_state(
    api: Api, simulator: Simulator
) -> None:
    invoice_id, url = (await api.create())["id"], simulator.url
    await simulator.go_away()
    with pytest.raises(aiohttp.ClientConnectorError):
        await api.call("GET", INVOICES)
    await simulator.act(invoice_id, "pay")
    await simulator.come_back()
    assert simulator.url == url
    assert (await api.invoice(invoice_id))["status"] == "Processing"


@pytest.mark.usefixtures("hook")
async def test_create_that_times_out_made_the_invoice(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.set_faults(create_times_out=True)
    answer = asyncio.create_task(api.create(metadata={"orderId": "lost"}))
    await receiver.wait_for(1)
    answer.cancel()
    await asyncio.wait([answer])
    assert answer.cancelled()
    assert len(await api.found(("orderId", "lost"))) == 1


async def test_create_that_times_out_does_not_hold_up_closing(receiver: Receiver) -> None:
    simulator = Simulator(store_id=STORE, api_key=KEY)
    await simulator.start()
    simulator.add_webhook(receiver.url)
    simulator.set_faults(create_times_out=True)
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(Api(simulator, session).create())
        async with asyncio.timeout(5):
            await receiver.wait_for(1)
            await simulator.close()
            await asyncio.wait([waiting])
        assert waiting.done()
        if not waiting.cancelled():
            waiting.exception()


async def test_slow_answers_still_come(api: Api, simulator: Simulator) -> None:
    simulator.set_faults(slow_ms=60)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await api.create()
    assert loop.time() - started >= 0.05


async def test_error_rate_repeats_with_its_seed(api: Api, simulator: Simulator) -> None:
    async def run() -> list[int]:
        simulator.set_faults(error_rate=0.5, seed=7)
        return [(await api.call("GET", "/api/v1/health"))[0] for _ in range(20)]

    first = await run()
    assert set(first) == {200, 500}
    assert await run() == first
    simulator.set_faults(error_rate=1)
    assert (await api.call("GET", INVOICES))[0] == 500


async def test_garbage_is_html_with_200(api: Api, simulator: Simulator) -> None:
    simulator.set_faults(garbage=True)
    async with api.session.get(simulator.url + INVOICES) as response:
        assert (response.status, response.content_type) == (200, "text/html")


async def test_unauthorized_refuses_a_good_key(api: Api, simulator: Simulator) -> None:
    simulator.set_faults(unauthorized=True)
    status, body = await api.call("GET", INVOICES)
    assert (status, body["code"]) == (401, "unauthenticated")


async def test_dropped_webhooks_leave_no_trace(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    simulator.set_faults(webhooks={"drop": True})
    await api.create()
    await simulator.drained()
    assert receiver.requests == []
    assert simulator.deliveries(hook) == []


@pytest.mark.usefixtures("hook")
async def test_duplicated_webhooks_are_the_same_bytes_twice(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    simulator.set_faults(webhooks={"duplicate": True})
    await api.create()
    await simulator.drained()
    first, second = receiver.requests
    assert first.raw == second.raw


@pytest.mark.usefixtures("hook")
async def test_reordered_webhooks_arrive_backwards_and_all(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    invoice_id = (await api.create())["id"]
    await simulator.drained()
    simulator.set_faults(webhooks={"reorder": True})
    await simulator.act(invoice_id, "pay", method="BTC-LN")
    await simulator.drained()
    assert receiver.types[1:] == [
        "InvoiceSettled",
        "InvoiceProcessing",
        "InvoiceReceivedPayment",
        "InvoicePaymentSettled",
    ]


@pytest.mark.usefixtures("hook")
async def test_held_webhooks_wait_until_released(api: Api, simulator: Simulator, receiver: Receiver) -> None:
    simulator.set_faults(webhooks={"hold": True, "delay_ms": 10})
    await simulator.act((await api.create())["id"], "mark_settled")
    assert receiver.requests == []
    simulator.set_faults(webhooks={"hold": False})
    await simulator.drained()
    assert receiver.types == ["InvoiceCreated", "InvoiceSettled"]


async def test_clock_moves_only_forward_and_by_number(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    for wrong in (-1, "60", None, True, 10**12):
        assert (await api.call("POST", "/simulate/clock", {"advance_seconds": wrong}))[0] == 422
    status, body = await api.call("POST", "/simulate/clock", {"advance_seconds": 901})
    assert (status, body["now"]) == (200, int(simulator.invoices[invoice_id].created.timestamp()) + 901)
    assert simulator.invoices[invoice_id].status == "Expired"


async def test_actions_over_http_return_the_invoice_and_need_no_key(api: Api) -> None:
    path = f"/simulate/invoices/{(await api.create())['id']}"
    status, invoice = await api.call("POST", path, {"action": "pay", "amount": "2.50"}, key=None)
    assert (status, invoice["additionalStatus"], invoice["paidAmount"]) == (200, "PaidPartial", "2.50")
    assert "pay_late" in invoice["possibleActions"]
    assert await api.call("GET", path, key=None) == (200, invoice)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "rob"}, 422),
        ({}, 422),
        ({"action": "pay", "amount": "-1"}, 422),
        ({"action": "pay", "amount": "1e99"}, 422),
        ({"action": "pay", "amount": "x"}, 422),
        ({"action": "pay", "method": "GOLD"}, 422),
        ({"action": "pay_partial", "amount": "5.00"}, 422),
        ({"action": "pay_over", "amount": "5.00"}, 422),
        ({"action": "pay", "method": "BTC-LN"}, 409),
    ],
)
async def test_wrong_actions_change_nothing(api: Api, body: dict[str, Any], status: int) -> None:
    invoice = await api.create(checkout={"paymentMethods": ["BTC-CHAIN"]})
    answered, _ = await api.call("POST", f"/simulate/invoices/{invoice['id']}", body)
    assert answered == status
    assert await api.invoice(invoice["id"]) == invoice


async def test_unknown_action_is_answered_with_the_list(api: Api) -> None:
    _, problems = await api.call(
        "POST", f"/simulate/invoices/{(await api.create())['id']}", {"action": "rob"}
    )
    assert all(name in problems[0]["message"] for name in ("pay", "pay_late", "replace_payment"))


async def test_unknown_invoice_is_not_found(api: Api) -> None:
    status, body = await api.call("POST", "/simulate/invoices/nothing", {"action": "pay"})
    assert (status, body["code"]) == (404, "invoice-not-found")


async def test_webhooks_signed_with_any_secret_reach_two_hooks_with_ids_of_their_own(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    hooks = {simulator.add_webhook(receiver.url, SECRET) for _ in range(2)}
    await api.create()
    await simulator.drained()
    assert {request.body["webhookId"] for request in receiver.requests} == hooks
    assert len({request.body["deliveryId"] for request in receiver.requests}) == 2


async def test_port_already_taken_is_an_error_that_leaves_nothing_running(simulator: Simulator) -> None:
    second = Simulator(store_id=STORE, api_key=KEY)
    with pytest.raises(OSError, match="address already in use"):
        await second.start(port=int(simulator.url.rpartition(":")[2]))
    await second.close()

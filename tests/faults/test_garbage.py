"""BTCPay's address answers 200 with what is no answer: reported, believed by nobody, and over when it ends.

What other answers are is tried in tests/btcpay (test_odd_answers.py, test_fronts.py), without a daemon.

Seen failing: without comparing answers with what was asked for, somebody else's invoices left the daemon
"ready" and their money was listed as paid twice for ours; without taking a list of nothing readable for an
outage, each delivery waited a minute more.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.contract.paths import API
from tests.faults.signs import measures, metrics, says
from tests.services.relay import Relay, relay
from tests.support.daemon import STORE, WEBHOOK_SECRET, DaemonProcess
from tests.support.world import World


def words(text: str, kind: str = "application/json") -> web.Response:
    return web.Response(text=text, content_type=kind)


def page(_: web.Request) -> web.Response:
    """A proxy that does not know BTCPay."""
    return words("<!doctype html><title>Welcome</title>", "text/html")


def another_shape(_: web.Request) -> web.Response:
    return words('{"result": []}')


def strange_entries(request: web.Request) -> web.Response:
    return words('[{"id": 7}, null]' if is_list(request) else '{"id": 7}')


def somebody_elses(request: web.Request) -> web.Response:
    """Invoices in order, settled, of our price: a proxy drops the query, or it is another shop's server."""
    found = [
        {**FOREIGN, "id": f"Foreign{number}", "metadata": {"orderId": str(uuid4())}} for number in range(3)
    ]
    return words(json.dumps(found if is_list(request) else found[0]))


def is_list(request: web.Request) -> bool:
    return request.method == "GET" and request.path.endswith("/invoices")


FOREIGN = {
    "storeId": STORE,
    "amount": "5.00",
    "paidAmount": "5.00",
    "currency": "USD",
    "status": "Settled",
    "additionalStatus": "None",
    "checkoutLink": "https://elsewhere.example/i/Foreign",
    "expirationTime": int(datetime.now(UTC).timestamp()) + 900,
}
VARIANTS = {
    page: "something in front of BTCPay answered: status 200 with text/html that is not JSON",
    another_shape: "invoices: an array is needed",
    strange_entries: "is not understood",
    somebody_elses: "orders that were not asked for",
}


@pytest.fixture
async def between(world: World) -> AsyncIterator[Relay]:
    """What stands between the daemon and BTCPay."""
    async with relay(world.simulator.url) as passing:
        world.more = {"BTCPAY_URL": passing.url}
        yield passing


async def test_garbage_is_reported_and_believed_by_nobody(world: World, between: Relay) -> None:
    daemon = world.prepare()
    await daemon.start()
    hook = world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
    await world.until_ready(daemon)
    pid, paid = daemon.pid, [uuid4() for _ in VARIANTS]
    invoices = [await world.order(daemon, user_id) for user_id in paid]
    for (garbage, told), user_id, invoice_id in zip(VARIANTS.items(), paid, invoices, strict=True):
        before = (await metrics(world, daemon))["btcpay_errors_total"]
        between.answer = garbage
        await world.pay(invoice_id)
        await says(world, daemon, "degraded", "btcpay", told)
        await measures(world, daemon, "btcpay_up", 0)
        assert (await metrics(world, daemon))["btcpay_errors_total"] > before
        assert await order(world, daemon, uuid4()) == 503
        await world.simulator.drained()
        assert {
            delivery.outcome and delivery.outcome.http_code for delivery in world.simulator.deliveries(hook)
        } == {200}
        assert await world.value("SELECT count(*) FROM subscriptions WHERE user_id = $1", user_id) == 0
        between.answer = None
        recovered = await world.until_published(user_id, 5.0)
        await world.until_ready(daemon)
        print(f"{garbage.__name__}: recovered in {recovered:.1f} s")
    assert await world.value("SELECT count(*) FROM subscriptions") == len(paid)
    assert await world.value("SELECT count(*) FROM attention_cases") == 0
    assert len(world.simulator.invoices) == len(paid)
    assert (daemon.log.count("BTCPay is away"), daemon.log.count("BTCPay is back")) == (1, 1), daemon.log
    assert daemon.pid == pid


async def order(world: World, daemon: DaemonProcess, user_id: UUID) -> int:
    """Try to buy; returns the status of the answer."""
    url, headers = f"{daemon.url}{API}/invoices", {"X-User-ID": str(user_id)}
    async with world.http.post(url, json={"plan_type": "wanderer"}, headers=headers) as response:
        return response.status

"""What stands in front of BTCPay answers in its place: told as that, for as long as it lasts.

Seen failing: an HTML 400 or 405 left the state "reachable", an HTML 401 or 403 blamed the API key, a blocked
path was forgotten with the next call that worked, and an idle client never noticed that BTCPay was gone.
"""

import gzip
import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied, BtcpayRefused, CreationUnknown
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN
from tests.btcpay.servers import client_of, serving
from tests.services.relay import relay
from tests.support.world import until

PLAN = BUILT_IN.plans[0]
IN_FRONT = "something in front of BTCPay"
ASKING = Timeouts(connect=1.0, call=2.0, create=2.0, again=0.05, idle=0.1, lull=0.4)


def page(status: int, **headers: str) -> Callable[[], web.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: web.Response(status=status, headers=named, text="<h1>proxy</h1>", content_type="text/html")


def document(status: int, said: Any) -> Callable[[], web.Response]:
    return lambda: web.json_response(said, status=status)


FRONTS = {
    **{f"HTML {status}": page(status) for status in (200, 400, 403, 404, 405, 410, 413, 414, 429, 500, 502)},
    "basic auth": page(401, WWW_Authenticate='Basic realm="staff"'),
    "a captive portal": page(302, Location="https://login.hotel.example/"),
    "a redirect to https": page(308, Location="https://btcpay.example/"),
    "maintenance": page(503, Retry_After="120"),
    "nothing with 400": lambda: web.Response(status=400),
    "nothing with 200": lambda: web.Response(status=200),
    "nothing with 204": lambda: web.Response(status=204),
    "a gateway's 401": document(401, {"message": "Unauthorized"}),
    "a gateway's 403": document(403, {"code": "AccessDenied", "message": "Access Denied"}),
    "a gateway's 404": document(404, {"code": 5, "message": "no such route"}),
    "problem details": document(400, {"type": "about:blank", "title": "Bad Request", "status": 400}),
    "no complaint": document(422, []),
    "a text": document(400, "bad request"),
}


@pytest.mark.parametrize("name", FRONTS)
async def test_what_is_not_btcpays_json_is_told_as_somebody_elses(name: str) -> None:
    async def front(_: web.Request) -> web.Response:
        return FRONTS[name]()

    async with serving(front) as url, client_of(url) as client:
        with pytest.raises(CreationUnknown, match=IN_FRONT):
            await client.create_invoice(uuid4(), PLAN)
        with pytest.raises(BtcpayAway, match=IN_FRONT):
            await client.find_invoices([uuid4()])
        state = client.state
        assert (state.reachable, state.denied, state.refused) == (False, None, None)
        assert IN_FRONT in (state.problem or "")


async def test_who_answered_is_told_as_far_as_it_says() -> None:
    seen: dict[str, str] = {}
    for name in ("basic auth", "a captive portal", "HTML 405"):

        async def front(_: web.Request, name: str = name) -> web.Response:
            return FRONTS[name]()

        async with serving(front) as url, client_of(url) as client:
            with pytest.raises(BtcpayAway) as caught:
                await client.server_info()
            seen[name] = caught.value.message
    assert "a login of its own (Basic)" in seen["basic auth"]
    assert "https://login.hotel.example/" in seen["a captive portal"]
    assert "405 with text/html" in seen["HTML 405"]
    assert all("BTCPAY_URL" in told for told in seen.values())


async def test_what_btcpay_itself_says_is_still_believed() -> None:
    """Its refusals and denials are no outage, whatever their status."""
    answers: list[tuple[int, Any, type[Exception]]] = [
        (400, {"code": "generic-error", "message": "no rate"}, BtcpayRefused),
        (401, {"code": "unauthenticated", "message": "Authentication is required"}, BtcpayDenied),
        (403, {"code": "missing-permission", "message": "x", "missingPermission": "y"}, BtcpayDenied),
        (404, {"code": "store-not-found", "message": "gone"}, BtcpayRefused),
        (422, [{"path": "Amount", "message": "The amount should be 0 or more."}], BtcpayRefused),
    ]
    for status, said, kind in answers:

        async def btcpay(_: web.Request, status: int = status, said: Any = said) -> web.Response:
            return web.json_response(said, status=status)

        async with serving(btcpay) as url, client_of(url) as client:
            with pytest.raises(kind):
                await client.create_invoice(uuid4(), PLAN)
            assert client.state.reachable
            assert client.state.problem


async def test_a_cookie_of_somebody_in_front_is_not_sent_back() -> None:
    cookies = []

    async def login(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return page(200, Set_Cookie="session=of-the-login-page")()

    async with serving(login) as url, client_of(url.replace("127.0.0.1", "localhost")) as client:
        with pytest.raises(BtcpayAway, match=IN_FRONT):
            await client.probe()
    assert cookies == [None, None]


async def test_an_answer_packed_twice_is_not_unpacked() -> None:
    async def packed(_: web.Request) -> web.Response:
        body = gzip.compress(gzip.compress(b"[]"))
        return web.Response(body=body, headers={"Content-Encoding": "gzip, gzip"})

    async with serving(packed) as url, client_of(url) as client:
        with pytest.raises(BtcpayAway, match="packed more than once"):
            await client.probe()


async def test_why_btcpay_is_not_ready_yet_is_told_in_its_words() -> None:
    async def starting(_: web.Request) -> web.Response:
        return web.json_response({"code": "starting", "message": "BTCPay Server is starting"}, status=503)

    async with serving(starting) as url, client_of(url) as client:
        with pytest.raises(BtcpayAway, match="503: BTCPay Server is starting"):
            await client.probe()
        assert "is starting" in (client.state.problem or "")


async def test_a_deleted_store_is_told_until_its_invoices_can_be_listed_again() -> None:
    """A refusal of one invoice says nothing new about it."""
    is_deleted = True

    async def btcpay(_: web.Request) -> web.Response:
        gone = {"code": "store-not-found", "message": "The store was not found"}
        return web.json_response(gone, status=404) if is_deleted else web.json_response([])

    async with serving(btcpay) as url, client_of(url) as client:
        for call in (client.probe(), client.fetch_invoice("Invoice"), client.fetch_invoice("Invoice")):
            with pytest.raises(BtcpayRefused):
                await call
            assert "The store was not found" in (client.state.problem or "")
        is_deleted = False
        await client.probe()
        assert client.state.problem is None


async def blocked_creations(client: BtcpayClient, simulator: Simulator) -> None:
    simulator.set_faults(proxy_status=403, proxy_blocks_creations=True)
    with pytest.raises(CreationUnknown):
        await client.create_invoice(uuid4(), PLAN)
    await client.find_invoices([uuid4()])


async def test_a_blocked_path_is_told_until_it_is_open(client: BtcpayClient, simulator: Simulator) -> None:
    await blocked_creations(client, simulator)
    await client.server_info()
    assert IN_FRONT in (client.state.problem or ""), "another path that is open proves nothing of this one"
    assert not client.state.reachable
    simulator.set_faults(proxy_status=0)
    await client.create_invoice(uuid4(), PLAN)
    assert client.state.problem is None
    simulator.set_faults(proxy_status=502, proxy_blocks_creations=False)
    for call in (client.create_invoice(uuid4(), PLAN), client.find_invoices([uuid4()])):
        with pytest.raises(BtcpayAway):
            await call
    simulator.set_faults(proxy_status=0)
    await client.find_invoices([uuid4()])
    assert client.state.problem is None, "what failed together is over together"


async def test_an_open_path_is_noticed_although_nobody_buys(simulator: Simulator) -> None:
    async with client_of(simulator.url, timeouts=ASKING) as client:
        await blocked_creations(client, simulator)
        simulator.set_faults(proxy_status=0)
        await until(lambda: client.state.problem is None, "creations work", 5.0)
        assert simulator.invoices == {}, "finding out created nothing"
        simulator.add_key(simulator.api_key, ("btcpay.store.canviewinvoices",))
        with pytest.raises(BtcpayDenied):
            await client.create_invoice(uuid4(), PLAN)
        assert "cancreateinvoice" in (client.state.denied or "")
        simulator.add_key(simulator.api_key, ("btcpay.store.canmodifyinvoices",))
        await until(lambda: client.state.problem is None, "the right is there", 5.0)


async def test_an_idle_client_notices_that_btcpay_is_gone_and_back(simulator: Simulator) -> None:
    async with client_of(simulator.url, timeouts=ASKING) as client:
        assert client.state.reachable
        await simulator.go_away()
        await until(lambda: not client.state.reachable, "it is asked", 5.0)
        await simulator.come_back()
        await until(lambda: client.state.reachable, "its return", 5.0)
        simulator.revoke_key(simulator.api_key)
        await until(lambda: client.state.denied is not None, "the key is tried", 5.0)


async def test_a_shop_without_a_wallet_is_told_in_btcpays_words_until_it_sells(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="kosmo_billing_daemon")
    simulator.set_faults(no_wallet=True)
    async with relay(simulator.url) as between, client_of(between.url, timeouts=ASKING) as client:
        for _ in range(5):
            with pytest.raises(BtcpayRefused, match="No wallet has been linked"):
                await client.create_invoice(uuid4(), PLAN)
        await client.find_invoices([uuid4()])
        lists = between.lists
        await until(lambda: between.lists >= lists + 8, "it is asked for longer than the lull", 5.0)
        assert "No wallet has been linked" in (client.state.refused or "")
        assert client.state.problem == client.state.refused
        assert client.state.failures == 5
        assert client.state.reachable
        assert [record.getMessage() for record in caplog.records] == ["BTCPay refused a call"]
        simulator.set_faults(no_wallet=False)
        await client.create_invoice(uuid4(), PLAN)
        assert client.state.problem is None

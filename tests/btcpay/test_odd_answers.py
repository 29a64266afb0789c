"""The client against what stands in BTCPay's place: limiters, redirects, proxies, and what is no answer."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayRefused, CreationUnknown, Garbled
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.btcpay.wire import MAX_ANSWER_BYTES
from kosmo_billing_daemon.domain.plans import BUILT_IN
from tests.btcpay.servers import STORE, client_of, serving

PLAN = BUILT_IN.plans[0]
INFO = {"version": "2.4.1", "fullySynched": True}
DOCUMENT = {
    "id": "x",
    "storeId": STORE,
    "amount": "5",
    "currency": "USD",
    "checkoutLink": "http://x/i/x",
    "expirationTime": 1_800_000_000,
    "additionalStatus": "None",
}


class Script:
    """Answers in turn, the last one for ever, and counts the requests."""

    def __init__(self, *answers: Callable[[], web.Response]) -> None:
        self._answers = answers
        self.lines: list[str] = []

    async def next(self, request: web.Request) -> web.Response:
        self.lines.append(f"{request.method} {request.raw_path} HTTP/1.1\r\n")
        return self._answers[min(len(self.lines), len(self._answers)) - 1]()


def answer(status: int, **headers: str) -> Callable[[], web.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: web.Response(status=status, headers=named, text="<h1>proxy</h1>", content_type="text/html")


def ready() -> web.Response:
    return web.json_response(INFO)


async def test_a_read_is_tried_once_more() -> None:
    script = Script(answer(502), ready)
    async with serving(script.next) as url, client_of(url) as client:
        assert (await client.server_info()).version == "2.4.1"
        assert client.state.last_error is None
    assert len(script.lines) == 2


async def test_nothing_that_changes_is_tried_twice() -> None:
    script = Script(answer(502))
    async with serving(script.next) as url, client_of(url) as client:
        for call in (client.create_invoice(uuid4(), PLAN), client.mark("x", settled=True)):
            with pytest.raises(BtcpayAway):
                await call
        with pytest.raises(BtcpayAway):
            await client.create_webhook("https://kosmo.example/hook")
    assert len(script.lines) == 3


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (429, "7", 7.0),
        (503, "99999999999999999999", 300.0),
        (503, "Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
    ],
)
async def test_a_wish_to_wait_is_passed_on_and_kept(status: int, said: str, expected: float) -> None:
    script = Script(answer(status, Retry_After=said))
    async with serving(script.next) as url, client_of(url) as client:
        with pytest.raises(BtcpayAway) as caught:
            await client.server_info()
    assert caught.value.retry_after == expected
    assert len(script.lines) == 1


@pytest.mark.parametrize(
    "said",
    [
        "soon",
        "",
        "-5",
        "Thu, 99 Foo 2026 00:00:00 GMT",
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Thu, 01 Jan 2026 00:00:00 +99999999999999999",
    ],
)
async def test_a_senseless_wish_to_wait_is_ignored(said: str) -> None:
    script = Script(answer(503, Retry_After=said), ready)
    async with serving(script.next) as url, client_of(url) as client:
        assert (await client.server_info()).version == "2.4.1"


async def test_redirects_are_told_and_not_followed() -> None:
    script = Script(answer(301, Location="https://elsewhere.example/"))
    async with serving(script.next) as url, client_of(url) as client:
        with pytest.raises(BtcpayAway, match=r"https://elsewhere\.example/"):
            await client.create_invoice(uuid4(), PLAN)
    assert len(script.lines) == 1


@pytest.mark.parametrize(
    "said", [{"detail": "Not Found"}, {"code": "store-not-found", "message": "gone"}, []]
)
async def test_another_404_is_not_an_unknown_invoice(said: object) -> None:
    script = Script(lambda: web.json_response(said, status=404))
    async with serving(script.next) as url, client_of(url) as client:
        with pytest.raises((BtcpayAway, BtcpayRefused)):
            await client.fetch_invoice("x")


async def test_no_request_line_is_longer_than_servers_accept() -> None:
    script = Script(lambda: web.json_response([]))
    async with serving(script.next) as url, client_of(url + "/" + "p" * (499 - len(url))) as client:
        assert await client.find_invoices([uuid4() for _ in range(500)]) == []
    assert len(script.lines) == 4
    assert max(len(line) for line in script.lines) <= 8_192


async def test_one_unreadable_invoice_among_several_calls_spoils_only_itself() -> None:
    orders = [uuid4() for _ in range(300)]

    async def list_some(request: web.Request) -> web.Response:
        wanted = request.query.getall("orderId")
        return web.json_response(
            [
                {**DOCUMENT, "status": status, "metadata": {"orderId": order_id}}
                for order_id, status in (
                    (str(orders[0]), "Paid"),
                    (str(orders[1]), "New"),
                    (str(orders[299]), "Settled"),
                )
                if order_id in wanted
            ]
        )

    async with serving(list_some) as url, client_of(url) as strange:
        with pytest.raises(Garbled) as caught:
            await strange.find_invoices(orders)
    assert caught.value.order_ids == (str(orders[0]),)
    assert {seen.order_id for seen in caught.value.readable} == {str(orders[1]), str(orders[299])}


async def test_what_was_not_asked_for_is_no_answer() -> None:
    """A proxy that drops the query, or another server: its invoices say nothing of ours."""
    found = {**DOCUMENT, "status": "Settled", "metadata": {"orderId": str(uuid4())}}

    async def answer_by_another(request: web.Request) -> web.Response:
        is_list = request.method == "GET" and request.path.endswith("/invoices")
        return web.json_response([found] if is_list else found)

    async with serving(answer_by_another) as url, client_of(url) as client:
        for call in (
            client.find_invoices([uuid4()]),
            client.fetch_invoice("y"),
            client.mark("y", settled=True),
        ):
            with pytest.raises(Garbled, match="asked for"):
                await call
            assert not client.state.reachable
        with pytest.raises(CreationUnknown, match="asked for"):
            await client.create_invoice(uuid4(), PLAN)


async def test_oversized_answers_are_refused() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/info"):
            return web.Response(body=b" " * (MAX_ANSWER_BYTES + 1), content_type="application/json")
        if request.path.endswith("/current"):
            bomb = gzip.compress(b" " * (4 * MAX_ANSWER_BYTES))
            return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2 * MAX_ANSWER_BYTES // 65_536):
            await response.write(b" " * 65_536)
        return response

    async with serving(flood) as url, client_of(url, timeouts=Timeouts(call=10.0)) as client:
        for call in (client.server_info(), client.current_key(), client.fetch_store()):
            with pytest.raises(Garbled, match="more than"):
                await call


@asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[str]:
    """A server that says the same words to everybody and hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(words)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
async def test_what_is_not_an_answer_is_away(words: bytes) -> None:
    async with saying(words) as url, client_of(url) as client:
        with pytest.raises(BtcpayAway):
            await client.server_info()
        with pytest.raises(CreationUnknown):
            await client.create_invoice(uuid4(), PLAN)

"""Requests made to be read in two ways, to last for ever, or to outgrow their place."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from itertools import product
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.paths import API
from tests.attack.raw_http import PATIENCE, connection, drip, exchange, rest, statuses
from tests.web.conftest import HOOK, Service, Starter

NODE = "!a1b2c3d4"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

# Framings that two programs have read differently: what stands behind the head is one's body and the
# other's next request.
AMBIGUOUS = {
    "a length and chunks": b"Content-Length: 4\r\n" + CHUNKED,
    "chunks and a length": CHUNKED + b"Content-Length: 4\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 4\r\n",
    "lengths in a list": b"Content-Length: 0, 0\r\n",
    "a signed length": b"Content-Length: +0\r\n",
    "a negative length": b"Content-Length: -1\r\n",
    "a hexadecimal length": b"Content-Length: 0x0\r\n",
    "a length with a low line": b"Content-Length: 0_0\r\n",
    "a blank before the colon": b"Content-Length : 0\r\n",
    "a folded line": b"X: y\r\n Content-Length: 4\r\n",
    "a line that only ends in CR": b"X: y\rContent-Length: 4\r\n",
    "a NUL": b"X: \x00\r\n",
    "chunks twice": CHUNKED + CHUNKED,
    "chunks before identity": b"Transfer-Encoding: chunked, identity\r\n",
    "chunks by another name": b"Transfer-Encoding: xchunked\r\n",
    "chunks behind a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "chunks with a blank before the colon": b"Transfer-Encoding : chunked\r\n",
}

BAD_CHUNKS = {
    "hexadecimal prefix": b"0x0\r\n\r\n",
    "sign": b"+0\r\n\r\n",
    "negative": b"-1\r\n\r\n",
    "low line": b"0_0\r\n\r\n",
    "blank first": b" 0\r\n\r\n",
    "larger than any number": b"f" * 40 + b"\r\n",
    "longer than told": b"1\r\nxy\r\n0\r\n\r\n",
    "an extension over a bare LF": b"0;a\nb\r\n\r\n",
}


def post(path: str, framing: bytes, then: bytes) -> bytes:
    return f"POST {API}{path} HTTP/1.1\r\nHost: x\r\n".encode() + framing + b"\r\n" + then


@pytest.fixture
async def hasty(start: Starter) -> Service:
    """A service that does not wait for what does not come."""
    return await start(body_seconds=0.15, keepalive_seconds=0.15)


async def nodes_of(service: Service, user: UUID) -> int:
    return len((await service.ask("GET", "/nodes", user=user)).body["items"])


async def test_no_request_hides_behind_another(hasty: Service, user: UUID) -> None:
    """What a proxy takes for a body must not be done as a request of somebody else."""
    assert (await hasty.ask("PUT", f"/nodes/{NODE}", user=user)).status in {200, 201}
    hidden = f"DELETE {API}/nodes/{NODE} HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\n\r\n".encode()
    sent = {name: post(HOOK, framing, b"0\r\n\r\n" + hidden) for name, framing in AMBIGUOUS.items()}
    sent |= {name: post(HOOK, CHUNKED, chunk + hidden) for name, chunk in BAD_CHUNKS.items()}
    answers = dict(
        zip(sent, await asyncio.gather(*(exchange(hasty, raw) for raw in sent.values())), strict=True)
    )
    assert {name: statuses(answer) for name, answer in answers.items()} == {name: [400] for name in sent}
    assert await nodes_of(hasty, user) == 1


async def test_no_connection_becomes_something_else(hasty: Service) -> None:
    """A proxy that sees 101, or a CONNECT agreed to, looks away from all that follows."""
    plain = f"GET {API}/plans HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n".encode()
    upgrades = (plain + f"Upgrade: {name}\r\n\r\n".encode() for name in ("h2c", "websocket", "TLS/1.0"))
    for upgrade in upgrades:
        assert statuses(await exchange(hasty, upgrade)) == [200]
    assert statuses(await exchange(hasty, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n")) == [404]


async def test_a_method_that_is_none_here_does_nothing_and_reflects_nothing(
    service: Service, user: UUID
) -> None:
    sent = {"Cookie": "secret=1", "X-HTTP-Method-Override": "POST", "X-Method-Override": "POST"}
    wrong = product(("TRACE", "PATCH", "PROPFIND", "DELETE"), ("/invoices", HOOK, "/plans", "/subscription"))
    for method, path in wrong:
        answer = await service.ask(method, f"{path}?_method=POST", user=user, headers=sent)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert b"secret" not in answer.raw
    assert not service.simulator.invoices


async def test_a_head_that_drips_or_never_comes_costs_its_connection(start: Starter) -> None:
    """Fails with ``keepalive_timeout`` left out of web/app.py: connections outlive the test's patience."""
    service = await start(keepalive_seconds=0.15)
    begun = f"GET {API}/plans HTTP/1.1\r\nHost: x\r\n".encode()
    again = begun + b"\r\n" + begun
    answers = await asyncio.gather(
        drip(service, b"", b""), drip(service, begun, b"a: b\r\n"), drip(service, again, b"a: b\r\n")
    )
    assert [statuses(answer) for answer in answers] == [[], [], [200]]


async def test_a_body_that_drips_is_given_up_and_answered(start: Starter, user: UUID) -> None:
    """Fails with the timeout of ``read_body`` taken out: no answer within the test's patience."""
    service = await start(body_seconds=0.1)
    who = f"X-User-ID: {user}\r\n".encode()
    sized = who + b"Content-Length: 60000\r\n"
    answers = await asyncio.gather(
        drip(service, post("/invoices", sized, b"{"), b" "),
        drip(service, post("/invoices", who + CHUNKED, b"1\r\n{\r\n"), b"1\r\n \r\n"),
        drip(service, post(HOOK, sized, b"{"), b" "),
        drip(service, post(HOOK, CHUNKED, b"1\r\n{\r\n"), b"1\r\n \r\n"),
        drip(service, post(f"/nodes/{NODE}", sized, b"{").replace(b"POST", b"PUT", 1), b" "),
    )
    assert [statuses(answer) for answer in answers] == [[408]] * 5
    assert not service.simulator.invoices


async def test_a_body_that_nobody_asked_for_is_not_waited_for(service: Service) -> None:
    """Strangers, wrong addresses, and reads: the answer comes at once, and soon the connection ends."""
    sized = b"Content-Length: 10000000\r\n"
    begun = time.monotonic()
    answers = await asyncio.gather(
        drip(service, post("/invoices", sized, b"{"), b" "),
        drip(service, post("/nothing", sized, b"{"), b" "),
        drip(service, post("/plans", CHUNKED, b"1\r\n{\r\n"), b"1\r\n \r\n"),
        drip(service, post("/plans", sized, b"{").replace(b"POST", b"GET", 1), b" "),
    )
    assert [statuses(answer) for answer in answers] == [[401], [404], [405], [200]]
    assert time.monotonic() - begun < PATIENCE / 2


async def test_two_hundred_slow_connections_hold_nobody_up(service: Service, user: UUID) -> None:
    head = post("/invoices", f"X-User-ID: {user}\r\nContent-Length: 60000\r\n".encode(), b"{")
    async with AsyncExitStack() as held:
        for at in range(200):
            _, writer = await held.enter_async_context(connection(service))
            writer.write(head if at % 2 else head[:40])
        for _ in range(20):
            begun = time.monotonic()
            assert (await service.ask("GET", "/subscription", user=uuid4())).status == 200
            assert time.monotonic() - begun < 2


async def test_a_flood_of_pipelined_requests_is_answered_in_turn(hasty: Service) -> None:
    asked = f"GET {API}/plans HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with connection(hasty) as (reader, writer), asyncio.timeout(PATIENCE):
        answers = asyncio.create_task(rest(reader))
        writer.write(asked * 500)
        assert statuses(await answers) == [200] * 500


async def test_heads_are_bounded(service: Service) -> None:
    asked = f"GET {API}/plans HTTP/1.1\r\nHost: x\r\n".encode()
    for headers in (
        b"a: b\r\n" * 200,
        b"a: " + b"b" * 9000 + b"\r\n",
        b"a" * 9000 + b": b\r\n",
        b"Cookie: " + b"a=b;" * 3000 + b"\r\n",
    ):
        assert statuses(await exchange(service, asked + headers + b"\r\n")) == [400], headers[:20]


CONFUSING = [
    b'{"a":' * 10_000,
    b'{"plan_type":' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"plan_type": {"a": 1, "a": 2}}',
    b'{"plan_type": "wanderer", "plan\\u005ftype": "sanctuary"}',
    b'{"plan_type": "wanderer"}{"plan_type": "sanctuary"}',
    b'{"plan_type": "wanderer", "redirect_url": 1e999999}',
    b'{"plan_type": "wanderer"}\x00',
    b'\xef\xbb\xbf{"plan_type": "wanderer"}',
    '{"plan_type": "wanderer"}'.encode("utf-16"),
    '{"plan_type": "wanderer"}'.encode("utf-32"),
    b"+AHsAIgBwAGwAYQBu-",
    b"plan_type=wanderer",
    b'{"__proto__": {"plan_type": "wanderer"}}',
]


async def test_a_body_that_could_be_read_in_two_ways_is_refused(service: Service, user: UUID) -> None:
    said = {"Content-Type": "application/json; charset=utf-16"}
    for body in CONFUSING:
        label = body.replace(b"plan_type", b"label").replace(b"plan\\u005ftype", b"l\\u0061bel")
        for answer in (
            await service.ask("POST", "/invoices", user=user, data=body, headers=said),
            await service.ask("PUT", f"/nodes/{NODE}", user=user, data=label, headers=said),
        ):
            assert answer.status in {400, 422}, body[:80]
            assert answer.code in {"malformed_body", "invalid", "unknown_plan", "invalid_label"}
    assert not service.simulator.invoices
    assert await nodes_of(service, user) == 0


async def test_nothing_is_unpacked(service: Service, user: UUID) -> None:
    """Whatever the packing is called and wherever it is said; tests/web has gzip, deflate and br."""
    body = json.dumps({"plan_type": "wanderer"}).encode()
    for encoding in ("zstd", "compress", "x-gzip", "GZIP", "identity, gzip", "*", "zlib\t"):
        answer = await service.ask(
            "POST", "/invoices", user=user, data=body, headers={"Content-Encoding": encoding}
        )
        assert (answer.status, answer.code) == (415, "unsupported_encoding")
    assert not service.simulator.invoices

"""One POST to an endpoint of any kind: bounded, signed, and to allowed addresses only."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.hooks.addresses import refusal, require_usable
from kosmo_billing_daemon.hooks.client import HookClient
from kosmo_billing_daemon.hooks.signature import new_secret, signed_headers
from tests.support.endpoint import Endpoint, answer, endpoint, hang

ID = {"webhook-id": "one"}


@pytest.fixture
async def target() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[HookClient]:
    async with HookClient(within=0.5) as made:
        yield made


async def test_receivers_verify_what_is_sent_with_their_own_library(
    target: Endpoint, client: HookClient
) -> None:
    secret, body = new_secret(), '{"text": "Grüße"}'.encode()
    headers = signed_headers(secret, "0f3c/12-ab", int(time.time()), body) | {
        "Content-Type": "application/json"
    }
    answered = await client.send(target.url, body, headers, allow_private=True)
    assert answered.is_accepted, answered
    target.verify(secret)
    with pytest.raises(Exception, match="signature"):
        target.verify(new_secret())


@pytest.mark.parametrize(
    ("address", "may", "may_private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True, True),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("172.31.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("::1", False, True),
        ("fd00::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::7f00:1", False, True),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a00:1::1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),  # noqa: S104  an address to refuse
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("255.255.255.255", False, False),
        ("240.0.0.1", False, False),
        ("192.0.2.1", False, False),
        ("2001:db8::1", False, False),
    ],
)
def test_addresses_are_public_or_private_or_for_nobody(address: str, may: bool, may_private: bool) -> None:
    assert (refusal(address, allow_private=False) is None) is may
    assert (refusal(address, allow_private=True) is None) is may_private


async def test_a_name_is_judged_by_the_address_of_each_connection(
    target: Endpoint, client: HookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(target.url.rpartition(":")[2].partition("/")[0])
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked: list[str] = []

    def names_server(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", names_server)  # a name server that rebinds
    first = await client.send(f"http://rebind.example:{port}/", b"", ID, allow_private=False)
    second = await client.send(f"http://rebind.example:{port}/", b"", ID, allow_private=False)
    assert not first.is_accepted
    assert "private address" not in first.words
    assert "127.0.0.1 is a private address" in second.words
    assert asked == ["rebind.example"] * 2
    assert not target.received


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "0x7f000001", "2130706433"])
async def test_no_spelling_of_loopback_is_reached(target: Endpoint, client: HookClient, host: str) -> None:
    answered = await client.send(target.url.replace("127.0.0.1", host), b"", ID, allow_private=False)
    assert answered.status is None
    assert not target.received


async def test_a_redirect_is_a_failure_and_is_not_followed(target: Endpoint, client: HookClient) -> None:
    target.reply = lambda _: answer(307, Location=target.url)
    answered = await client.send(target.url, b"", ID, allow_private=True)
    assert not answered.is_accepted
    assert "redirects are not followed" in answered.words
    assert len(target.received) == 1


async def test_an_endpoint_that_hangs_or_drips_costs_no_more_than_its_time(
    target: Endpoint, client: HookClient
) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.1)

    for reply in (hang, drip):
        target.reply = reply
        began = time.monotonic()
        answered = await client.send(target.url, b"", ID, allow_private=True)
        assert not answered.is_accepted
        assert time.monotonic() - began < 2


async def test_no_more_of_an_answer_is_read_than_is_shown(target: Endpoint, client: HookClient) -> None:
    target.reply = lambda _: answer(200, "\x1b[31mlong\n" * 1_000_000)
    answered = await client.send(target.url, b"", ID, allow_private=True)
    assert answered.is_accepted
    assert len(answered.words) < 300
    assert answered.words.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "http://example.org/",
        "https://user:secret@example.org/",
        "https:///hook",
        "https://example.org:port/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://example.org/a b",
        "https://example.org/" + "a" * 2000,
        "example.org",
    ],
)
def test_what_is_no_endpoint_is_refused_when_it_is_added(url: str) -> None:
    with pytest.raises(Invalid):
        require_usable(url, allow_private=False)

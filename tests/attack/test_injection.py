"""Texts that mean something where they end up: in a log, an address, a topic, a page of figures."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.paths import API
from tests.support.daemon import KEY, WEBHOOK_SECRET
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around
from tests.web.conftest import Service

HOSTILE = "\x1b[2J\x1b]0;owned\x07\n2026-01-01T00:00:00Z ERROR forged line\r\u2028\u202ex=1 \x00\x9b31m"
TYPED = "".join(character for character in HOSTILE if character >= " ")  # what a client lets into a header
BEGINNING = re.compile(r"\S+ +(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|\s|<\d>")


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, database_url, broker) as made:
        yield made


async def attack(world: World, url: str, user: UUID) -> None:
    """Say the hostile text wherever a text can be said, known and unknown, signed and not."""
    known = {"X-User-ID": str(user)}
    told = quote(HOSTILE, safe="")
    hook = json.dumps(
        {
            "type": f"Invoice{HOSTILE}",
            "deliveryId": HOSTILE,
            "invoiceId": HOSTILE,
            "storeId": HOSTILE,
            "metadata": {"orderId": HOSTILE},
        }
    ).encode()
    signed = {"BTCPay-Sig": sign(hook, WEBHOOK_SECRET.encode())}
    requests: list[tuple[str, str, dict[str, str], bytes]] = [
        ("GET", f"{API}/{told}?{told}={told}", {}, b""),
        ("GET", f"{API}/invoices/{told}", known, b""),
        ("GET", f"{API}/invoices?cursor={told}&status={told}", known, b""),
        ("GET", f"{API}/usage?from={told}", known, b""),
        ("PUT", f"{API}/nodes/{told}", known, b""),
        ("PUT", f"{API}/nodes/!a1b2c3d4", known, json.dumps({"label": HOSTILE}).encode()),
        ("POST", f"{API}/invoices", known, json.dumps({"plan_type": HOSTILE}).encode()),
        ("POST", f"{API}/invoices", known, json.dumps({HOSTILE: HOSTILE}).encode()),
        ("POST", f"{API}/invoices", known | {"Idempotency-Key": TYPED}, b'{"plan_type": "wanderer"}'),
        ("GET", f"{API}/subscription", {"X-User-ID": TYPED}, b""),
        ("GET", f"{API}/plans", {"X-Request-ID": TYPED, "User-Agent": TYPED, "Origin": TYPED}, b""),
        ("POST", f"{API}/webhooks/btcpay", {"BTCPay-Sig": TYPED}, hook),
        ("POST", f"{API}/webhooks/btcpay", signed, hook),
    ]
    for method, path, headers, body in requests:
        async with world.http.request(method, url + path, headers=headers, data=body or None) as answer:
            assert answer.status < 500, (path, answer.status)
            assert not any(character in str(answer.headers) for character in "\x1b\x07\x9b")


@pytest.mark.timeout(120)
async def test_no_text_steers_the_log_and_figures_name_nobody(world: World) -> None:
    """Every line of the log is one of the daemon's own, and printable throughout, at its most talkative."""
    daemon = await world.daemon(LOG_LEVEL="debug")
    user = uuid4()
    invoice = await world.order(daemon, user)
    await attack(world, daemon.url, user)
    await world.pay(invoice)
    await world.until_published(user)
    handled = "SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL"

    async def settled() -> bool:
        return bool(await world.value(handled) == 0)

    await until(settled, "the hostile delivery is done with")
    lines = daemon.log.split("\n")
    assert len(lines) > 20
    for line in lines:
        assert line == "" or BEGINNING.match(line), line
        assert line.isprintable() or line == "", line
    for page in ("/metrics", "/health/ready", "/health/live"):
        async with world.http.get(daemon.url + page) as answer:
            told = (await answer.text()) + str(answer.headers)
        for secret in (str(user), invoice, "forged", "a1b2c3d4", WEBHOOK_SECRET, KEY, world.database_url):
            assert secret not in told, (page, secret)


async def test_nobody_makes_the_daemon_ask_an_address(service: Service, user: UUID) -> None:
    """Where a customer is sent is told to BTCPay and never asked by us: no SSRF by ``redirect_url``."""
    asked: list[str] = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", note)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        inside = f"http://127.0.0.1:{runner.addresses[0][1]}/thanks"
        invoice = (await service.buy(user, "wanderer", redirect_url=inside)).body["invoice_id"]
        await service.ask("GET", f"/invoices/{invoice}", user=user)
        forwarded = {"X-Forwarded-Host": inside, "X-Forwarded-Proto": "x", "Host": "evil.example"}
        answer = await service.ask("GET", "/invoices", user=user, headers=forwarded)
        assert "evil.example" not in answer.raw.decode() + str(answer.headers)
    finally:
        await runner.cleanup()
    assert asked == []


async def test_no_id_reaches_another_path_or_topic(service: Service, user: UUID) -> None:
    for node in ("+", "#", "!a1b2c3d4/+", "!a1b2c3d4/../../invoices", "../invoices", "!a1b2c3d4#", "$SYS"):
        answer = await service.ask("PUT", f"/nodes/{quote(node, safe='')}", user=user)
        assert answer.status in {404, 422}, node
    for invoice in ("../subscription", "../../../../health/ready", "..%2f..", "x?status=Settled", "x;y", "+"):
        answer = await service.ask("GET", f"/invoices/{quote(invoice, safe='')}", user=user)
        assert (answer.status, answer.code) == (404, "invoice_not_found"), invoice
    assert (await service.ask("GET", "/nodes", user=user)).body["items"] == []

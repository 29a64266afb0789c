"""The demo's gateway over HTTP: it allows or refuses as the gate says, and counts what passed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from kosmo_billing_daemon.contract.payloads import Scope, Standing
from kosmo_billing_daemon.demo.gateway import MOST_TEXT, REMEMBERED, Gateway
from tests.contract.schemas import errors
from tests.gate.stand_in import NODE, Daemon, at, daemon, document
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


class Customer:
    """Somebody with an HTTP client."""

    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway) -> None:
        self.http = http
        self.gateway = gateway

    async def send(
        self, user_id: UUID, node_id: str = NODE, text: str = "hello"
    ) -> tuple[int, dict[str, Any]]:
        body = {"user_id": str(user_id), "node_id": node_id, "text": text}
        async with self.http.post(f"{self.gateway.url}/send", json=body) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, path: str) -> Any:
        async with self.http.get(f"{self.gateway.url}/{path}") as response:
            assert response.status == 200
            return await response.json()

    async def until_open(self, user_id: UUID) -> None:
        await eventually(lambda: bool(self.gateway.gate.check(user_id, NODE)), "the document")


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    async with Mosquitto() as broker:
        yield broker


@pytest.fixture
async def office(mosquitto: Mosquitto) -> AsyncIterator[Daemon]:
    async with daemon(mosquitto) as one:
        yield one


@pytest.fixture
async def customer(mosquitto: Mosquitto, office: Daemon, tmp_path: Path) -> AsyncIterator[Customer]:
    del office  # speaks first
    async with Gateway(at(mosquitto), tmp_path / "gate.db") as gateway, aiohttp.ClientSession() as http:
        await gateway.gate.ready(10)
        yield Customer(http, gateway)


async def test_a_message_passes_and_is_reported(customer: Customer, office: Daemon) -> None:
    user_id = uuid4()
    await office.publish(document(user_id, messages_limit=2))
    await customer.until_open(user_id)
    status, body = await customer.send(user_id)
    assert (status, body["allowed"], body["reason"], body["remaining"]) == (200, True, "ok", 1)
    assert (await customer.send(user_id))[1]["remaining"] == 0
    await eventually(lambda: office.ledger.used(user_id) == 2, "the reports")
    assert (user_id, body["message_id"]) in office.ledger.counted


async def test_the_message_after_the_last_is_refused_with_the_reason(
    customer: Customer, office: Daemon
) -> None:
    user_id = uuid4()
    await office.publish(document(user_id, messages_limit=1))
    await customer.until_open(user_id)
    await customer.send(user_id)
    status, body = await customer.send(user_id)
    assert status == 403
    assert (body["allowed"], body["reason"], body["remaining"]) == (False, "quota_exhausted", 0)
    assert (body["code"], body["status"], body["message_id"]) == ("quota_exhausted", 403, None)
    assert errors("Decision", body) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": Standing.EXPIRED}, "expired"),
        ({"valid_until": datetime.now(UTC) - timedelta(minutes=1)}, "expired"),
        ({"status": Standing.REVOKED}, "revoked"),
        ({"status": Standing.NONE}, "no_plan"),
        ({"scope": Scope.WHITELIST, "allowed_nodes": ("!00000001",)}, "node_not_allowed"),
    ],
)
async def test_every_refusal_names_its_reason(
    customer: Customer, office: Daemon, changes: dict[str, Any], reason: str
) -> None:
    user_id = uuid4()
    await office.publish(document(user_id, **changes))
    known = customer.gateway.gate
    await eventually(lambda: known.check(user_id, NODE).reason != "unknown_user", "the document")
    status, body = await customer.send(user_id)
    assert (status, body["reason"]) == (403, reason)


async def test_who_never_bought_is_unknown(customer: Customer) -> None:
    status, body = await customer.send(uuid4())
    assert (status, body["reason"]) == (403, "unknown_user")


async def test_an_unlimited_plan_has_no_number_of_messages_left(customer: Customer, office: Daemon) -> None:
    user_id = uuid4()
    await office.publish(document(user_id, messages_limit=None))
    await customer.until_open(user_id)
    status, body = await customer.send(user_id)
    assert (status, body["remaining"]) == (200, None)


async def test_parallel_requests_never_share_the_last_messages(customer: Customer, office: Daemon) -> None:
    user_id = uuid4()
    await office.publish(document(user_id, messages_limit=10))
    await customer.until_open(user_id)
    answers = await asyncio.gather(*(customer.send(user_id) for _ in range(30)))
    assert sorted(status for status, _ in answers) == [200] * 10 + [403] * 20


async def test_json_is_read_as_curl_sends_it(customer: Customer, office: Daemon) -> None:
    user_id = uuid4()
    await office.publish(document(user_id))
    await customer.until_open(user_id)
    body = f'{{"user_id": "{user_id}", "node_id": "{NODE.upper()}", "text": "hello mesh"}}'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with customer.http.post(f"{customer.gateway.url}/send", data=body, headers=headers) as response:
        assert response.status == 200
    (kept,) = (await customer.get("messages"))["items"]
    assert (kept["node_id"], kept["text"]) == (NODE, "hello mesh")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"user_id": "somebody"}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"node_id": "a1b2c3d4"}, "node_id"),
        ({"node_id": ""}, "node_id"),
        ({"node_id": "!a1b2c3d4e"}, "node_id"),
        ({"text": ""}, "text"),
        ({"text": 7}, "text"),
        ({"text": "x" * (MOST_TEXT + 1)}, "text"),
        ({"text": "ü" * (MOST_TEXT // 2 + 1)}, "text"),
        ({"text": "\ud800"}, "text"),
    ],
)
async def test_a_wrong_field_is_422_and_named(
    customer: Customer, changes: dict[str, Any], field: str
) -> None:
    body = {"user_id": str(uuid4()), "node_id": NODE, "text": "hello", **changes}
    async with customer.http.post(f"{customer.gateway.url}/send", json=body) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["errors"][0]["field"]) == (422, field)
    assert (await customer.get("messages"))["items"] == []


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"hello", 400), (b"[]", 400), (b"\xff", 400), (b"x" * 5000, 413)]
)
async def test_what_is_no_message_is_a_clear_4xx(customer: Customer, body: bytes, status: int) -> None:
    async with customer.http.post(f"{customer.gateway.url}/send", data=body) as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"


async def test_the_status_is_that_of_the_gate(customer: Customer) -> None:
    status = await customer.get("status")
    assert (status["connected"], status["complete"], status["unacknowledged"]) == (True, True, 0)
    assert status["oldest_unacknowledged"] is None


async def test_the_last_messages_are_kept_newest_first(customer: Customer) -> None:
    user_id = uuid4()
    for number in range(REMEMBERED + 5):
        await customer.send(user_id, text=f"number {number}")
    items = (await customer.get("messages"))["items"]
    assert len(items) == REMEMBERED
    assert [items[0]["text"], items[-1]["text"]] == [f"number {REMEMBERED + 4}", "number 5"]
    assert (items[0]["allowed"], items[0]["reason"]) == (False, "unknown_user")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:9999", "http://localhost:5173", "http://[::1]:80"])
async def test_pages_of_this_machine_may_ask(customer: Customer, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with customer.http.options(f"{customer.gateway.url}/send", headers=headers) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["Access-Control-Allow-Headers"] == "Content-Type"
    async with customer.http.get(f"{customer.gateway.url}/status", headers={"Origin": origin}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://["]
)
async def test_pages_from_elsewhere_may_not(customer: Customer, origin: str) -> None:
    for method, path in (("GET", "status"), ("POST", "send"), ("OPTIONS", "send")):
        url = f"{customer.gateway.url}/{path}"
        async with customer.http.request(method, url, headers={"Origin": origin}) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_what_was_sent_without_a_broker_is_reported_later(
    customer: Customer, office: Daemon, mosquitto: Mosquitto
) -> None:
    user_id = uuid4()
    await office.publish(document(user_id))
    await customer.until_open(user_id)
    mosquitto.kill()
    status, _ = await customer.send(user_id)
    assert status == 200
    await mosquitto.start()
    async with daemon(mosquitto, office.ledger):
        await eventually(lambda: office.ledger.used(user_id) == 1, "the report")

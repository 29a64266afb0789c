"""The demo as a visitor meets it: buy, pay, send until the plan is used up, on either broker."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.stage import DemoStage
from tests.support.world import until


@dataclass
class Visitor:
    """Somebody at the demo, as one user."""

    stage: DemoStage
    http: aiohttp.ClientSession
    user_id: str

    async def order(self, plan: str) -> str:
        async with self.http.post(
            f"{self.stage.urls['api']}{API}/invoices",
            json={"plan_type": plan},
            headers={"X-User-ID": self.user_id},
        ) as response:
            assert response.status == 201
            return str((await response.json())["invoice_id"])

    async def pay(self, invoice_id: str) -> None:
        url = f"{self.stage.urls['btcpay']}/simulate/invoices/{invoice_id}"
        async with self.http.post(url, json={"action": "pay", "method": "BTC-LN"}) as response:
            assert response.status == 200

    async def send(self) -> dict[str, Any]:
        body = {"user_id": self.user_id, "node_id": "!a1b2c3d4", "text": "hello mesh"}
        async with self.http.post(f"{self.stage.urls['gateway']}/send", json=body) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            assert answer["allowed"] is (response.status == 200)
            return answer

    async def used(self) -> int:
        url = f"{self.stage.urls['api']}{API}/subscription"
        async with self.http.get(url, headers={"X-User-ID": self.user_id}) as response:
            return int((await response.json())["messages_used"])


@pytest.fixture(params=["mosquitto", "amqtt"])
async def visitor(request: pytest.FixtureRequest) -> AsyncIterator[Visitor]:
    async with DemoStage(broker=request.param) as stage, aiohttp.ClientSession() as http:
        yield Visitor(stage, http, str(uuid4()))


async def enter_console(visitor: Visitor) -> str:
    """Log in by the link that the demo prints, and return the page that lists users."""
    address = visitor.stage.urls["operator"]
    page, _, token = address.partition("?token=")
    base = page.removesuffix("/login")
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, headers={"Origin": base.removesuffix("/admin")}) as http:
        async with http.get(address) as shown:
            assert (shown.status, "Log in" in await shown.text()) == (200, True)
        async with http.post(page, data={"token": token}) as entered:
            assert (entered.status, "Overview" in await entered.text()) == (200, True)
        async with http.get(f"{base}/users?state=active") as listed:
            return await listed.text()


async def test_a_plan_is_bought_used_up_and_bought_again(visitor: Visitor) -> None:
    assert (await visitor.send())["reason"] == "unknown_user"
    await visitor.pay(await visitor.order("wanderer"))

    async def passes() -> bool:
        return bool((await visitor.send())["allowed"])

    await until(passes, "the plan at the gateway")
    for left in range(48, -1, -1):
        assert (await visitor.send())["remaining"] == left
    assert (await visitor.send())["reason"] == "quota_exhausted"

    async def is_counted() -> bool:
        return await visitor.used() == 50

    await until(is_counted, "every message counted")
    assert visitor.user_id in await enter_console(visitor)
    await visitor.pay(await visitor.order("wanderer"))
    await until(passes, "the second plan at the gateway")

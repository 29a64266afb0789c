"""``kosmo-billing demo``: one command, the README's journey, and nothing left behind."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.children import is_alive, temporary_directory
from kosmo_billing_daemon.link import Broker, Protocol, connect
from tests.support.daemon import command, environment
from tests.support.observer import TOPICS
from tests.support.processes import eventually, with_descendants

USER = "11111111-1111-1111-1111-111111111111"


class Demo:
    """A running demo and what it announced."""

    def __init__(self, process: "subprocess.Popen[bytes]", urls: dict[str, str], seconds: float) -> None:
        self.process = process
        self.urls = urls
        self.seconds = seconds
        self.family = with_descendants(process.pid)

    async def call(self, method: str, url: str, body: object = None) -> Any:
        async with (
            aiohttp.ClientSession(headers={"X-User-ID": USER}) as session,
            session.request(method, url, json=body) as response,
        ):
            assert response.status in {200, 201}, await response.text()
            return await response.json()

    async def buy(self) -> None:
        """The journey of the README."""
        order = {"plan_type": "wanderer", "redirect_url": "https://kosmoconnect.local/thank-you"}
        invoice = await self.call("POST", f"{self.urls['api']}{API}/invoices", order)
        assert (invoice["amount"], invoice["currency"]) == (5.0, "USD")
        paid = {"action": "pay", "method": "BTC-LN"}
        await self.call("POST", f"{self.urls['btcpay']}/simulate/invoices/{invoice['invoice_id']}", paid)

    async def plan(self) -> str:
        shown = await self.call("GET", f"{self.urls['api']}{API}/subscription")
        return str(shown["plan_type"])

    async def document(self, protocol: Protocol = Protocol.V5) -> dict[str, Any]:
        """What a subscriber that comes now is given."""
        url = urlsplit(self.urls["mqtt"])
        assert url.hostname is not None
        assert url.port is not None
        broker = Broker(host=url.hostname, port=url.port, client_id="late", clean=True, protocol=protocol)
        async with connect(broker) as link, asyncio.timeout(10):
            await link.subscribe([TOPICS.entitlements_filter])
            while True:
                for message in await link.receive():
                    link.acknowledge(message)
                    document: dict[str, Any] = json.loads(message.payload)
                    if document["user_id"] == USER and document["status"] == "active":
                        return document

    async def cases(self) -> dict[str, int]:
        database = await asyncpg.connect(self.urls["database"])
        found = await database.fetch(
            "SELECT kind, count(*) FROM attention_cases WHERE closed_at IS NULL GROUP BY 1"
        )
        await database.close()
        return {row["kind"]: row["count"] for row in found}

    async def stopped(self) -> int:
        """Press Ctrl-C and see everything go."""
        self.process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(self.process.wait, 30)
        await self.until_gone()
        return code

    async def until_gone(self) -> None:
        """Wait until no process of it is left."""
        await eventually(lambda: not any(map(is_alive, self.family)), f"the end of {self.family}")


@contextlib.asynccontextmanager
async def playing(*options: str) -> AsyncIterator[Demo]:
    """A demo that is ready; ended with all its children."""
    began = time.monotonic()
    arguments = command("demo", "--json", "--port", "0", *options)
    with subprocess.Popen(  # noqa: ASYNC220, S603  our own words; it is only started here
        arguments, stdout=subprocess.PIPE, env=environment()
    ) as process:
        try:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            yield Demo(process, json.loads(line), time.monotonic() - began)
        finally:
            if process.poll() is None:
                process.kill()


async def test_a_data_directory_is_kept_from_run_to_run_and_nothing_else_is_left() -> None:
    """The journey of the README, ended by Ctrl-C; then on what it left, with cases, ended by kill -9."""
    with temporary_directory("kosmo-demo-test-") as directory:
        kept = str(directory / "kept")
        async with playing("--data-dir", kept) as demo:
            print(f"\nready after {demo.seconds:.1f} s")
            assert set(demo.urls) >= {"api", "mqtt", "btcpay", "database"}
            assert len(demo.family) > 3
            await demo.buy()
            first = await demo.document()
            assert first["plan_type"] == "wanderer"
            assert await demo.stopped() == 0
            assert demo.process.stdout is not None
            assert demo.process.stdout.read() == b""
        async with playing("--data-dir", kept, "--cases") as demo:
            assert await demo.cases() == {
                "partial_payment": 3, "overpaid": 2, "paid_invalid": 1, "late_payment": 1, "paid_twice": 1,
                "unknown_order": 1, "negative_balance": 1,
            }  # fmt: skip
            assert await demo.plan() == "wanderer"
            again = await demo.document()
            assert again["subscription_id"] == first["subscription_id"]
            assert again["version"] >= first["version"]
            demo.process.kill()
            demo.process.wait(10)
            await demo.until_gone()


async def test_without_mosquitto_and_a_directory_the_same_journey() -> None:
    async with playing("--broker", "amqtt") as demo:
        await demo.buy()
        assert (await demo.document(Protocol.V311))["plan_type"] == "wanderer"
        assert await demo.plan() == "wanderer"
        assert await demo.stopped() == 0


async def test_a_port_in_use_is_reported_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *command("demo", "--json", "--port", port, "--data-dir", str(tmp_path / "kept")),
            env=environment(),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 69
    assert said.decode().startswith(f"kosmo-billing: cannot listen on 127.0.0.1 port {port}")
    assert "Traceback" not in said.decode()
    assert not (tmp_path / "kept").exists()

"""Front ends and gateways that outlive the daemon: a front end asks again until it is answered."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from kosmo_billing_daemon.contract.lease_payloads import LeaseRequest
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.link import Broker, Link, connect
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.crash.audit import LOST
from tests.crash.process import CrashingDaemon
from tests.support import usage
from tests.support.observer import TOPICS
from tests.support.world import DEADLINE, World


async def order(world: World, daemon: CrashingDaemon, user_id: UUID) -> str:
    """Open an invoice under a key of its own; returns BTCPay's id of it."""
    key = {"Idempotency-Key": str(uuid4())}
    return str((await _ask(world, f"{daemon.url}{API}/invoices", user_id, key))["invoice_id"])


async def show(world: World, daemon: CrashingDaemon, user_id: UUID, invoice_id: str) -> None:
    shown = await _ask(world, f"{daemon.url}{API}/invoices/{invoice_id}", user_id)
    assert shown["status"] == "new", shown


async def _ask(world: World, url: str, user_id: UUID, key: dict[str, str] | None = None) -> dict[str, Any]:
    """Order under a key, or without one look."""
    headers = {"X-User-ID": str(user_id), **(key or {})}
    body = {"plan_type": "wanderer"} if key else None
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                async with world.http.request(
                    "POST" if key else "GET", url, json=body, headers=headers
                ) as response:
                    told: dict[str, Any] = await response.json()
                if response.status < 300:
                    return told
                assert response.status == 503, told
            except aiohttp.ClientError:  # it died; the next one answers
                await asyncio.sleep(0.05)


async def lease(world: World, user_id: UUID) -> UUID:
    """Ask for a lease until one is granted, always by the same question, as a strict gate does."""
    reporter = _reporter(user_id)
    question = LeaseRequest(request_id=f"lease-{user_id}", user_id=user_id, want=10).encode()
    async with asyncio.timeout(DEADLINE), connect(_broker(world, reporter)) as link:
        await link.subscribe([TOPICS.lease_grant(reporter)])
        while True:
            await link.publish(TOPICS.lease(reporter), question)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for message in await link.receive():
                        link.acknowledge(message)
                        return UUID(json.loads(message.payload)["lease_id"])


async def report(
    world: World,
    user_id: UUID,
    *ranges: tuple[int, int],
    spoil: bool = False,
    under: Mapping[int, UUID] | None = None,
) -> None:
    """Report the messages of each range once, and wait until each report is answered.

    The broker took it, so nobody may have to say it again. ``spoil`` sends something unreadable in between;
    ``under`` names the leases of ranges by their place.
    """
    reporter = _reporter(user_id)
    leases = under or {}
    payloads = []
    for number, (first, last) in enumerate(ranges):
        events = usage.messages(user_id, first, last, utc_now())
        if number in leases:
            events = [event | {"lease_id": str(leases[number])} for event in events]
        payloads.append(usage.payload(events, str(number)))
    if spoil:
        payloads.insert(1, b"{")
    waiting = {str(number) for number in range(len(ranges))}
    async with connect(_broker(world, reporter)) as link:
        await link.subscribe([TOPICS.usage_ack(reporter)])
        for payload in payloads:
            await link.publish(TOPICS.usage(reporter), payload)
        try:
            async with asyncio.timeout(DEADLINE):
                await _until_answered(link, waiting)
        except TimeoutError:
            raise AssertionError(f"{user_id}: {LOST}: reports {waiting} were not answered") from None


async def _until_answered(link: Link, waiting: set[str]) -> None:
    while waiting:
        for message in await link.receive():
            link.acknowledge(message)
            waiting.discard(json.loads(message.payload)["report_id"])


def _reporter(user_id: UUID) -> str:
    return f"gateway-{user_id.hex}"


def _broker(world: World, client_id: str) -> Broker:
    return Broker(host=world.broker.host, port=world.broker.port, client_id=client_id, clean=True)

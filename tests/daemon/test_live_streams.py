"""Live streams of real daemons: who pays sees it at once, on whichever daemon, and stopping keeps nobody."""

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import aiohttp

from kosmo_billing_daemon.contract.paths import API
from tests.support.daemon import DaemonProcess
from tests.support.world import DEADLINE, World
from tests.web.issuer import AUDIENCE, ISSUER, OTHER_RSA_KEY, RSA_KEY, claims, issuing, jwk, signed


async def listen(
    stack: AsyncExitStack, world: World, daemon: DaemonProcess, **headers: str
) -> aiohttp.ClientResponse:
    response = await stack.enter_async_context(
        world.http.get(f"{daemon.url}{API}/subscription/events", headers=headers)
    )
    assert response.status == 200
    return response


async def document(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while line := await stream.content.readline():
            if line.startswith(b"data: "):
                told: dict[str, Any] = json.loads(line[6:])
                return told
    raise AssertionError("the stream ended")


async def test_a_purchase_is_heard_on_every_daemon_and_stopping_ends_the_streams(world: World) -> None:
    leader = await world.daemon("leader")
    standby = await world.daemon("standby")
    user = uuid4()
    async with AsyncExitStack() as stack:
        streams = [
            await listen(stack, world, daemon, **{"X-User-ID": str(user)}) for daemon in (leader, standby)
        ]
        assert [(await document(stream))["status"] for stream in streams] == ["none", "none"]
        await world.buy(standby, user, "guardian")
        heard = [await document(stream) for stream in streams]
        assert [told["status"] for told in heard] == ["active", "active"]
        assert heard[0]["version"] == heard[1]["version"]
        async with world.sql() as connection:
            await connection.execute("UPDATE subscriptions SET messages_used = 400 WHERE user_id = $1", user)
        assert [(await document(stream))["quota_state"] for stream in streams] == ["warning", "warning"]
        begun = time.monotonic()
        for daemon, stream in ((standby, streams[1]), (leader, streams[0])):
            daemon.send(signal.SIGTERM)
            rest = await stream.content.read()
            assert rest.endswith(b"retry: 1000\n\n")
            assert await daemon.ended() == 0
        assert time.monotonic() - begun < DEADLINE / 2


async def test_tokens_of_the_issuer_name_users_in_the_whole_daemon(world: World) -> None:
    async with issuing(jwk(RSA_KEY, "one")) as issuer:
        daemon = await world.daemon(
            AUTH_MODE="jwt",
            JWT_JWKS_URL=issuer.url,
            JWT_ALGORITHMS="RS256",
            JWT_ISSUER=ISSUER,
            JWT_AUDIENCE=AUDIENCE,
        )
        user = uuid4()
        async with world.http.post(
            f"{daemon.url}{API}/invoices",
            json={"plan_type": "wanderer"},
            headers={"Authorization": f"Bearer {signed(claims(user))}", "X-User-ID": str(uuid4())},
        ) as answer:
            assert answer.status == 201
            await world.pay((await answer.json())["invoice_id"])
        await world.until_published(user)
        forged = signed(claims(user), OTHER_RSA_KEY)
        for headers in ({"Authorization": f"Bearer {forged}"}, {"X-User-ID": str(user)}):
            async with world.http.get(f"{daemon.url}{API}/subscription", headers=headers) as answer:
                assert answer.status == 401

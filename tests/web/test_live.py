"""The live stream of what a user may do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.streams import EntitlementStreams
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.quotes import quoting
from tests.web.conftest import Service, Starter

DEADLINE = 10.0

SANCTUARY = "'sanctuary', 50, 'USD', '30 days', NULL, 'any_node', '{}'"
GRANT = quoting(
    SANCTUARY,
    """
INSERT INTO subscriptions (id, user_id, quote_id, source, status, valid_from, valid_until, carried_rule,
    carried_time, carried_messages)
SELECT gen_random_uuid(), user_id, :quote, 'grant', 'active', now(),
    now() + interval '30 days', 'fresh', '0', 0 FROM unnest($1::uuid[]) AS u (user_id)
""",
)


@dataclass
class Stream:
    """An open stream, read block by block."""

    response: aiohttp.ClientResponse

    async def block(self) -> dict[str, str]:
        """The next block: fields by name, a comment under the empty name; empty at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE):
            while line := (await self.response.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        return fields

    async def document(self) -> dict[str, Any]:
        """The next document; beats and hints before it are passed over."""
        async with asyncio.timeout(DEADLINE):
            while "data" not in (fields := await self.block()):
                assert fields, "the stream ended"
        assert fields["event"] == "entitlement"
        document: dict[str, Any] = json.loads(fields["data"])
        assert fields["id"] == str(document["version"])
        return document


@asynccontextmanager
async def watching(service: Service, user: UUID, **headers: str) -> AsyncIterator[Stream]:
    async with service.session.get(
        f"{service.url}{API}/subscription/events", headers={"X-User-ID": str(user), **headers}
    ) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response)


async def until(fact: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            holds = fact()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


async def test_the_document_comes_at_once_and_after_each_change(service: Service, user: UUID) -> None:
    async with watching(service, user) as stream:
        assert (await stream.block()) == {"retry": "3000"}
        first = await stream.document()
        assert (first["version"], first["status"]) == (0, "none")
        await service.subscribe(user, "guardian")
        bought = await stream.document()
        assert (bought["status"], bought["plan_type"]) == ("active", "guardian")
        await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json={})
        listed = await stream.document()
        assert listed["allowed_nodes"] == ["!a1b2c3d4"]
        assert listed["version"] > bought["version"]
    shown = (await service.ask("GET", "/subscription", user=user)).body
    assert {**shown, "issued_at": 0} == {**listed, "issued_at": 0}


async def test_others_hear_nothing_of_it(start: Starter, user: UUID) -> None:
    service = await start(beat=0.1)
    async with watching(service, uuid4()) as stream:
        await stream.document()
        await service.subscribe(user, "wanderer")
        for _ in range(3):
            assert await stream.block() == {"": ""}


async def test_who_has_the_version_is_not_sent_it_again(start: Starter, user: UUID) -> None:
    service = await start(beat=0.1)
    await service.subscribe(user, "guardian")
    async with watching(service, user) as stream:
        version = (await stream.document())["version"]
    async with watching(service, user, **{"Last-Event-ID": str(version)}) as stream:
        assert await stream.block() == {"retry": "3000"}
        assert await stream.block() == {"": ""}
        await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json={})
        newest = (await stream.document())["version"]
        assert newest > version
    for other in (str(newest - 1), str(newest + 1), "x", ""):
        async with watching(service, user, **{"Last-Event-ID": other}) as stream:
            assert (await stream.document())["version"] == newest


async def test_silence_is_filled_with_signs_of_life(start: Starter, user: UUID) -> None:
    service = await start(beat=0.05)
    async with watching(service, user) as stream:
        await stream.document()
        assert [await stream.block() for _ in range(3)] == [{"": ""}] * 3


async def test_a_change_that_nobody_told_of_is_found_at_the_next_beat(start: Starter, user: UUID) -> None:
    service = await start(beat=0.1)
    async with watching(service, user) as stream:
        await stream.document()
        await service.rows(GRANT, [user])
        assert (await stream.document())["plan_type"] == "sanctuary"


async def test_streams_end_cleanly_when_the_service_stops(service: Service, user: UUID) -> None:
    async with watching(service, user) as stream:
        await stream.document()
        begun = time.monotonic()
        await service.runner.cleanup()
        assert await stream.block() == {"retry": "1000"}
        assert await stream.block() == {}
        assert stream.response.content.at_eof()
        assert time.monotonic() - begun < 5
    assert service.live.watchers == 0


async def test_a_stream_lasts_no_longer_than_allowed(start: Starter, user: UUID) -> None:
    service = await start(beat=0.05, longest=0.2)
    begun = time.monotonic()
    async with watching(service, user) as stream:
        await stream.document()
        while fields := await stream.block():
            assert fields in ({"": ""}, {"retry": "1000"})
    assert time.monotonic() - begun >= 0.2


async def test_a_user_has_a_few_streams_at_most(service: Service, user: UUID) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(watching(service, user))
        refused = await service.ask("GET", "/subscription/events", user=user)
        assert (refused.status, refused.code) == (429, "too_many_streams")
        assert int(refused.headers["Retry-After"]) >= 1
        async with watching(service, uuid4()) as stream:
            await stream.document()


async def test_readers_who_left_make_room_before_their_next_beat(start: Starter, user: UUID) -> None:
    service = await start(beat=3600.0)
    for _ in range(25):
        async with watching(service, user) as stream:
            await stream.document()
            stream.response.close()


async def test_who_goes_away_is_forgotten(start: Starter, user: UUID) -> None:
    service = await start(beat=0.05)
    async with watching(service, user) as stream:
        await stream.document()
        assert service.live.watchers == 1
        stream.response.close()
    await until(lambda: service.live.watchers == 0)


async def test_nobody_is_watched_for_nobody(service: Service) -> None:
    answer = await service.ask("GET", "/subscription/events")
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert (await service.ask("HEAD", "/subscription/events")).status == 405


async def test_an_outage_of_the_database_delays_a_change_but_loses_none(service: Service, user: UUID) -> None:
    async with watching(service, user) as stream:
        await stream.document()
        async with service.pool.connection() as connection, connection.transaction():
            await connection.execute(GRANT, [user])
            # Its statement finds the session ended, as in a restart of the server.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            service.live.wake()
        service.live.wake()
        assert (await stream.document())["plan_type"] == "sanctuary"


async def test_thousands_of_idle_watchers_cost_one_statement_per_change(database_url: str) -> None:
    users = [UserId(uuid4()) for _ in range(5000)]
    async with Pool(Database(url=database_url)) as pool, asyncio.TaskGroup() as group:
        live = EntitlementStreams(pool=pool, clock=utc_now, beat=600)
        pushing = group.create_task(live.run())
        with ExitStack() as stack:
            watchers = [stack.enter_context(live.watching(user, lambda: False)) for user in users]
            tasks_before = len(asyncio.all_tasks())
            async with pool.connection() as connection:
                await connection.execute(GRANT, users[:50])
            begun = time.monotonic()
            live.wake()
            heard = [await anext(watcher.documents()) for watcher in watchers[:50]]
            took = time.monotonic() - begun
            assert {document.plan_type for document in heard if document is not None} == {"sanctuary"}
            assert len(heard) == 50
            assert len(asyncio.all_tasks()) == tasks_before
            assert took < DEADLINE / 2, took
        assert live.watchers == 0
        pushing.cancel()

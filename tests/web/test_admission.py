"""Who keeps a connection when there are too many, or takes nothing of an answer."""

import asyncio
import socket
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from aiohttp import web

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.web.server.admission import Admission
from tests.attack.raw_http import connection
from tests.support.world import until
from tests.web.conftest import Service, Starter

DEADLINE = 10.0
ALIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def asked(ends: Ends, request: bytes = ALIVE, until: bytes = b'{"status":"alive"}') -> None:
    """Ask and read the answer up to ``until``; the connection stays."""
    reader, writer = ends
    writer.write(request)
    async with asyncio.timeout(DEADLINE):
        await reader.readuntil(until)


def stream(user: UUID) -> bytes:
    path = f"{API}/subscription/events"
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\n\r\n".encode()


async def gone(ends: Ends) -> None:
    async with asyncio.timeout(DEADLINE):
        assert not await ends[0].read(), "something was said to somebody who had asked nothing"


async def test_the_longest_idle_connection_goes_and_nobody_who_waits_for_an_answer(
    start: Starter, user: UUID
) -> None:
    """Fails if the oldest connection goes instead: that is the stream, and then the one that asked again."""
    service = await start(admission=Admission(most=3))
    async with AsyncExitStack() as held:

        async def one() -> Ends:
            return await held.enter_async_context(connection(service))

        watching, first, second = await one(), await one(), await one()
        await asked(watching, stream(user), b"event: entitlement")
        await asked(second)
        await asked(first)  # so that the second has been idle for longer
        third = await one()
        await gone(second)
        await asked(third)
        await asked(first)
        fourth = await one()
        await gone(third)
        await asked(fourth)
        assert (service.admission.held, service.admission.displaced) == (3, 2)
        assert not watching[0].at_eof()


async def test_where_everybody_waits_for_an_answer_the_newcomer_goes(start: Starter) -> None:
    service = await start(admission=Admission(most=2))
    async with AsyncExitStack() as held:
        for _ in range(2):
            ends = await held.enter_async_context(connection(service))
            await asked(ends, stream(uuid4()), b"event: entitlement")
        await gone(await held.enter_async_context(connection(service)))
        assert (service.admission.held, service.admission.displaced) == (2, 1)


async def test_streams_of_all_users_leave_room_for_requests(start: Starter, user: UUID) -> None:
    service = await start(most_streams=2, beat=0.2)
    async with AsyncExitStack() as held:
        for _ in range(2):
            ends = await held.enter_async_context(connection(service))
            await asked(ends, stream(uuid4()), b"event: entitlement")
        refused = await service.ask("GET", "/subscription/events", user=user)
        assert (refused.status, refused.code) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await service.buy(user, "wanderer")).status == 201
    await until(lambda: service.live.watchers == 0, "the streams ended")


async def test_requests_that_never_end_are_bounded_together_and_the_largest_goes(
    start: Starter, user: UUID
) -> None:
    """Fails without ``received``: each half a head may keep two megabytes, 200 all we may have."""
    service = await start(admission=Admission(most_unanswered=1 << 20))
    large = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d: %s\r\n" % (n, b"b" * 8000) for n in range(25))
    async with AsyncExitStack() as held:

        async def one(sent: bytes) -> Ends:
            ends = await held.enter_async_context(connection(service))
            ends[1].write(sent)
            return ends

        modest = await one(ALIVE[:-2] + b"a: " + b"b" * 8000 + b"\r\n")
        greedy = [await one(large) for _ in range(20)]
        await until(lambda: service.admission.displaced == 15, "those beyond a megabyte are cut off")
        assert (await service.buy(user, "wanderer")).status == 201
        await asked(modest, b"\r\n")
        assert sum(not reader.at_eof() for reader, _ in greedy) == 5


async def unread(service: Service) -> socket.socket:
    """Ask for far more than the kernel holds, and read nothing."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", int(service.url.rpartition(":")[2])))
    await loop.sock_sendall(peer, f"GET {API}/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 300)
    return peer


def is_stuck(handler: web.RequestHandler) -> bool:
    """The kernel takes no more, and more than aiohttp writes ahead is waiting."""
    transport = handler.transport
    return isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size() > 65_536


async def test_who_takes_nothing_of_an_answer_loses_the_connection(start: Starter) -> None:
    """Fails without ``TCP_USER_TIMEOUT``: the kernel asks such a reader for ever whether it has room."""
    service = await start(admission=Admission(unread_seconds=0.3))
    with await unread(service):
        await until(lambda: service.admission.held == 1, "the reader is there")
        await until(lambda: service.admission.held == 0, "the reader is given up")


async def test_who_takes_nothing_of_an_answer_goes_at_once_for_a_newcomer(start: Starter) -> None:
    """Fails with ``close`` in place of ``abort``: that waits for what is never read."""
    service = await start(admission=Admission(most=1))
    server = service.runner.server
    assert server is not None
    with await unread(service):
        await until(lambda: any(map(is_stuck, server.connections)), "nothing more can be written")
        async with connection(service) as newcomer:
            await asked(newcomer)
        await until(lambda: not server.connections, "both are gone")

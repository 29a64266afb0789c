"""HTTP as an attacker speaks it: bytes that no honest client would send."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.web.conftest import Service

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")  # a body before it need not end its line
PATIENCE = 15.0


@asynccontextmanager
async def connection(service: Service) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(service: Service, sent: bytes) -> bytes:
    """Send bytes and return all that comes until the server hangs up."""
    async with connection(service) as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(sent)
        return await rest(reader)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server hangs up, politely or not."""
    received = bytearray()
    with suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            received += chunk
    return bytes(received)


async def drip(service: Service, head: bytes, drop: bytes, *, every: float = 0.01) -> bytes:
    """Send a head and then one drop after another, until the server hangs up; returns what it said."""
    async with connection(service) as (reader, writer):
        writer.write(head)
        answer = asyncio.create_task(rest(reader))
        try:
            async with asyncio.timeout(PATIENCE):
                while not answer.done():
                    with suppress(ConnectionError):
                        writer.write(drop)
                        await writer.drain()
                    await asyncio.wait([answer], timeout=every)
                return answer.result()
        finally:
            answer.cancel()


def statuses(answers: bytes) -> list[int]:
    """The status of every answer in what came."""
    return [int(status) for status in _STATUS.findall(answers)]

"""The proxy parts two sides in each of its ways, and joins them again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Mode, Proxy, proxied

_SOON = 5.0  # seconds within which what must come comes
_NEVER = 0.1  # seconds within which what must not come would have come on loopback


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionResetError):  # the proxy aborts what it drops
        while chunk := await reader.read(4096):
            writer.write(chunk)
    writer.transport.abort()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that echoes."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, proxied(*server.sockets[0].getsockname()) as between:
        yield between


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, text: bytes) -> None:
        self._writer.write(text)

    async def hear(self, seconds: float = _SOON) -> bytes:
        """The next bytes; empty when the other side closed or reset."""
        try:
            return await asyncio.wait_for(self._reader.read(4096), seconds)
        except ConnectionResetError:
            return b""


@contextlib.asynccontextmanager
async def _client(proxy: Proxy) -> AsyncIterator[_Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield _Client(reader, writer)
    finally:
        writer.transport.abort()


async def _assert_passes(proxy: Proxy) -> None:
    async with _client(proxy) as client:
        client.say(b"hello")
        assert await client.hear() == b"hello"


async def test_dropped_connections_close_and_new_ones_pass(proxy: Proxy) -> None:
    async with _client(proxy) as client:
        client.say(b"a")
        assert await client.hear() == b"a"
        await proxy.drop()
        assert await client.hear() == b""
    await _assert_passes(proxy)


async def test_refusing_fails_new_connections_and_healing_listens_on_the_same_port(proxy: Proxy) -> None:
    port = proxy.port
    await proxy.become(Mode.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        await _assert_passes(proxy)
    await proxy.heal()
    assert proxy.port == port
    await _assert_passes(proxy)


@pytest.mark.parametrize("mode", [Mode.SWALLOW, Mode.SWALLOW_ANSWERS])
async def test_swallowing_keeps_the_connection_open_and_silent(proxy: Proxy, mode: Mode) -> None:
    await proxy.become(mode)
    async with _client(proxy) as client:
        client.say(b"a")
        with pytest.raises(TimeoutError):
            await client.hear(_NEVER)
        await proxy.heal()
        assert await client.hear() == b""
    await _assert_passes(proxy)


async def test_delay_holds_bytes_back_each_way(proxy: Proxy) -> None:
    proxy.delay = 0.05
    began = time.monotonic()
    await _assert_passes(proxy)
    assert time.monotonic() - began >= 2 * proxy.delay


async def test_cut_lets_so_many_bytes_cross_then_closes(proxy: Proxy) -> None:
    async with _client(proxy) as client:
        proxy.cut_after(7)  # five there, two back
        client.say(b"hello")
        assert await client.hear() == b"he"
        assert await client.hear() == b""
    await _assert_passes(proxy)

"""A TCP proxy between two parts of an installation, to part them as networks do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import StrEnum

_CHUNK = 65536


class Mode(StrEnum):
    """What happens to bytes, in both directions unless it is said."""

    PASS = "pass"
    REFUSE = "refuse"  # nobody listens: connecting fails at once
    SWALLOW = "swallow"  # half-open: connections are accepted and stay, nothing crosses
    SWALLOW_ANSWERS = "swallow answers"  # one way: what the client sends arrives, no answer comes back


class Proxy:
    """Forwards ``127.0.0.1:port`` to one address; what it does may be changed while connections are open."""

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0
        self.delay = 0.0  # seconds that every chunk waits, each way
        self._target = target_host, target_port
        self._mode = Mode.PASS
        self._left: int | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def mode(self) -> Mode:
        return self._mode

    async def become(self, mode: Mode) -> None:
        """Change what happens to open and to new connections. Refusing leaves open ones: see `drop`.

        Bytes swallowed are gone, so what swallowed closes its connections before it passes again.
        """
        if self._mode in {Mode.SWALLOW, Mode.SWALLOW_ANSWERS} and mode is not self._mode:
            await self.drop()
        self._mode = mode
        if mode is Mode.REFUSE:
            await self._close_listener()
        else:
            await self._listen()

    async def drop(self) -> None:
        """Close every open connection; new ones are served as before."""
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def cut_after(self, count: int) -> None:
        """Let ``count`` more bytes cross, both ways and all connections together, then close that one."""
        self._left = count

    async def heal(self) -> None:
        """Pass everything at once again."""
        self.delay = 0.0
        self._left = None
        await self.become(Mode.PASS)

    async def close(self) -> None:
        await self._close_listener()
        await self.drop()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # Cancelled by `drop`: the connection's end is the whole meaning of it.
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        ways = {
            asyncio.create_task(self._carry(reader, there_writer, answers=False)),
            asyncio.create_task(self._carry(there_reader, writer, answers=True)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there_writer.transport.abort()  # before anything that `drop` may interrupt
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        """Carry one way until its end, or until the cut."""
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self._mode is Mode.SWALLOW or (answers and self._mode is Mode.SWALLOW_ANSWERS):
                continue
            allowed = chunk if self._left is None else chunk[: self._left]
            if self._left is not None:
                self._left -= len(allowed)
            writer.write(allowed)
            await writer.drain()
            if self._left == 0:
                self._left = None  # one cut closes one connection
                writer.close()  # what was allowed is flushed first
                await writer.wait_closed()
                return


@contextlib.asynccontextmanager
async def proxied(target_host: str, target_port: int) -> AsyncIterator[Proxy]:
    """A passing proxy in front of an address."""
    proxy = Proxy(target_host, target_port)
    await proxy.become(Mode.PASS)
    try:
        yield proxy
    finally:
        await proxy.close()

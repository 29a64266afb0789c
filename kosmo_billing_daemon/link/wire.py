"""The bytes of one connection: what paho takes for its socket is an asyncio transport with a buffer each way.

paho makes three reads per packet it receives and one write per packet it sends; here those touch memory only,
and paho sees no more than the one packet it is given. Name resolution, TLS and cancellation are asyncio's, so
no thread, task or socket is left behind.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from kosmo_billing_daemon.link.packets import packet_end


class Wire(asyncio.Protocol):
    """Calls ``on_bytes`` when bytes have come, and ``on_lost`` with the reason when the connection ends."""

    def __init__(self, on_bytes: Callable[[], None], on_lost: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.heard = 0.0  # loop time of the last bytes received
        self._clock = loop.time
        self._on_bytes = on_bytes
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()  # grows in place: a packet of many reads is not copied with each
        self._taken = 0
        self._packet = b""  # what paho may read
        self._read = 0
        self._unsent: list[bytes | bytearray] = []

    @property
    def opened(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.heard = self._clock()

    def data_received(self, data: bytes) -> None:
        self.heard = self._clock()
        del self._received[: self._taken]
        self._received += data
        self._taken = 0
        self._on_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)
        self._on_lost(f"the connection broke: {exc}" if exc else "the broker closed the connection")

    def next_packet(self) -> bytes | None:
        """The next complete packet; ``ValueError`` for bytes that cannot be one."""
        end = packet_end(self._received, self._taken)
        if end is None:
            return None
        packet = bytes(self._received[self._taken : end])
        self._taken = end
        return packet

    def offer(self, packet: bytes) -> None:
        """Let paho read this packet."""
        self._packet, self._read = packet, 0

    def flush(self) -> None:
        """Write everything sent so far in one go."""
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What paho 2.x asks of a socket:

    def recv(self, buffer_size: int) -> bytes:
        data = self._packet[self._read : self._read + buffer_size]
        if not data:
            raise BlockingIOError  # empty bytes would mean the end to paho
        self._read += len(data)
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        self._unsent.append(buffer)
        return len(buffer)

    def close(self) -> None:
        """Nothing yet: paho closes before its DISCONNECT is flushed, so the link decides when."""

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        """Never blocks."""

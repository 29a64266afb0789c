"""MQTT 5 as an attacker speaks it: packets that no honest client library would send."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.mqtt.shipped import PASSWORD, ShippedMosquitto

USER_PROPERTY, CONTENT_TYPE = b"\x26", b"\x03"
CONNACK, PUBACK = 0x20, 0x40


def text(value: str | bytes) -> bytes:
    """A string as MQTT writes it: its length in two bytes, then itself; bytes go as they are."""
    encoded = value.encode() if isinstance(value, str) else value
    return len(encoded).to_bytes(2, "big") + encoded


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable(len(body)) + body


def variable(number: int) -> bytes:
    """A length as MQTT writes it, seven bits to the byte."""
    written = bytearray()
    while number > 0x7F:
        written.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes((*written, number))


def publish(
    topic: str | bytes, payload: bytes, *, mid: int = 1, properties: bytes = b"", retain: bool = False
) -> bytes:
    """A PUBLISH of QoS 1."""
    body = text(topic) + mid.to_bytes(2, "big") + variable(len(properties)) + properties + payload
    return packet(0x32 | retain, body)


class RawClient:
    """One connection that was let in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, sent: bytes) -> int | None:
        """Send one packet and return the reason code of its PUBACK; ``None`` when the broker hangs up."""
        try:
            self._writer.write(sent)
            while True:
                first, body = await self._next()
                if first == PUBACK:
                    return body[2] if len(body) > 2 else 0
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _next(self) -> tuple[int, bytes]:
        first, length = await self._reader.readexactly(2)
        assert length < 0x80  # of answers
        return first, await self._reader.readexactly(length)


@asynccontextmanager
async def raw_client(mosquitto: ShippedMosquitto, user: str) -> AsyncIterator[RawClient]:
    """Connect as a user of the shipped files."""
    reader, writer = await asyncio.open_connection(mosquitto.host, mosquitto.port)
    try:
        flags = 0xC2  # a user name, a password, a clean start
        connect = text("MQTT") + bytes((5, flags, 0, 60, 0)) + text(user) + text(user) + text(PASSWORD)
        writer.write(packet(0x10, connect))
        client = RawClient(reader, writer)
        async with asyncio.timeout(10):
            first, body = await client._next()
            assert (first, body[1]) == (CONNACK, 0)
            yield client
    finally:
        writer.close()

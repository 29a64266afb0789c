"""One connection to a broker, guarded: every wait on it ends, nothing counts before the broker said so."""

import asyncio
import struct
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar, cast

import aiomqtt
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kosmo_billing_daemon.link.broker import Broker, Message, Protocol, Will
from kosmo_billing_daemon.link.client import Limits, fresh_client, queue_connect
from kosmo_billing_daemon.link.errors import ConnectRefused, LinkLost, SubscribeRefused
from kosmo_billing_daemon.link.inbox import ReceivedMessages
from kosmo_billing_daemon.link.outbox import Outbox, Told
from kosmo_billing_daemon.link.packets import (
    PUBACK,
    PUBLISH,
    acknowledged,
    check_publication,
    publication,
    publish_packet,
)
from kosmo_billing_daemon.link.wire import Wire

_T = TypeVar("_T")

CLOSE_WITHIN = 1.0  # seconds a broker gets to close after our DISCONNECT before the socket is cut


def connect(broker: Broker, *, will: Will | None = None) -> AbstractAsyncContextManager["Link"]:
    """A link for the length of one ``async with``.

    Leaving without an exception disconnects in order, so the will stays unsaid; leaving by an exception or a
    cancellation cuts the connection, so the broker publishes the will.
    """
    return Link(broker, will)


class Link:
    """One connection to a broker; obtained from ``connect``."""

    def __init__(self, broker: Broker, will: Will | None) -> None:
        self.session_present = False
        self.max_in_flight = broker.max_in_flight
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(self._on_bytes, self.drop)
        self._client = fresh_client(broker, will)
        # aiomqtt 2.5 has no other way to reason codes, manual acknowledgement and the socket
        self._paho = self._client._client  # noqa: SLF001
        self._paho.disable_logger()  # it formats a line per packet even when nobody listens
        self._paho.manual_ack_set(True)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_socket_open = self._paho.on_socket_close = None
        self._paho.on_socket_register_write = lambda *_: self._want_flush()
        self._paho.on_socket_unregister_write = None
        self._paho._create_socket = lambda: self._wire  # type: ignore[method-assign]  # noqa: SLF001
        self._entered = False
        self._leaving = False
        self._flushing = False
        self._v5 = broker.protocol is Protocol.V5
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[str] = self._loop.create_future()
        self._outbox = Outbox(self._paho._mid_generate, self._loop.time)  # noqa: SLF001
        self._slots = asyncio.Semaphore(self.max_in_flight)
        self._inbox = ReceivedMessages()
        self._arrived = asyncio.Event()
        self._limits = Limits()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a link is one connection and cannot be opened again")
        self._entered = True
        broker = self._broker
        try:
            async with asyncio.timeout(broker.connect_timeout):
                # asyncio and uvloop both set TCP_NODELAY on it
                await self._loop.create_connection(
                    lambda: self._wire, broker.host, broker.port, ssl=broker.tls
                )
                queue_connect(self._paho, broker)
                await self._accepted
        except TimeoutError as error:
            await self._cut("the broker did not answer in time")
            raise LinkLost(f"the broker did not answer within {broker.connect_timeout} s") from error
        except OSError as error:  # name, TCP and TLS
            await self._cut("could not connect")
            raise LinkLost(f"could not connect to the broker: {error}") from error
        except struct.error as error:
            await self._cut("nothing was sent")
            raise LinkLost(
                "user name, password or client id is longer than MQTT carries: 65535 bytes"
            ) from error
        except BaseException:
            await self._cut("the connection was given up")
            raise
        self._watch()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._gone.done():
                self._leaving = True
                self._paho.disconnect()
                # The broker closes first: then it has read our DISCONNECT, whatever else was on its way.
                await asyncio.wait({self._wire.closed}, timeout=CLOSE_WITHIN)
        finally:
            await self._cut("the link was closed")

    def hand_over(
        self, topic: str, payload: bytes, told: Told, *, retain: bool = False, qos: int = 1
    ) -> None:
        """Send at once, and have ``told`` called once with how it ended, perhaps before this returns.

        QoS 0 has no answer and ends at once. Nothing waits for a slot here: callers keep within
        ``max_in_flight`` themselves. What an MQTT 5 broker announced not to take is refused here: sending it
        would cost the connection, again after every reconnect.
        """
        check_publication(topic, qos)
        packet_id = self._outbox.free_id() if qos else 0
        packet = publish_packet(topic.encode(), payload, retain=retain, qos=qos, mid=packet_id, v5=self._v5)
        if self._gone.done():
            told(LinkLost(self._gone.result()))
        elif refused := self._limits.refusal(topic, len(packet), retain=retain, qos=qos):
            told(refused)
        else:
            self._wire.send(packet)
            self._want_flush()
            if qos:
                self._outbox.add(packet_id, topic, told)
            else:
                told(None)

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[None]:
        """Do the same; the future raises what the broker refused or the connection lost.

        Cancelling it recalls nothing.
        """
        future, told = self._promise()
        self.hand_over(topic, payload, told, retain=retain)
        return future

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Wait for one of ``max_in_flight`` slots, send, and wait for the broker's answer."""
        check_publication(topic, qos)
        await self._slots.acquire()  # given back by the answer or the loss, even if the caller leaves before
        future, told = self._promise(self._slots.release)
        self.hand_over(topic, payload, told, retain=retain, qos=qos)
        await future

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        """Subscribe to the filters, in order; raises for the first one that the broker did not grant.

        Each leaves in a packet of its own, all at once: AWS IoT Core takes at most eight in one, and aedes on
        Redis never answers a persistent session that sends several.
        """
        if qos not in (0, 1):
            raise ValueError("subscriptions are QoS 0 or 1")
        for name, granted in zip(filters, await self._answer(self._subscribed(filters, qos)), strict=True):
            (code,) = cast("tuple[ReasonCode]", granted)
            if code.is_failure:
                raise SubscribeRefused(name, code.value, str(code))

    async def _subscribed(self, filters: Sequence[str], qos: int) -> list[Any]:
        within = self._broker.publish_timeout
        calls = (self._client.subscribe(name, qos, timeout=within) for name in filters)
        granted: list[Any] = await asyncio.gather(*calls)
        return granted

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        await self._answer(self._client.unsubscribe(list(filters), timeout=self._broker.publish_timeout))

    async def receive(self, limit: int = 1000) -> list[Message]:
        """Wait for a message, then take everything already here up to ``limit``, in order of arrival.

        Once the link has gone it raises ``LinkLost`` at once: what was not taken could not be acknowledged
        any more, and comes again.
        """
        self._raise_if_gone()
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
            self._raise_if_gone()
        return self._inbox.take(limit)

    def acknowledge(self, message: Message) -> None:
        """Tell the broker a QoS 1 message is safe with us; its session forgets it.

        Calls may come in any order: each leaves once all before it were given. A message of another link, or
        acknowledged before, is a ``ValueError``: its packet id may by now belong to a different message.
        """
        if message.origin is not self._inbox.origin:
            raise ValueError("the message came over another link")
        if message.qos == 0:
            return
        self._raise_if_gone()
        for mid in self._inbox.acknowledge(message):
            self._paho.ack(mid, 1)

    def drop(self, reason: str) -> None:
        """Cut the connection: the will is published, and unacknowledged messages come again.

        The one end of it, whoever ends it: everything that waits on it fails now. Repeats change nothing.
        """
        if self._gone.done():
            return
        self._gone.set_result(reason)
        self._wire.abort()
        if self._timer is not None:
            self._timer.cancel()
        if not self._accepted.done():
            self._accepted.set_exception(LinkLost(reason))
            self._accepted.exception()
        self._outbox.lose(reason)
        self._arrived.set()

    async def wait_lost(self) -> LinkLost:
        """Wait for the end of the connection, whoever ended it."""
        return LinkLost(await asyncio.shield(self._gone))

    def _promise(self, also: Callable[[], None] = lambda: None) -> tuple[asyncio.Future[None], Told]:
        """A future, and who fulfils it and calls ``also``."""
        future: asyncio.Future[None] = self._loop.create_future()

        def told(error: Exception | None) -> None:
            also()
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # counts as retrieved, so one that nobody awaits logs nothing

        return future, told

    async def _answer(self, call: Coroutine[Any, Any, _T]) -> _T:
        """The broker's answer to a subscribe or unsubscribe; ``LinkLost`` as soon as the connection goes."""
        task = self._loop.create_task(call)
        first: set[asyncio.Future[Any]] = {task, self._gone}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise LinkLost(self._gone.result())
            return task.result()
        except aiomqtt.MqttError as error:
            self.drop(f"the broker did not answer: {error}")
            raise LinkLost(self._gone.result()) from error
        finally:
            if task.cancel():
                await asyncio.wait({task})

    def _watch(self, due: float = 0.0, excused: bool = True) -> None:
        """Ping, and notice a half-open connection: silence, or a publication nobody answered."""
        keepalive = self._paho.keepalive  # an MQTT 5 broker may have set its own; 0 is none
        beat = min(1.0, (keepalive or 10) / 10)
        now = self._loop.time()
        # After a stall of our own loop, read first what came meanwhile: uvloop runs timers before reads.
        late = now > due + beat and not excused
        if not late:
            oldest = self._outbox.oldest_since
            if keepalive and now - self._wire.heard > 2 * (keepalive - beat):
                self.drop("the broker fell silent")
            elif oldest is not None and now - oldest > self._broker.publish_timeout:
                self.drop("the broker did not acknowledge in time")
            else:
                self._paho.loop_misc()
        if not self._gone.done():
            self._timer = self._loop.call_later(beat, self._watch, now + beat, late)

    def _raise_if_gone(self) -> None:
        if self._gone.done():
            raise LinkLost(self._gone.result())

    async def _cut(self, reason: str) -> None:
        self.drop(reason)
        if self._wire.opened:
            await asyncio.wait({self._wire.closed}, timeout=CLOSE_WITHIN)

    def _want_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)  # what is sent until then goes in the same write

    def _flush(self) -> None:
        self._flushing = False
        self._paho.loop_write()
        self._wire.flush()

    def _on_bytes(self) -> None:
        try:
            while not self._gone.done() and (packet := self._wire.next_packet()) is not None:
                if packet[0] & 0xF0 == PUBLISH:
                    self._inbox.add(publication(packet, self._inbox.origin, v5=self._v5))
                    self._arrived.set()
                elif packet[0] == PUBACK:
                    self._outbox.answered(*acknowledged(packet))
                else:
                    self._wire.offer(packet)
                    self._paho.loop_read()
        except Exception as error:  # noqa: BLE001  what hostile bytes raise ends this link only
            self.drop(f"unreadable packet: {error!r}")

    def _on_connect(
        self,
        _client: Client,
        _userdata: Any,
        flags: ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if self._accepted.done():
            return
        if code.is_failure:
            self._accepted.set_exception(ConnectRefused(code.value, str(code)))
            self._accepted.exception()
            return
        self.session_present = flags.session_present
        self._limits = Limits.announced(properties)
        self.max_in_flight = min(self.max_in_flight, self._limits.in_flight)
        self._slots = asyncio.Semaphore(self.max_in_flight)
        self._accepted.set_result(None)

    def _on_disconnect(
        self, _client: Client, _userdata: Any, flags: DisconnectFlags, code: ReasonCode, _properties: Any
    ) -> None:
        if self._leaving:
            return
        who = (
            "the broker disconnected us" if flags.is_disconnect_packet_from_server else "the connection broke"
        )
        self.drop(f"{who}: {code!s}")

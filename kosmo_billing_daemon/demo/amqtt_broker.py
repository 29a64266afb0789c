"""The broker for hosts without Mosquitto: amqtt in a process of its own, so that its loop is not ours.

Memory only, MQTT 3.1.1, loopback, everyone welcome: enough for a demo, not for anything that must last. amqtt
0.12 loses or leaks messages in ways our contract cannot live with; the subclasses here fix that, as each
method says.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import amqtt.broker
from amqtt.broker import RetainedApplicationMessage
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

READY = "the broker is ready"
POLL_SECONDS = 0.005
KEEPALIVE_GRACE = 5  # seconds beyond the client's keepalive


class Welcome(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Lets everyone in; amqtt's own anonymous plugin would also drop every session on disconnect."""

    async def authenticate(self, *, session: Session) -> bool:
        return session.client_id is not None


class PatientHandler(BrokerProtocolHandler):  # type: ignore[misc]
    """One client's connection; keeps what the client did not acknowledge."""

    async def mqtt_publish(self, topic: str, data: bytes, qos: int, retain: bool, *rest: Any) -> Any:
        """Otherwise a QoS 1 message is forgotten after 5 s without PUBACK, or with the connection."""
        session = self.session
        try:
            return await super().mqtt_publish(topic, data, qos, retain, *rest)
        except BaseException as error:
            if qos and not retain and not session.clean_session:
                session.retained_messages.put_nowait(RetainedApplicationMessage(None, topic, data, qos))
            if isinstance(error, TimeoutError):
                return None  # amqtt would log a traceback
            raise

    def handle_read_timeout(self) -> None:
        """Otherwise nobody notices a client that fell silent, and its will is never published."""
        self._reader_task.cancel()


class AmqttBroker(amqtt.broker.Broker):  # type: ignore[misc]
    """amqtt with sessions that behave as MQTT 3.1.1 asks."""

    def __init__(self, config: BrokerConfig) -> None:
        super().__init__(config)
        self._serving: set[BrokerProtocolHandler] = set()
        self._sending: set[asyncio.Task[Any]] = set()

    async def _handle_client_session(self, *arguments: Any) -> None:
        """Otherwise a take-over ends with the session marked as disconnected, shared as it is by both."""
        session = arguments[2]
        old_session, old_handler = self._sessions.get(session.client_id, (None, None))
        if old_session is session and session.transitions.is_connected():
            # The will in the session is the new connection's already; the old one's stays unsaid.
            will_flag = session.will_flag
            session.will_flag = False
            await old_handler.handle_connection_closed()
            while session.transitions.is_connected():  # noqa: ASYNC110  amqtt has no event for it
                await asyncio.sleep(POLL_SECONDS)
            session.will_flag = will_flag
        await super()._handle_client_session(*arguments)

    async def _delete_session(self, client_id: str) -> None:
        """Otherwise the old connection lives on beside a new one that asked for a clean session."""
        _, handler = self._sessions.get(client_id, (None, None))
        await super()._delete_session(client_id)
        if handler is not None:
            await handler.handle_connection_closed()

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        self._serving.add(handler)
        try:
            await super()._client_message_loop(client_session, handler)
        finally:
            self._serving.discard(handler)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Otherwise connecting brings the retained messages of everybody's subscriptions.

        And the client is not served until it acknowledged them; here the broker does not wait.
        """
        if self._get_handler(session) in self._serving:
            self._in_background(super()._publish_retained_messages_for_subscription(subscription, session))

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """Otherwise what waited comes marked as retained, and holds up SUBSCRIBE until acknowledged."""
        handler = self._get_handler(session)
        waiting = session.retained_messages
        for message in [waiting.get_nowait() for _ in range(waiting.qsize())]:
            self._in_background(handler.mqtt_publish(message.topic, message.data, message.qos, retain=False))

    def _in_background(self, sending: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    amqtt.broker.BrokerProtocolHandler = PatientHandler  # amqtt has no other place to name it
    broker = AmqttBroker(
        BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
            plugins={f"kosmo_billing_daemon.demo.amqtt_broker.{Welcome.__name__}": {}},
            timeout_disconnect_delay=KEEPALIVE_GRACE,
        )
    )
    await broker.start()
    sys.stderr.write(f"{READY}\n")
    await stopped.wait()
    await broker.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    logging.basicConfig(level=logging.ERROR)  # it warns of every client that leaves
    asyncio.run(serve(port))


if __name__ == "__main__":
    main()

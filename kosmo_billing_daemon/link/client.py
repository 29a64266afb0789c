"""What aiomqtt and paho are told before a connection, and what the broker's CONNACK announces."""

import logging
from typing import Self

import aiomqtt
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from kosmo_billing_daemon.link.broker import Broker, Protocol, Will
from kosmo_billing_daemon.link.errors import PublishRefused
from kosmo_billing_daemon.link.packets import (
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    RETAIN_NOT_SUPPORTED,
    reason,
)
from kosmo_billing_daemon.runtime.records import record

MOST_RECEIVED = 4 << 20
"""Bytes of a packet that we take; a broker keeps larger ones from us, with MQTT 5. Ours have 128 KiB."""


def fresh_client(broker: Broker, will: Will | None) -> aiomqtt.Client:
    """A client for one connection; a used one would deliver what failed before as ghosts."""
    v5 = broker.protocol is Protocol.V5
    # aiomqtt 2.5 logs the answer to a subscribe that was cancelled as an error with a traceback; whatever
    # matters to anybody the link says itself.
    unheard = logging.getLogger(f"{__name__}.aiomqtt")
    unheard.disabled = True
    client = aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=broker.password,
        identifier=broker.client_id,
        logger=unheard,
        protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
        clean_session=None if v5 else broker.clean,
        will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain) if will else None,
    )
    client.pending_calls_threshold = 1_000_000  # no warning for many filters subscribed at once
    return client


def queue_connect(paho: Client, broker: Broker) -> None:
    """Queue the CONNECT packet on paho's (already open) socket."""
    if broker.protocol is Protocol.V311:
        paho.connect(broker.host, broker.port, broker.keepalive)
        return
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho 2.x
    properties.SessionExpiryInterval = 0 if broker.clean else broker.session_expiry
    properties.ReceiveMaximum = broker.receive_maximum
    properties.MaximumPacketSize = MOST_RECEIVED
    # Clean start is always said: the default of aiomqtt and paho wipes the session of every fresh client.
    paho.connect(broker.host, broker.port, broker.keepalive, clean_start=broker.clean, properties=properties)


@record
class Limits:
    """What the broker announced not to exceed; paho 2.2 ignores it, and crossing it costs the connection."""

    in_flight: int = 65_535
    packet_size: int = 268_435_460
    retain: bool = True
    qos: int = 2

    @classmethod
    def announced(cls, properties: Properties | None) -> Self:
        """Read CONNACK; MQTT 3.1.1 announces nothing, and what is absent has the protocol's own bound."""
        return cls(
            in_flight=getattr(properties, "ReceiveMaximum", 65_535),
            packet_size=getattr(properties, "MaximumPacketSize", 268_435_460),
            retain=bool(getattr(properties, "RetainAvailable", 1)),
            qos=getattr(properties, "MaximumQoS", 2),
        )

    def refusal(self, topic: str, size: int, *, retain: bool, qos: int) -> PublishRefused | None:
        """Why a publication must not be sent: the loss would repeat itself after every reconnect."""
        if size > self.packet_size:
            return PublishRefused(topic, PACKET_TOO_LARGE, reason(PACKET_TOO_LARGE))
        if retain and not self.retain:
            return PublishRefused(topic, RETAIN_NOT_SUPPORTED, "Retain not supported")
        if qos > self.qos:
            return PublishRefused(topic, QOS_NOT_SUPPORTED, "QoS not supported")
        return None

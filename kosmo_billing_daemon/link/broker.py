"""Where to connect and as whom, and what comes back: the plain values around a link."""

import ssl
from dataclasses import field
from enum import StrEnum

from kosmo_billing_daemon.runtime.records import record


class Protocol(StrEnum):
    V5 = "5"
    V311 = "3.1.1"  # tells nothing about refused publications: every PUBACK looks alike


@record(kw_only=True)
class Broker:
    """One broker and one identity on it; times in seconds."""

    host: str
    port: int = 1883
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    protocol: Protocol = Protocol.V5
    tls: ssl.SSLContext | None = None
    keepalive: int = 10  # a half-open connection is noticed within twice this
    connect_timeout: float = 5.0  # name, TCP, TLS and CONNACK together
    publish_timeout: float = 10.0  # also of a subscribe; what is not answered by then is half-open
    session_expiry: int = 7 * 86400
    # Only for throw-away clients: mosquitto saves no session whose last CONNECT asked for a clean start.
    clean: bool = False
    receive_maximum: int = 1000  # mosquitto before 2.0.13 exceeds it
    max_in_flight: int = 50  # 20 to 50 keep mosquitto 2.0 busy; more only queue there


@record
class Will:
    """What the broker publishes when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool = True
    qos: int = 1


@record
class Message:
    """A received publication; ``mid`` and ``origin`` serve ``Link.acknowledge`` alone."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    duplicate: bool  # sent before and not acknowledged
    mid: int = field(repr=False)
    origin: object = field(repr=False, compare=False)  # the link it came over

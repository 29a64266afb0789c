"""The guarded connection to an MQTT broker: the only place that knows aiomqtt and paho.

Left alone, aiomqtt 2.5 takes a refused publication for a success, lets pending publications hang when the
connection goes, delivers ghosts of them after a reconnect, and leaks a socket for every failed connect.
So the rules kept here are:

- One ``Link`` is one connection and one fresh client; after ``LinkLost`` open another.
- A publication has succeeded when the broker said so; everything pending fails at once with the connection.
- A received message is acknowledged by the caller, on the link that brought it; acknowledgements leave in
  order of arrival.
- aiomqtt and paho hold the conversation; publications and their acknowledgements are ours (``packets``), and
  asyncio moves the bytes, many packets per system call.

Read ``broker`` (where and as whom), ``errors``, ``connection`` (the link), then what it stands on: ``inbox``,
``outbox``, ``client``, ``packets``, ``wire``.
"""

from kosmo_billing_daemon.link.broker import Broker, Message, Protocol, Will
from kosmo_billing_daemon.link.connection import Link, connect
from kosmo_billing_daemon.link.errors import ConnectRefused, LinkLost, PublishRefused, SubscribeRefused

__all__ = [
    "Broker",
    "ConnectRefused",
    "Link",
    "LinkLost",
    "Message",
    "Protocol",
    "PublishRefused",
    "SubscribeRefused",
    "Will",
    "connect",
]

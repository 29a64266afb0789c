"""Reporters that lose nothing: they say every report again until it is answered."""

import asyncio
import contextlib
import json
from collections.abc import Mapping

from kosmo_billing_daemon.link import Broker, ConnectRefused, Link, LinkLost, connect
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS

_PATIENCE = 3.0  # seconds after which what is not answered is said again


async def report_until_answered(mosquitto: Mosquitto, name: str, reports: Mapping[str, bytes]) -> int:
    """Send reports by id, through every outage; returns how many were sent, repetitions included."""
    waiting, sent = dict(reports), 0
    broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id=name, clean=True, keepalive=2)
    while waiting:
        with contextlib.suppress(LinkLost, ConnectRefused, TimeoutError):
            async with asyncio.timeout(4 * _PATIENCE), connect(broker) as link:
                await link.subscribe([TOPICS.usage_ack(name)])
                while waiting:
                    sent += len(waiting)
                    await asyncio.gather(*(link.publish(TOPICS.usage(name), r) for r in waiting.values()))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_PATIENCE):
                            await _take_answers(link, waiting)
        if waiting:
            await asyncio.sleep(0.1)
    return sent


async def _take_answers(link: Link, waiting: dict[str, bytes]) -> None:
    while waiting:
        for message in await link.receive():
            link.acknowledge(message)
            waiting.pop(json.loads(message.payload)["report_id"], None)

"""A gateway: sends a message if the sender's plan allows it, and counts what was sent.

Settings: MQTT_HOST, MQTT_PORT, MQTT_USERNAME (usage is reported under it), MQTT_PASSWORD, GATE_STATE.
Each line of input is a message: user id, node id, text. Without a network it goes on, and reports later.
"""
# ruff: noqa: INP001, T201  a script that talks on standard output

import asyncio
import os
import sys
from pathlib import Path

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker


async def send(node_id: str, text: str) -> None:
    """Hand a message to the radio. What it raises releases the hold: the user may send the message again."""
    if not text:
        raise OSError("nothing to send")
    print(f"sent to {node_id}: {text}", flush=True)


async def main() -> None:
    name = os.environ.get("MQTT_USERNAME", "gateway-1")
    broker = Broker(
        host=os.environ.get("MQTT_HOST", "127.0.0.1"),
        port=int(os.environ.get("MQTT_PORT", "1883")),
        client_id=name,
        username=name,
        password=os.environ.get("MQTT_PASSWORD"),
    )
    state = Path(os.environ.get("GATE_STATE", "gateway.db"))
    async with Gate(broker, state, reporter=name) as gate:
        while line := await asyncio.to_thread(sys.stdin.readline):
            user_id, _, message = line.rstrip("\n").partition(" ")
            node_id, _, text = message.partition(" ")
            try:
                with gate.hold(user_id, node_id) as hold:  # nobody else gets this message of the quota
                    if hold:
                        await send(node_id, text)
                    else:
                        print(f"refused: {hold.reason}", flush=True)
            except Invalid as error:
                print(f"refused: {error.message}", flush=True)
            except OSError as error:  # the message was given back
                print(f"not sent: {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

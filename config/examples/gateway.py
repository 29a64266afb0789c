"""A gateway: lets a message pass if the sender's plan allows it, and counts it.

Settings: MQTT_HOST, MQTT_PORT, MQTT_USERNAME (usage is reported under it), MQTT_PASSWORD, GATE_STATE.
Each line of input is a message: user id, node id, text. Without a network it goes on, and reports later.
"""
# ruff: noqa: INP001, T201  a script that talks on standard output

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate, NotJournaled
from kosmo_billing_daemon.link import Broker


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
                decision = gate.check(user_id, node_id)
            except Invalid as error:
                print(f"refused: {error.message}", flush=True)
                continue
            if decision:
                with suppress(NotJournaled):  # the disk is full: counted all the same, written down later
                    gate.record(user_id, node_id)
                print(f"sent to {node_id}: {text}", flush=True)
            else:
                print(f"refused: {decision.reason}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

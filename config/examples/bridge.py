"""A bridge: asks whether a user may write to a node, in plain threads, and reports nothing.

Settings: MQTT_HOST, MQTT_PORT, MQTT_USERNAME, MQTT_PASSWORD, GATE_STATE. Lines of input: user id, node id.
"""
# ruff: noqa: INP001, T201  a script that talks on standard output

import os
import sys
from pathlib import Path

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import SyncGate
from kosmo_billing_daemon.link import Broker


def main() -> None:
    name = os.environ.get("MQTT_USERNAME", "bridge-1")
    broker = Broker(
        host=os.environ.get("MQTT_HOST", "127.0.0.1"),
        port=int(os.environ.get("MQTT_PORT", "1883")),
        client_id=name,
        username=name,
        password=os.environ.get("MQTT_PASSWORD"),
    )
    with SyncGate(broker, Path(os.environ.get("GATE_STATE", "bridge.db"))) as gate:
        for line in sys.stdin:
            user_id, _, node_id = line.strip().partition(" ")
            try:
                decision = gate.check(user_id, node_id)
            except Invalid as error:
                print(f"refused: {error.message}", flush=True)
                continue
            print(f"{decision.reason} {decision.remaining}", flush=True)


if __name__ == "__main__":
    main()

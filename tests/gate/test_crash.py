"""Kill -9 of a gateway at any moment: what it recorded is counted, once."""

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from tests.gate.stand_in import NODE, Ledger, daemon, document, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

GATEWAY = """
import asyncio, sys
from pathlib import Path
from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker

async def main(port, state, user, node):
    broker = Broker(host="127.0.0.1", port=int(port), client_id="gateway-1")
    async with Gate(broker, Path(state), reporter="gateway-1", ack_timeout=1.0) as gate:
        while True:
            print(gate.record(user, node), flush=True)  # printed once it is recorded
            await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_gateway_killed_again_and_again_loses_and_doubles_nothing(
    mosquitto: Mosquitto, state: Path
) -> None:
    user, ledger, recorded = uuid4(), Ledger(), set()
    chance = random.Random(11)
    async with daemon(mosquitto, ledger) as one:
        await one.publish(document(user, messages_limit=100_000))
        for _ in range(6):
            arguments = [sys.executable, "-c", GATEWAY, str(mosquitto.port), str(state), str(user), NODE]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE) as gateway:  # noqa: ASYNC220, S603  our own text
                assert gateway.stdout is not None
                lines = chance.randrange(1, 400)
                for _ in range(lines):
                    line = await asyncio.to_thread(gateway.stdout.readline)
                    recorded.add(line.decode().strip())
                gateway.send_signal(signal.SIGKILL)
                rest = await asyncio.to_thread(gateway.stdout.read)
                recorded.update(rest.decode().split("\n")[:-1])
        recorded.discard("")
        async with gate(mosquitto, state) as edge:
            await eventually(lambda: edge.status.unacknowledged == 0, "the reports", 30.0)
    counted = {message_id for _, message_id in ledger.counted}
    assert recorded <= counted
    assert len(counted - recorded) <= 6  # recorded, but killed before it could be printed
    assert set(ledger.counted.values()) == {1}

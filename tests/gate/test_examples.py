"""The examples run as they stand."""

import asyncio
import os
import sys
from pathlib import Path
from uuid import UUID, uuid4

from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, daemon, document
from tests.support.mosquitto import Mosquitto

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
ATTEMPTS = 1000


async def ask(name: str, broker: Broker, state: Path, line: str, wanted: str) -> list[str]:
    """Repeat `line` to an example until it answers `wanted`; return every answer."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parents[1]),
        "MQTT_HOST": broker.host,
        "MQTT_PORT": str(broker.port),
        "GATE_STATE": str(state),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answers = []
    for _ in range(ATTEMPTS):
        process.stdin.write(f"{line}\n".encode())
        answers.append((await process.stdout.readline()).decode().strip())
        if answers[-1] == wanted:
            break
        await asyncio.sleep(0.01)
    process.stdin.close()
    assert await process.wait() == 0
    return answers


async def test_the_gateway_sends_what_the_plan_allows_and_counts_it(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user, messages_limit=2)])
        broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="-")
        line = f"{user} {NODE} hello mesh"
        answers = await ask("gateway.py", broker, tmp_path / "g.db", line, "refused: quota_exhausted")
        assert answers.count(f"sent to {NODE}: hello mesh") == 2
        assert answers[-1] == "refused: quota_exhausted"


async def test_the_bridge_only_asks(mosquitto: Mosquitto, tmp_path: Path) -> None:
    user = UUID(int=7)
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user)])
        broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="-")
        answers = await ask("bridge.py", broker, tmp_path / "b.db", f"{user} {NODE}", "ok 50")
        assert answers[-1] == "ok 50"
        assert one.ledger.reports == 0

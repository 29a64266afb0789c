"""The examples run as they stand, and need no other package than the page says."""

import asyncio
import os
import re
import sys
import tomllib
from pathlib import Path
from uuid import UUID, uuid4

import aiomqtt
import paho

import kosmo_billing_daemon
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, daemon, document
from tests.support.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "config" / "examples"
ATTEMPTS = 1000


def nothing_else(directory: Path) -> Path:
    """Make a folder with the packages that the gate's page has installed, and no other."""
    directory.mkdir()
    for package in (aiomqtt, paho, kosmo_billing_daemon):
        (path,) = package.__path__
        (directory / Path(path).name).symlink_to(path)
    return directory


async def ask(name: str, broker: Broker, state: Path, lines: tuple[str, ...], wanted: str) -> list[str]:
    """Write `lines` to an example, the last until it answers `wanted`; return every answer."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(nothing_else(state.with_name("packages"))),
        "MQTT_HOST": broker.host,
        "MQTT_PORT": str(broker.port),
        "GATE_STATE": str(state),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",  # no site-packages
        str(EXAMPLES / name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answers = []
    for line in (*lines[:-1], *ATTEMPTS * lines[-1:]):
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
        lines = "", "nobody", f"{user} {NODE} ", f"{user} {NODE} hello mesh"
        answers = await ask("gateway.py", broker, tmp_path / "g.db", lines, "refused: quota_exhausted")
        assert answers[0].startswith("refused: node_id: ")
        assert answers.count(f"sent to {NODE}: hello mesh") == 2
        assert answers[-1] == "refused: quota_exhausted"


async def test_the_bridge_only_asks(mosquitto: Mosquitto, tmp_path: Path) -> None:
    user = UUID(int=7)
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user)])
        broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="-")
        lines = "", f"{user} 123", f"nobody {NODE}", f"{user} {NODE}"
        answers = await ask("bridge.py", broker, tmp_path / "b.db", lines, "ok 50")
        assert [answer[:18] for answer in answers[:3]] == [
            "refused: node_id: ",
            "refused: node_id: ",
            "refused: user_id: ",
        ]
        assert answers[-1] == "ok 50"
        assert one.ledger.reports == 0


def test_the_page_installs_the_versions_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {line for line in project["dependencies"] if line.startswith(("aiomqtt", "paho-mqtt"))}
    page = (ROOT / "kosmo_billing_daemon" / "gate" / "README.md").read_text()
    (line,) = re.findall(r"^pip install (.+) && pip install --no-deps \.$", page, re.MULTILINE)
    assert {word.strip("'") for word in line.split()} == asked

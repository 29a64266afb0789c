"""What a gate costs: `python -m tests.bench.gate`.

Nanoseconds per check, microseconds per record, memory and start with 100,000 documents. The first reading
goes over a real mosquitto with default limits; memory is that of a fresh process with nothing but the gate.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

from kosmo_billing_daemon.gate import Gate, SyncGate
from kosmo_billing_daemon.link import Broker
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.rig import alone
from tests.gate.stand_in import NODE, at, daemon, document
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

DOCUMENTS = 100_000
CHECKS = 200_000
RECORDS = 2_000

START = """
import asyncio, json, resource, sys, time
from pathlib import Path
from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))

async def main():
    empty = megabytes()
    started = time.perf_counter()
    broker = Broker(host="127.0.0.1", port=int(sys.argv[2]), client_id="bench")
    async with Gate(broker, Path(sys.argv[1])) as gate:
        opened = time.perf_counter() - started
        if sys.argv[3] == "read":
            await gate.ready(300)
        ready = time.perf_counter() - started
        print(json.dumps({"documents": gate.status.documents, "open_s": opened, "ready_s": ready,
                          "empty_MB": empty, "MB": megabytes(),
                          "peak_MB": peak()}))

asyncio.run(main())
"""


def started(state: Path, port: int, how: str) -> dict[str, float]:
    command = [sys.executable, "-c", START, str(state), str(port), how]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603  our own text
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def calls(state: Path, user: UUID) -> list[Figure]:
    """One round of what a gateway calls for each message."""
    broker = Broker(host="127.0.0.1", port=1, client_id="bench")  # nobody there: no call may need the network
    found = []
    async with Gate(broker, state, reporter="bench") as gate:
        assert gate.check(user, NODE)
        for how, name in (("by UUID", user), ("by text", str(user))):
            begun = time.perf_counter()
            for _ in range(CHECKS):
                gate.check(name, NODE)
            took = (time.perf_counter() - begun) / CHECKS * 1e6
            found.append(Figure(what=f"gate: check {how}", value=took, unit="µs", goal=at_most(2)))
        begun = time.perf_counter()
        for _ in range(RECORDS):
            gate.record(user, NODE)
        took = (time.perf_counter() - begun) / RECORDS * 1e6
        found.append(Figure(what="gate: record", value=took, unit="µs"))
        begun = time.perf_counter()
        for _ in range(RECORDS):
            if gate.check(user, NODE):
                gate.record(user, NODE)
        plain = RECORDS / (time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in range(RECORDS):
            with gate.hold(user, NODE):
                pass
        held = RECORDS / (time.perf_counter() - begun)
        found.append(
            Figure(
                what="gate: hold and commit",
                value=held,
                unit="/s",
                beside=plain,
                beside_what="check and record",
                goal=at_least(0.5, ratio=True),
            )
        )
        begun = time.perf_counter()
        await gate.durable()
        took = (time.perf_counter() - begun) * 1e3
        found.append(Figure(what="gate: durable, one fsync", value=took, unit="ms"))
    with SyncGate(broker, state, reporter="bench") as threaded:
        begun = time.perf_counter()
        for _ in range(RECORDS):
            threaded.record(user, NODE)
        took = (time.perf_counter() - begun) / RECORDS * 1e6
        found.append(Figure(what="gate: record from a thread", value=took, unit="µs"))
    return found


async def refusal_elsewhere(mosquitto: Mosquitto, directory: Path) -> list[Figure]:
    """From the message that exhausts a quota at one gate to the refusal at another, the daemon a stand-in."""
    found = []
    async with (
        daemon(mosquitto) as one,
        Gate(at(mosquitto, "one"), directory / "1.db", reporter="one") as first,
        Gate(at(mosquitto, "two"), directory / "2.db", reporter="two") as second,
    ):
        for _ in range(20):
            user = uuid4()
            await one.publish(document(user, messages_limit=1))

            def open_at_both(user: UUID = user) -> bool:
                return all(edge.check(user, NODE) for edge in (first, second))

            await eventually(open_at_both, "the plan")
            begun = time.perf_counter()
            first.record(user, NODE)
            while second.check(user, NODE):  # noqa: ASYNC110  an event would be measured along
                await asyncio.sleep(0)
            took = (time.perf_counter() - begun) * 1e3
            found.append(Figure(what="gate: refusal at a second gate", value=took, unit="ms"))
    return found


def loaded(figures: dict[str, float]) -> list[Figure]:
    """What a start from the file showed."""
    many = f"gate: {figures['documents']:,.0f} documents"
    return [
        Figure(what=f"{many} from the file", value=figures["open_s"], unit="s", goal=at_most(2)),
        Figure(what=f"{many}, resident more", value=figures["MB"] - figures["empty_MB"], unit="MB"),
        Figure(what=f"{many}, resident in all", value=figures["MB"], unit="MB", goal=at_most(120)),
    ]


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    found: list[Figure] = []
    with TemporaryDirectory() as name:
        directory = Path(name)
        state = directory / "gate.db"
        async with Mosquitto() as mosquitto:
            found += await refusal_elsewhere(mosquitto, directory)
            users = [uuid4() for _ in range(DOCUMENTS // 10 if quick else DOCUMENTS)]
            async with daemon(mosquitto) as one:
                one.publishing = False
                await one.publish_all(document(user, messages_limit=1_000_000) for user in users)
            first = await asyncio.to_thread(started, state, mosquitto.port, "read")
            found.append(Figure(what="gate: first reading from the broker", value=first["ready_s"], unit="s"))
        for turn in range(rounds):
            found += loaded(await asyncio.to_thread(started, state, 1, "file"))
            found += await calls(state, users[turn])
    return found


if __name__ == "__main__":
    alone(measure, __doc__)

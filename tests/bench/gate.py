"""What a gate costs: nanoseconds per check, microseconds per record, memory and start with many documents.

Run: python -m tests.bench.gate [documents]. Each figure is the median of three rounds with the spread. The
first reading goes over a real mosquitto with default limits; memory is that of a fresh process with
nothing but the gate.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

from kosmo_billing_daemon.gate import Gate, SyncGate
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, at, daemon, document
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

ROUNDS = 3
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


def rounds(measure: Callable[[], float]) -> str:
    values = [measure() for _ in range(ROUNDS)]
    return f"{statistics.median(values):10.1f}   ({min(values):.1f} to {max(values):.1f})"


def started(state: Path, port: int, how: str) -> dict[str, float]:
    command = [sys.executable, "-c", START, str(state), str(port), how]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603  our own text
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def calls(state: Path, user: UUID) -> None:
    broker = Broker(host="127.0.0.1", port=1, client_id="bench")  # nobody there: no call may need the network
    async with Gate(broker, state, reporter="bench") as gate:

        def checks(user_id: UUID | str) -> float:
            begun = time.perf_counter()
            for _ in range(CHECKS):
                gate.check(user_id, NODE)
            return (time.perf_counter() - begun) / CHECKS * 1e9

        def records() -> float:
            begun = time.perf_counter()
            for _ in range(RECORDS):
                gate.record(user, NODE)
            return (time.perf_counter() - begun) / RECORDS * 1e6

        assert gate.check(user, NODE)
        print(f"check by UUID, ns            {rounds(lambda: checks(user))}")
        print(f"check by text, ns            {rounds(lambda: checks(str(user)))}")
        print(f"record, us                   {rounds(records)}")
        begun = time.perf_counter()
        await gate.durable()
        print(f"durable (one fsync), ms      {(time.perf_counter() - begun) * 1e3:10.1f}")
    with SyncGate(broker, state, reporter="bench") as threaded:
        begun = time.perf_counter()
        for _ in range(RECORDS):
            threaded.record(user, NODE)
        print(f"record from a thread, us     {(time.perf_counter() - begun) / RECORDS * 1e6:10.1f}")


async def refusal_elsewhere(mosquitto: Mosquitto, directory: Path) -> None:
    """From the message that exhausts a quota at one gate to the refusal at another, the daemon a stand-in."""
    times = []
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
            times.append((time.perf_counter() - begun) * 1e3)
    print(f"refusal at a second gate, ms {statistics.median(times):10.1f}   (to {max(times):.1f})")


async def main(documents: int) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        state = directory / "gate.db"
        async with Mosquitto() as mosquitto:
            await refusal_elsewhere(mosquitto, directory)
            users = [uuid4() for _ in range(documents)]
            async with daemon(mosquitto) as one:
                one.publishing = False
                await one.publish_all(document(user) for user in users)
            print("first reading:", await asyncio.to_thread(started, state, mosquitto.port, "read"))
        print("from the file:", await asyncio.to_thread(started, state, 1, "file"))
        await calls(state, users[0])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))

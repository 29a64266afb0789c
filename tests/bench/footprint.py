"""What an idle daemon costs, how fast it starts, and what listeners add: `python -m tests.bench.footprint`.

With 200,000 users who have documents. Idle means after everything was published and repaired.
"""

import asyncio
import resource
import time
from contextlib import AsyncExitStack
from pathlib import Path

from kosmo_billing_daemon.contract.paths import API
from tests.bench.figures import Figure, at_most
from tests.bench.filling import filled, some_users
from tests.bench.load_generator import get
from tests.bench.rig import Rig, alone, daemon, services

USERS = 200_000
LISTENERS = 2_000
QUIET_SECONDS = 300.0
MEGABYTE = 1e6


def memory(pid: int) -> float:
    """Resident megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / MEGABYTE


def processor(pid: int) -> float:
    """Seconds on a processor so far, of all threads."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


def wake_ups(pid: int) -> int:
    """How often its threads went to sleep so far, and so were woken."""
    lines = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


async def until_idle(pid: int) -> None:
    """Return when the process used less than 3 % of a processor for two seconds."""
    async with asyncio.timeout(QUIET_SECONDS):
        before = processor(pid)
        while True:
            await asyncio.sleep(2)
            now = processor(pid)
            if now - before < 0.06:
                return
            before = now


async def idle(ours: Rig, seconds: float) -> list[Figure]:
    await until_idle(ours.pid)
    busy, woken, began = processor(ours.pid), wake_ups(ours.pid), time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    share = (processor(ours.pid) - busy) / passed * 100
    per_second = (wake_ups(ours.pid) - woken) / passed
    return [
        Figure(what="idle daemon, resident", value=memory(ours.pid), unit="MB", goal=at_most(80)),
        Figure(what=f"idle daemon, processor over {seconds:.0f} s", value=share, unit="%", goal=at_most(0.2)),
        Figure(what="  wake-ups of the idle daemon", value=per_second, unit="/s"),
    ]


async def listened_to(ours: Rig, number: int) -> Figure:
    """How much memory so many open event streams add."""
    users = await some_users(ours.database_url, number)
    address = ours.api.removeprefix("http://").split(":")
    before = memory(ours.pid)
    async with AsyncExitStack() as stack:
        for user_id in users:
            reader, writer = await asyncio.open_connection(address[0], int(address[1]))
            stack.callback(writer.close)
            writer.write(get(f"{API}/subscription/events", X_User_ID=str(user_id)))
            async with asyncio.timeout(30):
                answer = await reader.readuntil(b"data:")
            if b" 200 " not in answer:
                raise RuntimeError(f"no event stream: {answer.decode()}")
        more = memory(ours.pid) - before
    return Figure(what=f"{number:,} event streams, resident more", value=more, unit="MB", goal=at_most(60))


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    users = 2_000 if quick else USERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard)
    )  # for the streams, both ends
    found: list[Figure] = []
    async with services() as where:
        url = await filled(where, "footprint", invoices=users, users=users)
        async with daemon(where, database_url=url) as first:
            await until_idle(first.pid)  # the broker knows everybody now
        for last in range(rounds - 1, -1, -1):
            async with daemon(where, database_url=url) as ours:
                found.append(
                    Figure(
                        what=f"start to ready with {users:,} users",
                        value=ours.started,
                        unit="s",
                        goal=at_most(1),
                    )
                )
                if last == 0:
                    found += await idle(ours, 5 if quick else 40)
                    found.append(await listened_to(ours, LISTENERS))
    return found


if __name__ == "__main__":
    alone(measure, __doc__)

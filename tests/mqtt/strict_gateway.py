"""A strict gateway to be killed: `python -m tests.mqtt.strict_gateway NAME PORT FOLDER USERS`.

It writes down each message before it asks the gate, and what became of it after the gate said so. It ends
when the file `stop` is there; if `return` is there too, not before it has handed back what it leased.
"""

import asyncio
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker

TASKS = 8


async def main(name: str, port: int, folder: Path, users: list[UUID]) -> None:
    chance = random.Random()  # another order each time that it is started
    stop = folder / "stop"
    broker = Broker(host="127.0.0.1", port=port, client_id=name)
    with (folder / f"{name}.log").open("a", buffering=1) as log:

        async def send(gate: Gate) -> None:
            while not stop.exists():
                user = chance.choice(users)
                message_id = str(uuid4())
                log.write(f"tried {user} {message_id}\n")  # the gate writes the hold down before it returns
                hold = gate.hold(user, "!a1b2c3d4", message_id=message_id)
                if not hold:
                    await asyncio.sleep(0.01)
                    continue
                log.write(f"held {user} {hold.message_id}\n")
                await asyncio.sleep(chance.random() * 0.02)
                if chance.random() < 1 / 3:  # the radio refuses
                    if hold.release("no route"):
                        log.write(f"released {user} {hold.message_id}\n")
                else:
                    hold.commit()
                    log.write(f"committed {user} {hold.message_id}\n")

        async with Gate(
            broker, folder / f"{name}.db", reporter=name, strict=True, hold_timeout=1.0, ack_timeout=1.0
        ) as gate:
            await asyncio.gather(*(send(gate) for _ in range(TASKS)))
            returns = (folder / "return").exists()
            while (  # noqa: ASYNC110  no event says so
                gate.status.held or gate.status.unacknowledged or (returns and gate.status.leased)
            ):
                await asyncio.sleep(0.05)


Message = tuple[str, str]


def told(folder: Path, names: Iterable[str]) -> dict[str, set[Message]]:
    """What gateways wrote down: user and message id of what was tried, held, released, committed."""
    found: dict[str, set[Message]] = {"tried": set(), "held": set(), "released": set(), "committed": set()}
    logs = (folder / f"{name}.log" for name in names)
    for log in (log for log in logs if log.exists()):
        for line in log.read_text().splitlines():
            if len(words := line.split()) == 3:
                found[words[0]].add((words[1], words[2]))
    return found


async def check_counts(
    connection: "asyncpg.Connection[asyncpg.Record]", said: dict[str, set[Message]]
) -> None:
    """What was committed is counted, what was released is not, and of the rest only what a kill cut off."""
    rows = await connection.fetch("SELECT user_id, message_id FROM usage_events")
    used = await connection.fetchval("SELECT sum(messages_used) FROM subscriptions")
    counted = {(str(row["user_id"]), row["message_id"]) for row in rows}
    assert said["committed"]
    assert said["released"]
    assert said["committed"] <= counted
    assert not said["released"] & counted
    unresolved = said["tried"] - said["committed"] - said["released"]
    assert counted - said["committed"] <= unresolved
    assert used == len(counted)


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), [UUID(u) for u in sys.argv[4].split(",")])
    )

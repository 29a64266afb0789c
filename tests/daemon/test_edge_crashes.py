"""Usage is counted exactly once whoever is killed: daemon, broker and gateways, again and again."""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from tests.mqtt.strict_gateway import check_counts, told
from tests.services.test_leasing import WATCH
from tests.support.gateway import GatewayProcess
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

ROOT = Path(__file__).resolve().parents[2]
SEEN_TWICE = 10  # of a hundred messages that many are recorded by both gateways: duplicates
SECONDS = 150.0


@pytest.fixture
async def gateways(tmp_path: Path, world: World) -> AsyncIterator[list[GatewayProcess]]:
    both = [GatewayProcess(tmp_path, f"gateway-{number}", world.broker.port) for number in (1, 2)]
    try:
        yield both
    finally:
        for one in both:
            one.kill()


def twice(messages: int) -> int:
    return messages * SEEN_TWICE // 100


def share_out(users: list[UUID], gateways: list[GatewayProcess], messages: int) -> Counter[UUID]:
    """Give each gateway its part of the messages, in disorder; returns how many each user has sent."""
    chance = random.Random(7)
    now = utc_now()
    sent: Counter[UUID] = Counter()
    lines = []
    for number in range(messages):
        user_id = chance.choice(users)
        sent[user_id] += 1
        message = {
            "user_id": str(user_id),
            "message_id": f"m{number}",
            "node_id": "!0000000a",
            "sent_at": (now + timedelta(milliseconds=number)).isoformat(),  # within the purchases
        }
        lines.append(json.dumps(message))
    middle = messages // 2
    for one, part in zip(gateways, (lines[: middle + twice(messages)], lines[middle:]), strict=True):
        chance.shuffle(part)
        one.messages.write_text("".join(f"{line}\n" for line in part))
    return sent


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("messages", "kills_of_each"), [(4_000, 2), pytest.param(20_000, 4, marks=pytest.mark.soak)]
)
async def test_every_message_counts_exactly_once_over_kill_9_of_everybody(
    world: World, gateways: list[GatewayProcess], messages: int, kills_of_each: int
) -> None:
    daemon = await world.daemon()
    users = [await world.buy(daemon, plan=plan) for plan in ("wanderer", "guardian", "sanctuary") * 4]
    for user_id in users:
        await world.until_published(user_id)
    sent = share_out(users, gateways, messages)

    def kill_daemon() -> None:
        daemon.kill()
        daemon.launch()

    def kill_gateway(one: GatewayProcess) -> None:
        if not one.has_ended:
            one.kill()
            one.launch()

    kills = ["daemon", "broker", *gateways] * kills_of_each
    random.Random(11).shuffle(kills)
    for one in gateways:
        one.launch()
    for number, victim in enumerate(kills, start=1):
        # Spread over the recording, so that each meets messages in every state.
        due = (messages + twice(messages)) * number // (len(kills) + 1)
        await until(
            lambda due=due: sum(one.recorded for one in gateways) >= due,  # type: ignore[misc]
            lambda: "\n".join([*(one.log for one in gateways), world.logs]),
            SECONDS,
        )
        match victim:
            case "daemon":
                kill_daemon()
            case "broker":
                world.broker.kill()
                await world.broker.start()
            case GatewayProcess():
                kill_gateway(victim)
    await until(
        lambda: all(one.has_ended for one in gateways),
        lambda: "\n".join([*(one.log for one in gateways), world.logs]),
        SECONDS,
    )

    counted = await world.value("SELECT count(*) FROM usage_events")
    assert counted == messages
    async with world.sql() as connection:
        rows = await connection.fetch(
            "SELECT user_id, sum(messages_used) AS used FROM subscriptions GROUP BY user_id"
        )
    assert {row["user_id"]: int(row["used"]) for row in rows} == sent
    for user_id in users:
        await world.until_published(user_id, messages_used=sent[user_id])
    expected = {str(user_id): used for user_id, used in sent.items()}

    async def agrees() -> bool:
        """Whether a broker that may just have lost everything says what the database says."""
        found = await world.retained(TOPICS.entitlements_filter)
        return {document["user_id"]: document["messages_used"] for document in found.values()} == expected

    await until(agrees, lambda: world.logs)


SENDS = 20_000
GATES = ("one", "two", "three")

LEASED = """
SELECT coalesce(sum(greatest(0, messages - used)), 0)::bigint FROM leases AS l
JOIN subscriptions AS s ON s.id = l.subscription_id
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_strict_gates_killed_with_daemon_and_broker_count_commits_alone_and_never_oversell(
    world: World, tmp_path: Path
) -> None:
    """A third of the messages is refused by the radio; at every commit a trigger checks each user's limit."""
    chance = random.Random(17)
    generous = {"USAGE_MESSAGES_PER_MINUTE": "1000000", "USAGE_USERS_PER_MINUTE": "1000000"}
    daemon = await world.daemon(**generous)
    short, ample = [uuid4() for _ in range(4)], [uuid4() for _ in range(4)]
    await grant(world, [*short, *ample])
    raised = "UPDATE subscriptions SET messages_limit = $2 WHERE user_id = ANY ($1)"
    await world.execute(raised, short, 1_500)
    await world.execute(raised, ample, 6_000)
    await world.execute(WATCH)
    for user_id in (*short, *ample):
        await world.until_published(user_id)
    users = ",".join(str(user_id) for user_id in (*short, *ample))

    async def launch(name: str) -> asyncio.subprocess.Process:
        words = ("-m", "tests.mqtt.strict_gateway", name, str(world.broker.port), str(tmp_path), users)
        return await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT)

    (tmp_path / "return").touch()
    gates = {name: await launch(name) for name in GATES}
    kills: Counter[str] = Counter()
    try:
        while len(told(tmp_path, GATES)["held"] if kills else ()) < SENDS:
            await asyncio.sleep(chance.uniform(0.5, 2.5))
            victim = chance.choice(["daemon", "broker", *GATES])
            kills[victim] += 1
            if victim == "daemon":
                daemon.kill()
                await daemon.start(60.0)
            elif victim == "broker":
                world.broker.kill()
                await world.broker.start()
            else:
                gates[victim].kill()
                await gates[victim].wait()
                gates[victim] = await launch(victim)
        (tmp_path / "stop").touch()
        async with asyncio.timeout(180):
            assert [await gate.wait() for gate in gates.values()] == [0, 0, 0]
    finally:
        for gate in gates.values():
            if gate.returncode is None:
                gate.kill()
                await gate.wait()
    said = told(tmp_path, GATES)
    async with world.sql() as connection:
        await check_counts(connection, said)
        rows = await connection.fetch("SELECT user_id, messages_used, messages_limit FROM subscriptions")
    assert all(row["messages_used"] <= row["messages_limit"] for row in rows)

    async def returned() -> bool:
        return bool(await world.value(LEASED) == 0)

    await until(returned, lambda: "leases are outstanding", 60.0)
    full = sum(row["messages_used"] == row["messages_limit"] for row in rows)
    print({what: len(of) for what, of in said.items()}, dict(kills), f"{full} users at their limit")

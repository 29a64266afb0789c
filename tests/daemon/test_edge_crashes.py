"""Usage is counted exactly once whoever is killed: daemon, broker and gateways, again and again."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from tests.support.gateway import GatewayProcess
from tests.support.observer import TOPICS
from tests.support.world import World, until

MESSAGES = 20_000
SEEN_TWICE = MESSAGES // 10  # messages that both gateways record: a tenth of all are duplicates
KILLS = 4  # of each
SECONDS = 150.0


@pytest.fixture
async def gateways(tmp_path: Path, world: World) -> AsyncIterator[list[GatewayProcess]]:
    both = [GatewayProcess(tmp_path, f"gateway-{number}", world.broker.port) for number in (1, 2)]
    try:
        yield both
    finally:
        for one in both:
            one.kill()


def share_out(users: list[UUID], gateways: list[GatewayProcess]) -> Counter[UUID]:
    """Give each gateway its part of the messages, in disorder; returns how many each user has sent."""
    chance = random.Random(7)
    now = utc_now()
    sent: Counter[UUID] = Counter()
    lines = []
    for number in range(MESSAGES):
        user_id = chance.choice(users)
        sent[user_id] += 1
        message = {
            "user_id": str(user_id),
            "message_id": f"m{number}",
            "node_id": "!0000000a",
            "sent_at": (now + timedelta(milliseconds=number)).isoformat(),  # within the purchases
        }
        lines.append(json.dumps(message))
    middle = MESSAGES // 2
    for one, part in zip(gateways, (lines[: middle + SEEN_TWICE], lines[middle:]), strict=True):
        chance.shuffle(part)
        one.messages.write_text("".join(f"{line}\n" for line in part))
    return sent


@pytest.mark.timeout(300)
async def test_every_message_counts_exactly_once_over_kill_9_of_everybody(
    world: World, gateways: list[GatewayProcess]
) -> None:
    daemon = await world.daemon()
    users = [await world.buy(daemon, plan=plan) for plan in ("wanderer", "guardian", "sanctuary") * 4]
    for user_id in users:
        await world.until_published(user_id)
    sent = share_out(users, gateways)

    def kill_daemon() -> None:
        daemon.kill()
        daemon.launch()

    def kill_gateway(one: GatewayProcess) -> None:
        if not one.has_ended:
            one.kill()
            one.launch()

    kills = ["daemon", "broker", *gateways] * KILLS
    random.Random(11).shuffle(kills)
    for one in gateways:
        one.launch()
    for number, victim in enumerate(kills, start=1):
        # Spread over the recording, so that each meets messages in every state.
        due = (MESSAGES + SEEN_TWICE) * number // (len(kills) + 1)
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
    assert counted == MESSAGES
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

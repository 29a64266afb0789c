"""Strict gates on a real broker and database: together they never let more through than the limit."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.gate import Gate, Reason, StateOfAnother
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.mqtt.strict_gateway import check_counts, told
from tests.services.test_leasing import WATCH, standing
from tests.support.intake import intake
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually
from tests.support.usage import granted, subscribe

NODE = "!a1b2c3d4"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with Pool(Database(url=database_url)) as opened:
        async with opened.connection() as connection:
            await connection.execute(WATCH)
        yield opened


async def subscribed(pool: Pool, limit: int | None) -> Subscription:
    now = datetime.now(UTC)
    row = granted(
        uuid4(),
        messages_limit=limit,
        valid_from=now - timedelta(days=1),
        valid_until=now + timedelta(days=29),
    )
    async with pool.connection() as connection:
        await subscribe(connection, row)
    return row


def strict(broker: Mosquitto, name: str, state: Path, **settings: Any) -> Gate:
    at = Broker(host=broker.host, port=broker.port, client_id=name, username=name)
    return Gate(at, state / f"{name}.db", reporter=name, strict=True, **settings)


async def known(edge: Gate, user: UUID) -> None:
    await eventually(lambda: edge.check(user, NODE).reason is not Reason.UNKNOWN_USER, "the document")


async def send_all(edge: Gate, user: UUID) -> tuple[int, int]:
    """Send until nothing is left; returns how many passed and how many had to wait for a lease."""
    passed = waited = 0
    while True:
        with edge.hold(user, NODE) as hold:
            if hold:
                passed += 1
                await asyncio.sleep(0.002)
        if hold.reason is Reason.QUOTA_EXHAUSTED:
            return passed, waited
        if hold.reason is Reason.NO_LEASE:
            waited += 1
            try:
                await edge.leased(user, 0.5)
            except TimeoutError:
                if edge.status.leased == 0 and not edge.check(user, NODE):
                    continue


async def test_three_strict_gates_let_through_exactly_what_is_left(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    row = await subscribed(pool, 200)
    async with (
        intake(database_url, broker.port),
        strict(broker, "gw-1", tmp_path) as one,
        strict(broker, "gw-2", tmp_path) as two,
        strict(broker, "gw-3", tmp_path) as three,
    ):
        gates = (one, two, three)
        for edge in gates:
            await known(edge, row.user_id)
            assert edge.check(row.user_id, NODE).reason is Reason.NO_LEASE
        async with asyncio.timeout(30):
            sent = await asyncio.gather(*(send_all(edge, row.user_id) for edge in gates))
        assert sum(passed for passed, _ in sent) == 200
        await eventually(lambda: not any(edge.status.unacknowledged for edge in gates), "the counts")
        assert await standing(pool, row) == (200, 0)


async def test_a_gate_that_is_cut_off_lets_through_what_it_holds_also_after_a_restart(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    row = await subscribed(pool, 400)
    async with intake(database_url, broker.port):
        async with strict(broker, "gw-1", tmp_path) as edge:
            await known(edge, row.user_id)
            await edge.leased(row.user_id, 10)
            held = edge.status.leased
            for _ in range(4):
                with edge.hold(row.user_id, NODE):
                    pass
            assert edge.hold(row.user_id, NODE).release("no route")
            await eventually(lambda: edge.status.unacknowledged == 0, "the counts")
        async with Gate(
            Broker(host="127.0.0.1", port=9, client_id="gw-1"),
            tmp_path / "gw-1.db",
            reporter="gw-1",
            strict=True,
        ) as cut_off:
            passed = 0
            while True:
                with cut_off.hold(row.user_id, NODE) as hold:
                    if not hold:
                        break
                    passed += 1
            assert (hold.reason, passed) == (Reason.NO_LEASE, held - 4)
            assert cut_off.check(row.user_id, NODE).reason is Reason.NO_LEASE
            with pytest.raises(TimeoutError):
                await cut_off.leased(row.user_id, 0.1)
        async with strict(broker, "gw-1", tmp_path) as edge:
            await eventually(lambda: edge.status.unacknowledged == 0, "what it kept")
            used, _ = await standing(pool, row)
            assert used == held
            await edge.leased(row.user_id, 10)


async def test_a_question_without_an_answer_is_asked_again_after_a_restart(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    row = await subscribed(pool, 100)
    async with intake(database_url, broker.port), strict(broker, "gw-1", tmp_path) as edge:
        await known(edge, row.user_id)
    async with strict(broker, "gw-1", tmp_path) as edge:  # nobody answers
        assert edge.hold(row.user_id, NODE).reason is Reason.NO_LEASE
        assert edge.hold(row.user_id, NODE).reason is Reason.NO_LEASE
    async with intake(database_url, broker.port), strict(broker, "gw-1", tmp_path) as edge:
        await eventually(lambda: edge.status.leased > 0, "the lease")
        leased = edge.status.leased
    assert await standing(pool, row) == (0, leased)


async def test_an_unlimited_plan_needs_no_lease_and_an_old_subscription_gives_none(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    free, row = await subscribed(pool, None), await subscribed(pool, 100)
    async with intake(database_url, broker.port), strict(broker, "gw-1", tmp_path) as edge:
        await known(edge, free.user_id)
        await edge.leased(free.user_id, 1)
        assert edge.hold(free.user_id, NODE).remaining is None
        await known(edge, row.user_id)
        used_up = await subscribed(pool, 0)
        await known(edge, used_up.user_id)
        await edge.leased(used_up.user_id, 1)  # waiting would not help
        assert edge.hold(used_up.user_id, NODE).reason is Reason.QUOTA_EXHAUSTED
        await edge.leased(row.user_id, 10)
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE subscriptions SET status = 'replaced', ended_at = now() WHERE id = $1", row.id
            )
            await subscribe(connection, granted(row.user_id, messages_limit=7, valid_until=row.valid_until))
        await eventually(
            lambda: edge.check(row.user_id, NODE).reason is Reason.NO_LEASE, "the other subscription"
        )
        await edge.leased(row.user_id, 10)
        assert edge.hold(row.user_id, NODE)


async def test_a_copied_file_is_refused_by_a_gate_of_another_name(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    row = await subscribed(pool, 100)
    async with intake(database_url, broker.port), strict(broker, "gw-1", tmp_path) as edge:
        await known(edge, row.user_id)
        await edge.leased(row.user_id, 10)
    (tmp_path / "gw-1.db").rename(tmp_path / "gw-2.db")
    with pytest.raises(StateOfAnother, match="holds leases of gateway gw-1, and this is gw-2"):
        async with strict(broker, "gw-2", tmp_path):
            pass


async def test_of_two_gates_with_copies_of_one_file_only_one_goes_on(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    row = await subscribed(pool, 200)

    async def ask(path: Path) -> tuple[bool, str | None]:
        """Use up what is in the file, so that the gate must ask."""
        async with strict(broker, "gw-1", path) as edge:
            await known(edge, row.user_id)
            for _ in range(edge.status.leased):
                edge.hold(row.user_id, NODE).commit()
            edge.hold(row.user_id, NODE)
            await eventually(
                lambda: edge.status.leased > 0 or "copy" in str(edge.status.last_error), "an answer"
            )
            return edge.check(row.user_id, NODE).allowed, edge.status.last_error

    copy = tmp_path / "copy"
    copy.mkdir()
    async with intake(database_url, broker.port):
        assert await ask(tmp_path) == (True, None)
        (copy / "gw-1.db").write_bytes((tmp_path / "gw-1.db").read_bytes())
        assert await ask(tmp_path) == (True, None)
        allowed, problem = await ask(copy)
        assert not allowed
        assert "another gate uses a copy of this file" in str(problem)
        assert await ask(tmp_path) == (True, None)


@pytest.mark.timeout(120)
async def test_gates_daemon_and_broker_killed_at_random_count_what_was_committed_and_nothing_else(
    pool: Pool, database_url: str, broker: Mosquitto, tmp_path: Path
) -> None:
    """The trigger looks at every commit that no user is above the limit."""
    chance = random.Random(7)
    subscriptions = [await subscribed(pool, 300) for _ in range(3)]
    users = ",".join(str(row.user_id) for row in subscriptions)

    async def start(name: str) -> asyncio.subprocess.Process:
        words = ("-m", "tests.mqtt.strict_gateway", name, str(broker.port), str(tmp_path), users)
        return await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT)

    def written(name: str) -> int:
        """The bytes that a gateway wrote about its messages."""
        log = tmp_path / f"{name}.log"
        return log.stat().st_size if log.exists() else 0

    def works(name: str) -> bool:
        return written(name) > before[name] + 2_000  # some twenty messages since it was started

    gates = {name: await start(name) for name in ("one", "two", "three")}
    before = dict.fromkeys(gates, 0)
    try:
        for _ in range(2):
            async with intake(database_url, broker.port):
                for _ in range(2):
                    name = chance.choice(sorted(gates))
                    await eventually(partial(works, name), f"messages of {name}")
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    gates[name].kill()
                    await gates[name].wait()
                    before[name] = written(name)
                    gates[name] = await start(name)
            broker.kill()
            await broker.start()
        async with intake(database_url, broker.port):
            await eventually(lambda: all(map(works, gates)), "all at work")
            (tmp_path / "stop").touch()
            async with asyncio.timeout(60):
                assert [await gate.wait() for gate in gates.values()] == [0, 0, 0]
    finally:
        for gate in gates.values():
            if gate.returncode is None:
                gate.kill()
                await gate.wait()
    said = told(tmp_path, gates)
    async with pool.connection() as connection:
        await check_counts(connection, said)

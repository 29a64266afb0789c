"""Three daemons on one database: each payment has its effect once, and one speaks, whoever is cut off.

The world asserts at its end that no user's version ever fell on the broker. Seen failing: without the locks
of users and R1's constraint a payment had two effects, without the locks alone a traceback; two led when a
daemon did not ask whether it still leads; nobody led when a silent leader was left alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from random import Random
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from kosmo_billing_daemon.btcpay.signature import HEADER, sign
from kosmo_billing_daemon.contract.paths import API
from tests.daemon.test_two_daemons import counting, role
from tests.faults.signs import says
from tests.support.daemon import STORE, WEBHOOK_SECRET
from tests.support.houses import House, build_house, move_in
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.proxy import Mode
from tests.support.world import World, grant, until, world_around

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUTS = [
    Mode.REFUSE,
    pytest.param(Mode.SWALLOW, marks=pytest.mark.soak),
]  # half-open is noticed by silence alone


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def street(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> AsyncIterator[tuple[World, list[House]]]:
    """An installation with one daemon that leads, and two that stand by; BTCPay tells all of them."""
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(max_queued_messages=0))
        directory = tmp_path_factory.mktemp("street")
        world = await stack.enter_async_context(world_around(directory, module_database_url, broker))
        made = [await build_house(world, stack, name) for name in ("first", "second", "third")]
        await move_in(world, made[0], 20.0)
        await until(lambda: role(world, made[0].daemon, "leads"), "one that leads")
        await asyncio.gather(*(move_in(world, house, 20.0) for house in made[1:]))
        for house in made:
            await world.until_ready(house.daemon)
        yield world, made


@pytest_asyncio.fixture(loop_scope="module")
async def world(street: tuple[World, list[House]]) -> World:
    return street[0]


@pytest_asyncio.fixture(loop_scope="module")
async def houses(street: tuple[World, list[House]]) -> list[House]:
    """The three, the leader first, when all are ready."""
    world, houses = street
    for house in houses:
        await world.until_ready(house.daemon)
    leader = await one_leads(world, houses, 20.0)
    return [leader, *(house for house in houses if house is not leader)]


async def leaders(world: World, houses: Sequence[House]) -> list[House]:
    return [house for house in houses if await role(world, house.daemon, "leads")]


async def one_leads(world: World, houses: Sequence[House], seconds: float) -> House:
    """Wait until one of these leads; returns it."""
    found: list[House] = []

    async def one() -> bool:
        found[:] = await leaders(world, houses)
        return len(found) == 1

    print(f"one leads after {await until(one, world.logs, seconds):.1f} s")
    return found[0]


async def hint(world: World, house: House, invoice_id: str, delivery_id: str) -> None:
    body = (
        f'{{"deliveryId": "{delivery_id}", "type": "InvoiceSettled", "storeId": "{STORE}",'
        f' "invoiceId": "{invoice_id}"}}'
    ).encode()
    headers = {HEADER: sign(body, WEBHOOK_SECRET.encode()), "Content-Type": "application/json"}
    async with world.http.post(house.daemon.webhook_url, data=body, headers=headers) as response:
        assert response.status == 200


async def ask(world: World, house: House, invoice_id: str, user_id: UUID) -> None:
    """Look at an invoice as its buyer's page does, which settles it too."""
    url = f"{house.daemon.url}{API}/invoices/{invoice_id}"
    async with world.http.get(url, headers={"X-User-ID": str(user_id)}) as response:
        assert response.status == 200


async def test_hints_at_all_of_them_settle_each_payment_once(world: World, houses: list[House]) -> None:
    chance = Random(7)
    await world.simulator.drained()
    before = await world.value("SELECT count(*) FROM webhook_deliveries")
    world.simulator.set_faults(
        webhooks={"drop": 1}
    )  # what comes is told here, in an order of its own at each
    bought: dict[str, UUID] = {}
    for number in range(24):
        user_id = uuid4()
        bought[await world.order(houses[number % 3].daemon, user_id)] = user_id
    for invoice_id in bought:
        await world.pay(invoice_id)
    await world.execute("UPDATE btcpay_invoices SET observed_at = observed_at - interval '1 minute'")
    world.simulator.set_faults(slow_ms=100)  # so that who asks at all is answered at the same moment
    calls = []
    for house in houses:
        for invoice_id in chance.sample(list(bought), len(bought)):
            own = f"{invoice_id} at {house.daemon.name}"
            calls += [hint(world, house, invoice_id, name) for name in (own, invoice_id)]
            calls.append(ask(world, house, invoice_id, bought[invoice_id]))
    chance.shuffle(calls)
    await asyncio.gather(*calls)
    for user_id in bought.values():
        await world.until_published(user_id, status="active")
    world.simulator.set_faults(slow_ms=0, webhooks={"drop": 0})
    none_waits = "NOT EXISTS (SELECT FROM lookups WHERE hinted_at IS NOT NULL)"
    handled = f"SELECT count(*) FROM webhook_deliveries WHERE {none_waits}"  # noqa: S608  a constant

    async def all_handled() -> bool:
        return bool(await world.value(handled) == before + 4 * len(bought))

    await until(all_handled, "every delivery")
    users = list(bought.values())
    once = "SELECT array_agg(carried_rule) FROM subscriptions WHERE user_id = ANY ($1)"
    assert await world.value(once, users) == ["fresh"] * len(users)
    activated = "SELECT count(*) FROM events WHERE type = 'subscription.activated' AND user_id = ANY ($1)"
    assert await world.value(activated, users) == len(users)


@pytest.mark.parametrize("how", CUTS)
async def test_a_leader_cut_from_postgresql_alone_is_replaced(
    world: World, houses: list[House], how: Mode
) -> None:
    leader, *others = houses
    await grant(world, users := [uuid4(), uuid4()])
    await world.until_published(users[0])
    async with counting(world, *users):
        await leader.part("postgres", how)
        successor = await one_leads(world, others, 25.0)
        await world.until_published(await world.buy(successor.daemon))
        await says(world, leader.daemon, "unready", "database")
        await leader.heal()
        await world.until_ready(leader.daemon)
        assert await leaders(world, houses) == [successor]
    used = await world.value("SELECT messages_used FROM subscriptions WHERE user_id = $1", users[0])
    await world.until_published(users[0], messages_used=used)
    status = world.observer.last(TOPICS.status) or {}
    assert (status["state"], status["instance"]) == ("online", successor.daemon.name)


@pytest.mark.parametrize("how", CUTS)
async def test_a_leader_cut_from_the_broker_alone_leads_on_and_publishes_when_the_way_is_back(
    world: World, houses: list[House], how: Mode
) -> None:
    """What waits is told by its health; the others could speak, and are not asked to."""
    leader, *others = houses
    await leader.part("mosquitto", how)
    await says(world, leader.daemon, "degraded", "broker")
    user_id = await world.buy(others[0].daemon)
    held = "SELECT count(*) FROM subscriptions WHERE user_id = $1 AND status = 'active'"

    async def has_it() -> bool:
        return bool(await world.value(held, user_id) == 1)

    await until(has_it, "the purchase")
    assert await leaders(world, houses) == [leader]
    assert user_id not in world.observer.documents
    await leader.heal()
    print(f"published {await world.until_published(user_id, 5.0):.1f} s after the way was back")
    await world.until_ready(leader.daemon)
    assert await leaders(world, houses) == [leader]


@pytest.mark.soak
async def test_leaders_frozen_one_after_the_other_say_nothing_stale_when_they_wake(
    world: World, houses: list[House]
) -> None:
    await grant(world, users := [uuid4(), uuid4()])
    await world.until_published(users[0])
    frozen, awake = houses[:1], houses[1:]
    async with counting(world, *users):
        frozen[0].daemon.freeze()
        second = await one_leads(world, awake, 25.0)
        second.daemon.freeze()
        frozen.append(second)
        awake.remove(second)
        last = await one_leads(world, awake, 25.0)
        await world.until_published(await world.buy(last.daemon))
        for house in frozen:
            house.daemon.thaw()
        for house in frozen:
            await until(partial(role, world, house.daemon, "stands by"), house.daemon.log)
        assert await leaders(world, houses) == [last]
    used = await world.value("SELECT messages_used FROM subscriptions WHERE user_id = $1", users[0])
    await world.until_published(users[0], messages_used=used)

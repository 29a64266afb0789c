"""What was bought is what a gate allows, as fast as promised, with the real daemon at the other end."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from tests.contract.schemas import errors, schema_of
from tests.daemon.conftest import on_shared_loop
from tests.support.daemon import DaemonProcess
from tests.support.world import World, until

NODE, OTHER_NODE = "!a1b2c3d4", "!00000007"
SOON = 5.0  # seconds on a busy host; what nothing wakes waits for at least 15


@dataclass
class Time:
    """The clocks of a gate, which a test moves."""

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead.total_seconds()


@dataclass
class Edge:
    """A daemon and gates that know it."""

    world: World
    daemon: DaemonProcess
    directory: Path
    time: Time

    def gate(self, name: str = "gateway-1") -> Gate:
        broker = Broker(host=self.world.broker.host, port=self.world.broker.port, client_id=name)
        state = self.directory / f"{name}.db"
        return Gate(broker, state, reporter=name, clock=self.time.now, monotonic=self.time.monotonic)

    async def pay_for(self, user_id: UUID, plan: str) -> None:
        """Have the payment settle; the webhook is on its way when this returns."""
        await self.world.pay(await self.world.order(self.daemon, user_id, plan))

    async def list_node(self, method: str, user_id: UUID, node_id: str) -> None:
        url = f"{self.daemon.url}{API}/nodes/{node_id}"
        headers = {"X-User-ID": str(user_id)}
        async with self.world.http.request(method, url, headers=headers) as response:
            assert response.status < 300, await response.text()

    async def used(self, user_id: UUID) -> int:
        query = "SELECT coalesce(sum(messages_used), 0) FROM subscriptions WHERE user_id = $1"
        return int(await self.world.value(query, user_id))


SHARED_SETTINGS = {"PLANS_FILE": str(files("kosmo_billing_daemon.demo") / "plans.toml")}  # with a pack


@pytest.fixture
def edge(shared: World, tmp_path: Path) -> Edge:
    return Edge(shared, shared.daemons[0], tmp_path, Time())


async def until_answers(gate: Gate, user_id: UUID, reason: Reason, node_id: str = NODE) -> float:
    """Wait for an answer of the gate and return how long it took."""
    return await until(lambda: gate.check(user_id, node_id).reason is reason, lambda: gate.status)


@on_shared_loop
async def test_message_51_of_a_wanderer_is_refused_without_a_network(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        assert gate.check(user_id, NODE).reason is Reason.UNKNOWN_USER
        await edge.pay_for(user_id, "wanderer")
        await until_answers(gate, user_id, Reason.OK)
        edge.world.broker.freeze()
        for left in range(50, 0, -1):
            decision = gate.check(user_id, NODE)
            assert (decision.allowed, decision.remaining) == (True, left)
            gate.record(user_id, NODE)
        decision = gate.check(user_id, NODE)
        assert (decision.reason, decision.remaining) == (Reason.QUOTA_EXHAUSTED, 0)
        edge.world.broker.thaw()
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
        assert await edge.used(user_id) == 50
        await until(lambda: "quota.exhausted" in edge.world.observer.events(user_id), "the event")
        assert gate.check(user_id, NODE).reason is Reason.QUOTA_EXHAUSTED


@on_shared_loop
async def test_a_purchase_opens_a_drained_gate_at_once(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "wanderer")
        await until_answers(gate, user_id, Reason.OK)
        for _ in range(50):
            gate.record(user_id, NODE)
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
        invoice_id = await edge.world.order(edge.daemon, user_id, "wanderer")
        assert gate.check(user_id, NODE).reason is Reason.QUOTA_EXHAUSTED
        began = time.monotonic()
        await edge.world.pay(invoice_id)
        await until_answers(gate, user_id, Reason.OK)
        assert time.monotonic() - began < SOON
        assert gate.check(user_id, NODE).remaining == 50
        await until(lambda: "quota.reset" in edge.world.observer.events(user_id), "the event")


@on_shared_loop
async def test_a_pack_opens_a_drained_gate_at_once_and_adds_no_time(edge: Edge) -> None:
    world, user_id = edge.world, uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "wanderer")
        await until_answers(gate, user_id, Reason.OK)
        for _ in range(50):
            gate.record(user_id, NODE)
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
        assert gate.check(user_id, NODE).reason is Reason.QUOTA_EXHAUSTED
        ends = world.observer.documents[user_id]["valid_until"]
        invoice_id = await world.order(edge.daemon, user_id, pack="extra_50")
        began = time.monotonic()
        await world.pay(invoice_id)
        await until_answers(gate, user_id, Reason.OK)
        assert time.monotonic() - began < SOON
        assert gate.check(user_id, NODE).remaining == 50
        await world.until_published(user_id, messages_limit=100, valid_until=ends)
        await until(lambda: "quota.topped_up" in world.observer.events(user_id), "the event")


@on_shared_loop
async def test_a_guardian_writes_to_listed_nodes_alone(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "guardian")
        await until_answers(gate, user_id, Reason.NODE_NOT_ALLOWED)
        await edge.list_node("PUT", user_id, NODE)
        assert await until_answers(gate, user_id, Reason.OK) < SOON
        assert gate.check(user_id, NODE.upper())
        assert gate.check(user_id, OTHER_NODE).reason is Reason.NODE_NOT_ALLOWED
        await edge.list_node("DELETE", user_id, NODE)
        assert await until_answers(gate, user_id, Reason.NODE_NOT_ALLOWED) < SOON


@on_shared_loop
async def test_a_sanctuary_is_unlimited(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "sanctuary")
        await until_answers(gate, user_id, Reason.OK)
        for _ in range(1200):
            gate.record(user_id, OTHER_NODE)
        decision = gate.check(user_id, NODE, count=100_000)
        assert (decision.reason, decision.remaining) == (Reason.OK, None)
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
        assert await edge.used(user_id) == 1200
        assert gate.check(user_id, NODE)


async def test_rights_end_with_daemon_and_broker_both_off(world: World, tmp_path: Path) -> None:
    edge, user_id = Edge(world, await world.daemon(), tmp_path, Time()), uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "sanctuary")
        await until_answers(gate, user_id, Reason.OK)
        edge.daemon.kill()
        world.broker.kill()
        await until(lambda: not gate.status.connected, lambda: gate.status)
        edge.time.ahead = timedelta(days=30) - timedelta(minutes=5)
        assert gate.check(user_id, NODE)
        edge.time.ahead = timedelta(days=30, seconds=1)
        assert gate.check(user_id, NODE).reason is Reason.EXPIRED
    # And started again from its file, with a clock that was set back meanwhile.
    edge.time.ahead = timedelta(days=29)
    async with edge.gate() as gate:
        assert gate.check(user_id, NODE).reason is Reason.EXPIRED


@on_shared_loop
async def test_the_quota_is_shared_by_all_gates(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate("gateway-1") as first, edge.gate("gateway-2") as second:
        await first.ready(20)
        await second.ready(20)
        await edge.pay_for(user_id, "wanderer")
        for gate in (first, second):
            await until_answers(gate, user_id, Reason.OK)
        for _ in range(50):
            first.record(user_id, NODE)
        assert await until_answers(second, user_id, Reason.QUOTA_EXHAUSTED) < SOON


@on_shared_loop
async def test_a_revoked_payment_closes_the_gate(edge: Edge) -> None:
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        invoice_id = await edge.world.order(edge.daemon, user_id, "wanderer")
        await edge.world.simulator.act(invoice_id, "mark_settled")
        await until_answers(gate, user_id, Reason.OK)
        await edge.world.simulator.act(invoice_id, "mark_invalid")
        await until_answers(gate, user_id, Reason.REVOKED)


@on_shared_loop
async def test_everything_said_in_a_subscriber_s_life_fits_the_contract_s_document(edge: Edge) -> None:
    """Purchase, list, use, warning, exhaustion, another purchase, marked settled and then invalid."""
    user_id = uuid4()
    async with edge.gate() as gate:
        await gate.ready(20)
        await edge.pay_for(user_id, "wanderer")
        await until_answers(gate, user_id, Reason.OK)
        await edge.list_node("PUT", user_id, NODE)
        for _ in range(60):
            gate.record(user_id, NODE)
        await until(lambda: "quota.exhausted" in edge.world.observer.events(user_id), "the event")
        await until(lambda: gate.status.unacknowledged == 0, lambda: gate.status)
        invoice_id = await edge.world.order(edge.daemon, user_id, "sanctuary")
        await edge.world.simulator.act(invoice_id, "mark_settled")
        await until_answers(gate, user_id, Reason.OK)
        await edge.world.simulator.act(invoice_id, "mark_invalid")
        await until(lambda: "subscription.revoked" in edge.world.observer.events(user_id), "the event")
        said = edge.world.observer
        last = said.documents[user_id]["version"]
        await until(lambda: said.watermark["sequence"] >= last, "the watermark")
    seen = set()
    for message in said.messages:  # those of the other tests too
        if not message.payload:
            continue
        payload = json.loads(message.payload)
        schema = schema_of(message.topic, payload)
        seen.add(schema)
        assert errors(schema, payload) == [], (message.topic, payload)
        if schema == "Entitlement":
            EntitlementDocument.decode(message.payload)
    assert seen >= {
        "Entitlement",
        "Status",
        "Watermark",
        "UsageReport",
        "UsageAck",
        "TimeRequest",
        "TimeAnswer",
        "SubscriptionEvent",
        "QuotaEvent",
        "InvoiceEvent",
    }

"""A broker that grants everything and delivers nothing: the status says what does not come."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, TOPICS, Daemon, daemon, document, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

STATE = ("entitlements/#", "watermark", "status")
OWN = ("usage-acks/gateway-1", "time-answers/gateway-1")


@asynccontextmanager
async def denying(*denied: str) -> AsyncIterator[tuple[Broker, Daemon]]:
    """A broker at which gateway-1 may write what it should, and read all but this."""
    readable = [f"topic read {TOPICS.prefix}/{branch}" for branch in (*STATE, *OWN) if branch not in denied]
    writable = f"topic write {TOPICS.usage('gateway-1')}\ntopic write {TOPICS.time_request('gateway-1')}\n"
    acl = f"topic readwrite #\nuser gateway-1\n{writable}" + "\n".join(readable)
    async with Mosquitto(acl=acl, lines=["allow_anonymous true"]) as mosquitto, daemon(mosquitto) as one:
        await one.publish_all([document()])
        yield Broker(host=mosquitto.host, port=mosquitto.port, client_id="g", username="gateway-1"), one


def says(edge: Gate, *words: str) -> bool:
    return any(all(word in problem for word in words) for problem in edge.status.problems)


@pytest.mark.parametrize(
    ("denied", "words"),
    [
        (STATE, ("nothing came from", TOPICS.status, TOPICS.watermark, "let gateway-1 read it")),
        (("status",), ("nothing came from", TOPICS.status)),
        (("entitlements/#",), ("0 of 1 documents arrived", "ACL")),
    ],
)
async def test_what_never_comes_is_named(
    state: Path, denied: tuple[str, ...], words: tuple[str, ...]
) -> None:
    async with denying(*denied) as (broker, _), Gate(broker, state) as edge:
        await eventually(lambda: says(edge, *words), "the problem", 10.0)
        assert edge.status.last_error


async def test_usage_acks_that_never_come_are_a_problem_until_they_do(state: Path) -> None:
    async with (
        denying(OWN[0]) as (broker, one),
        Gate(broker, state, reporter="gateway-1", ack_timeout=0.1) as edge,
    ):
        edge.record(uuid4(), NODE)
        await eventually(
            lambda: says(edge, "no usage-ack came", TOPICS.usage_ack("gateway-1")), "the problem"
        )
        assert edge.status.clock_proven_at is not None, "the time is answered elsewhere"
        await one.status("offline")
        await eventually(lambda: edge.status.daemon_online is False, "the end of the daemon")
        assert edge.status.last_error is None, "nobody is there to acknowledge anything"


async def test_a_gate_with_all_its_rights_has_no_problem(state: Path) -> None:
    async with (
        denying() as (broker, _),
        Gate(broker, state, reporter="gateway-1", ack_timeout=0.1) as edge,
    ):
        edge.record(uuid4(), NODE)
        await eventually(lambda: edge.status.unacknowledged == 0 and edge.status.complete, "the answers")
        assert edge.status.problems == ()


async def test_an_account_that_may_not_ask_for_the_time_works_as_before(state: Path) -> None:
    acl = "\n".join(f"topic read {TOPICS.prefix}/{branch}" for branch in STATE)
    acl = f"topic readwrite #\nuser gateway-1\n{acl}"
    async with Mosquitto(acl=acl, lines=["allow_anonymous true"]) as mosquitto, daemon(mosquitto) as one:
        await one.publish_all([document()])
        broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="g", username="gateway-1")
        async with Gate(broker, state) as edge:
            await edge.ready(10)
            await eventually(lambda: says(edge, "cannot be asked for the time"), "the problem")
            assert edge.status.connected
            assert edge.status.clock_proven_at is None


async def test_more_documents_than_the_watermark_counts_are_a_problem(
    mosquitto: Mosquitto, state: Path
) -> None:
    running = [1000.0]
    async with daemon(mosquitto) as one, gate(mosquitto, state, monotonic=lambda: running[0]) as edge:
        await one.publish_all([document(), document()])
        await one.watermark(entitlements=1)  # a restored database knows one of them no more
        await edge.ready(10)
        await eventually(lambda: edge._parts.documents.expected == 1, "the watermark")
        assert edge.status.problems == (), "a document may come before it is counted"
        running[0] += 11.0
        assert says(edge, "holds 2 documents", "counts 1")
        await one.watermark()
        await eventually(lambda: edge.status.problems == (), "the end of it")

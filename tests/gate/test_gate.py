"""A gate on a real broker: documents arrive, decisions change, messages are reported."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.payloads import Scope, Standing
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Protocol, connect
from tests.gate.stand_in import NODE, TOPICS, at, daemon, document, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


def at_the_gate(number: int) -> list[UUID]:
    return [uuid4() for _ in range(number)]


@pytest.mark.parametrize("protocol", list(Protocol))
async def test_thousands_of_documents_arrive_whole_from_a_broker_with_default_limits(
    mosquitto: Mosquitto, state: Path, protocol: Protocol
) -> None:
    """It queues a thousand for each client, and drops the rest in silence."""
    users = at_the_gate(3_000)
    async with daemon(mosquitto) as one:
        await one.publish_all(document(user) for user in users)
    async with Gate(replace(at(mosquitto), protocol=protocol), state) as edge:
        await edge.ready(30)
        assert edge.status.documents == len(users)
        assert edge.status.complete
        assert all(edge.check(user, NODE).reason is Reason.OK for user in users)


async def test_documents_crowded_in_one_shard_arrive_whole_too(mosquitto: Mosquitto, state: Path) -> None:
    users = [UUID(int=(0x01 << 120) | number) for number in range(2500)]
    async with daemon(mosquitto) as one:
        await one.publish_all(document(user) for user in users)
    async with gate(mosquitto, state) as edge:
        await edge.ready(30)
        assert edge.status.documents == len(users)


async def test_a_purchase_a_revocation_and_a_whitelist_reach_the_gate(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        assert edge.check(user, NODE).reason is Reason.UNKNOWN_USER
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the purchase")
        await one.change(user, scope=Scope.WHITELIST, allowed_nodes=("!fffffffe",))
        await eventually(lambda: edge.check(user, NODE).reason is Reason.NODE_NOT_ALLOWED, "the whitelist")
        assert edge.check(str(user), "!FFFFFFFE")
        await one.change(user, status=Standing.REVOKED, scope=Scope.NONE)
        await eventually(lambda: edge.check(user, NODE).reason is Reason.REVOKED, "the revocation")


async def test_message_51_of_a_wanderer_is_refused_and_a_purchase_opens_again(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        for left in range(50, 0, -1):
            assert edge.check(user, NODE).remaining == left
            edge.record(user, NODE)
        assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
        await eventually(lambda: one.ledger.used(user) == 50, "the count")
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
        now = datetime.now(UTC)
        await one.change(user, subscription_id=uuid4(), messages_used=0, valid_from=now)
        await eventually(lambda: edge.check(user, NODE).remaining == 50, "the new plan", 1.0)


async def test_slow_counting_never_refuses_what_is_left(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        one.publishing = False
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        for burst in range(1, 6):
            for _ in range(10):
                assert edge.check(user, NODE)
                edge.record(user, NODE)
            await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
            assert edge.check(user, NODE).remaining == 50 - 10 * burst
            await one.publish_usage()
            # The whole bill is with the document now, and still nothing counts twice.
            await eventually(lambda: edge._entries[user.int].own == 0, "the document")
            assert edge.check(user, NODE).remaining == 50 - 10 * burst


async def test_two_gates_share_a_quota(mosquitto: Mosquitto, tmp_path: Path) -> None:
    user = uuid4()
    async with (
        daemon(mosquitto) as one,
        gate(mosquitto, tmp_path / "1.db") as first,
        Gate(at(mosquitto, "gateway-2"), tmp_path / "2.db", reporter="gateway-2") as second,
    ):
        await one.publish(document(user))
        for edge in (first, second):
            await eventually(lambda edge=edge: edge.check(user, NODE).allowed, "the plan")  # type: ignore[misc]
        for _ in range(25):
            first.record(user, NODE)
            second.record(user, NODE)
        for edge in (first, second):
            await eventually(lambda edge=edge: not edge.check(user, NODE), "the end")  # type: ignore[misc]
        assert one.ledger.used(user) == 50


async def test_stale_repeated_and_malformed_documents_change_nothing(
    mosquitto: Mosquitto, state: Path
) -> None:
    user, other = uuid4(), uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user, version=7, messages_limit=70))
        await eventually(lambda: edge.check(user, NODE).allowed, "the newest")
        for version in (6, 7):
            await one.publish(document(user, version=version, messages_limit=1))
        await one.link.publish(TOPICS.entitlement(user), b'{"version": 8}')
        await one.link.publish(TOPICS.entitlement(user), document(other, version=9).encode())
        await one.link.publish(TOPICS.entitlement(user).replace("/entitlements/", "/entitlements/x"), b"{")
        await one.publish(document(other))
        await eventually(lambda: edge.check(other, NODE).allowed, "the last document")
        assert edge.check(user, NODE).remaining == 70
        assert edge.status.malformed == 2


async def test_an_empty_document_makes_a_user_unknown(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        await one.link.publish(TOPICS.entitlement(user), b"", retain=True)
        await eventually(lambda: edge.check(user, NODE).reason is Reason.UNKNOWN_USER, "the end")
    async with gate(mosquitto, state) as edge:
        assert edge.status.documents == 0


async def test_the_same_message_counts_once_also_after_it_was_acknowledged(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        for _ in range(2):
            assert edge.record(user, NODE, "the-same") == "the-same"
            await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        await eventually(lambda: edge.check(user, NODE).remaining == 49, "the document")
        assert one.ledger.used(user) == 1


async def test_ids_used_again_are_told_wherever_they_were_counted(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = uuid4()
    packets = [str(number) for number in range(1000, 1020)]
    async with daemon(mosquitto) as one:
        await one.publish(document(user))
        async with gate(mosquitto, tmp_path / "1.db") as edge:
            for turn in range(2):
                for packet in packets:  # the radio counts anew after a reboot
                    edge.record(user, NODE, packet)
                await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
                assert edge.status.duplicates == 20 * turn
        async with gate(mosquitto, tmp_path / "another card.db", ack_timeout=0.2) as edge:
            one.acknowledging = False
            for packet in packets:
                edge.record(user, NODE, packet)
            before = one.ledger.reports
            await eventually(lambda: one.ledger.reports >= before + 2, "a repeat")
            assert edge.status.duplicates == 0, "what a repeat finds counted is no duplicate"
            one.acknowledging = True
            edge.record(user, NODE, packets[0])
            await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
            assert edge.status.duplicates == 1
        async with gate(mosquitto, tmp_path / "third card.db") as edge:
            for packet in packets:
                edge.record(user, NODE, packet)
            await eventually(lambda: edge.status.duplicates == 20, "what the daemon says")
        assert one.ledger.used(user) == 20
        assert "are ids used again" in caplog.text


async def test_a_message_the_daemon_refuses_still_weighs_and_is_an_error(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        one.refusing.add("old")
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        edge.record(user, NODE, "old", sent_at=datetime.now(UTC) - timedelta(seconds=5))
        edge.record(user, NODE, "new")
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        assert edge.status.rejected == 1
        assert edge.check(user, NODE).remaining == 48
        await one.change(user, messages_used=2)  # another gate's message pays for nothing that was refused
        await eventually(lambda: edge.check(user, NODE).remaining == 47, "the growth")
    async with daemon(mosquitto, one.ledger) as one, gate(mosquitto, state) as edge:
        assert edge.check(user, NODE).remaining == 47
        assert "did not count 1 messages" in str(edge.status.last_error)
        now = datetime.now(UTC)
        await one.change(user, subscription_id=uuid4(), messages_used=0, valid_from=now)
        await eventually(lambda: edge.check(user, NODE).remaining == 50, "the next plan")
        assert edge.status.last_error is None


async def test_unacknowledged_reports_are_sent_again(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state, ack_timeout=0.1) as edge:
        one.acknowledging = False
        edge.record(user, NODE)
        await eventually(lambda: one.ledger.reports >= 2, "a repeat")
        assert edge.status.unacknowledged == 1
        assert edge.status.oldest_unacknowledged is not None
        one.acknowledging = True
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        assert one.ledger.used(user) == 1


async def test_many_messages_travel_in_few_reports(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await eventually(lambda: edge.status.connected, "the connection")
        for _ in range(3000):
            edge.record(user, NODE)
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgements")
        assert one.ledger.used(user) == 3000
        assert one.ledger.reports <= 10


async def test_messages_with_long_ids_fit_the_packets_of_the_broker(state: Path) -> None:
    user = uuid4()
    async with (
        Mosquitto(lines=["max_packet_size 131072"]) as broker,
        daemon(broker) as one,
        gate(broker, state) as edge,
    ):
        for number in range(1000):
            edge.record(user, NODE, f"{number:04}".ljust(128, "é"))
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgements")
        assert one.ledger.used(user) == 1000


async def test_ids_are_unique_and_sort_by_time(mosquitto: Mosquitto, state: Path) -> None:
    async with gate(mosquitto, state) as edge:
        ids = [edge.record(uuid4(), NODE) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert sorted(i[:13] for i in ids) == [i[:13] for i in ids]


async def test_a_bridge_checks_and_cannot_record(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state, reporter=None) as edge:
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        with pytest.raises(RuntimeError, match="only checks"):
            edge.record(user, NODE)


async def test_a_refused_report_is_shown_and_kept(state: Path) -> None:
    acl = f"topic readwrite {TOPICS.prefix}/entitlements/#\ntopic read {TOPICS.prefix}/#"
    async with Mosquitto(acl=acl) as broker, gate(broker, state) as edge:
        edge.record(uuid4(), NODE)
        await eventually(lambda: "refused a publication" in str(edge.status.last_error), "the refusal")
        assert edge.status.unacknowledged == 1
        assert edge.status.connected


async def test_recorded_messages_can_be_made_durable_together(mosquitto: Mosquitto, state: Path) -> None:
    async with gate(mosquitto, state) as edge:
        for _ in range(10):
            edge.record(uuid4(), NODE)
        await asyncio.gather(*(edge.durable() for _ in range(50)))


async def test_ready_waits_for_the_documents_and_no_longer_than_asked(
    mosquitto: Mosquitto, state: Path
) -> None:
    async with gate(mosquitto, state) as edge:
        with pytest.raises(TimeoutError):
            await edge.ready(0.05)
    async with daemon(mosquitto) as one:
        await one.publish_all([document()])
        async with gate(mosquitto, state) as edge:
            await edge.ready(10)
    async with gate(mosquitto, state) as edge:
        await edge.ready(0)  # from the file


async def test_a_first_daemon_after_the_gate_makes_it_complete(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with gate(mosquitto, state) as edge:
        edge.record(user, NODE)
        await eventually(lambda: edge.status.connected, "the connection")
        async with daemon(mosquitto) as one:
            await one.publish_all(document(name) for name in (user, *at_the_gate(20)))
            await eventually(lambda: edge.status.unacknowledged == 0, "the report, sent again")
            assert one.ledger.used(user) == 1
            await edge.ready(20)


async def test_users_removed_while_the_gate_was_away_are_forgotten(mosquitto: Mosquitto, state: Path) -> None:
    users = at_the_gate(3)
    async with daemon(mosquitto) as one:
        await one.publish_all(document(user) for user in users)
        async with gate(mosquitto, state) as edge:
            await edge.ready(10)
        del one.ledger.documents[users[0]]
        await one.link.publish(TOPICS.entitlement(users[0]), b"", retain=True)
        await one.watermark(sequence=2)
        async with gate(mosquitto, state) as edge:
            assert edge.check(users[0], NODE)
            await eventually(lambda: edge.status.documents == 2, "the reading")


async def test_a_broker_that_lost_its_memory_takes_no_rights_away(mosquitto: Mosquitto, state: Path) -> None:
    users = at_the_gate(5)
    async with daemon(mosquitto) as one:
        await one.publish_all(document(user) for user in users)
        await one.watermark(sequence=9)
        async with gate(mosquitto, state) as edge:
            await edge.ready(10)
    mosquitto.kill()
    await mosquitto.start()
    async with connect(at(mosquitto, "daemon")) as link, gate(mosquitto, state) as edge:
        old = b'{"sequence":3,"entitlements":0,"version_ceiling":1,"database":"one"}'
        await link.publish(TOPICS.watermark, old, retain=True)
        await eventually(lambda: edge.status.connected, "the connection")
        parts = edge._parts
        await eventually(lambda: parts.connection.steady_since is not None, "the reading")
        assert all(edge.check(user, NODE) for user in users)


async def test_closing_leaves_no_task_behind(mosquitto: Mosquitto, state: Path) -> None:
    before = len(asyncio.all_tasks())
    async with gate(mosquitto, state) as edge:
        await eventually(lambda: edge.status.connected, "the connection")
    assert len(asyncio.all_tasks()) == before
    with pytest.raises(RuntimeError, match="not open"):
        _ = edge.status

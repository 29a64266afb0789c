"""A disk that is full or broken: the gate decides on, and says so."""

import sqlite3
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.contract.payloads import Scope, Standing
from kosmo_billing_daemon.gate import Gate, NotJournaled, Reason
from tests.gate.stand_in import NODE, daemon, document, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


def fill_disk(edge: Gate) -> None:
    """Let SQLite find no more room, as on a full disk."""
    sql = edge._parts.state.sql
    sql.execute(f"PRAGMA max_page_count = {sql.execute('PRAGMA page_count').fetchone()[0]}")


def empty_disk(edge: Gate) -> None:
    edge._parts.state.sql.execute("PRAGMA max_page_count = 1000000")


def fill_up(edge: Gate) -> int:
    """Record until there is no room; return how many messages were written down."""
    for written in range(100_000):
        try:
            edge.record(uuid4(), NODE)
        except NotJournaled:
            return written
    raise AssertionError("the disk never filled up")


async def test_a_full_disk_loses_no_decision_and_no_revocation(mosquitto: Mosquitto, state: Path) -> None:
    user, other = uuid4(), uuid4()
    async with daemon(mosquitto) as one:
        one.acknowledging = False
        await one.publish_all([document(user), document(other)])
        async with gate(mosquitto, state, ack_timeout=60.0) as edge:
            await edge.ready(10)
            fill_disk(edge)
            fill_up(edge)
            with pytest.raises(NotJournaled):
                edge.record(user, NODE)
            assert edge.check(user, NODE).remaining == 49
            for number in range(200):  # more documents than the last page has room for
                await one.publish(document(messages_limit=number))
            await one.change(other, status=Standing.REVOKED, scope=Scope.NONE)
            await eventually(lambda: edge.check(other, NODE).reason is Reason.REVOKED, "the revocation")
            assert "could not be written" in str(edge.status.last_error)
            empty_disk(edge)
            await one.change(user, messages_limit=60)
            await eventually(lambda: edge.status.last_error is None, "the recovery")
            assert edge.check(user, NODE).remaining == 59
    mosquitto.kill()
    async with gate(mosquitto, state) as edge:
        assert edge.status.documents == 202
        assert edge.check(other, NODE).reason is Reason.REVOKED


async def test_what_was_written_before_the_disk_filled_up_is_reported(
    mosquitto: Mosquitto, state: Path
) -> None:
    async with gate(mosquitto, state) as edge:
        fill_disk(edge)
        written = fill_up(edge)
    sql = sqlite3.connect(state)
    (waiting,) = sql.execute("SELECT count(*) FROM journal WHERE stage = 0").fetchone()
    sql.close()
    assert waiting == written
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await eventually(lambda: len(one.ledger.counted) == written, "the reports")

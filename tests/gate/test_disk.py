"""A disk that is full or broken: the gate decides on, and says so."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.contract.payloads import Scope, Standing
from kosmo_billing_daemon.gate import Gate, NotJournaled, Reason, StateInUse, StateUnwritable
from kosmo_billing_daemon.link import Broker
from tests.faults.disk import disk
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
    """Record until there is no room for anybody; return how many messages were written down.

    A user's place in the index may have room when another's has none, so one refusal is not enough.
    """
    written = refused = 0
    while refused < 200:
        assert written < 100_000, "the disk never filled up"
        try:
            edge.record(uuid4(), NODE)
        except NotJournaled:
            refused += 1
        else:
            written, refused = written + 1, 0
    return written


async def test_a_full_disk_loses_no_decision_and_no_revocation(mosquitto: Mosquitto, state: Path) -> None:
    user, other = uuid4(), uuid4()
    async with daemon(mosquitto) as one:
        one.acknowledging = one.publishing = False
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
            assert edge.status.unwritten == 0
            await eventually(
                lambda: one.ledger.used(user) == 1, "the report of what was not written at first"
            )
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as a backup by another program does."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_acknowledgements_on_a_full_disk_cost_no_connection_and_wait_for_room(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    user = uuid4()
    with disk(tmp_path / "disk") as small:
        async with gate(mosquitto, small.path / "gate.db", ack_timeout=0.5) as edge:
            for _ in range(20):
                edge.record(user, NODE)
            small.fill()
            seen: list[tuple[bool, int]] = []
            async with daemon(mosquitto) as one:
                await one.publish_all([document(user)])
                await eventually(
                    lambda: "could not be written" in str(edge.status.last_error), "the full disk"
                )
                await one.status("online")
                await eventually(lambda: one.ledger.reports == 1, "the report")
                while len(seen) < 30:  # three times as long as reports wait for their acknowledgements
                    seen.append((edge.status.connected, edge.status.unacknowledged))
                    await asyncio.sleep(0.05)
                assert set(seen) == {(True, 20)}
                assert one.ledger.reports == 1
                await eventually(lambda: edge.check(user, NODE).allowed, "the document")
                small.make_room()
                await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement, written")
                await eventually(lambda: edge.status.last_error is None, "the recovery")
                assert one.ledger.used(user) == 20


async def test_a_lock_of_another_program_stops_nothing_and_a_retry_counts_once(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        one.publishing = False
        await one.publish_all([document(user), document()])
        await edge.ready(10)
        edge.record(user, NODE, "before")
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with locked(state):
            for _ in range(4):
                with pytest.raises(NotJournaled, match="locked"):
                    edge.record(user, NODE, "meanwhile")
            assert edge.record(user, NODE, "before") == "before"
            assert edge.check(user, NODE).remaining == 48
            await one.change(user, messages_limit=60)
            await eventually(lambda: edge.check(user, NODE).remaining == 58, "the change")
            assert (edge.status.unwritten, edge.status.duplicates) == (1, 1)
            assert "locked" in str(edge.status.last_error)
            assert loop.time() - begun < 2.0, "somebody waited for the lock"
        await eventually(lambda: one.ledger.used(user) == 2, "the report, without another record")
        await eventually(lambda: edge.status.last_error is None, "the recovery")
        assert edge.record(user, NODE, "meanwhile") == "meanwhile"
        assert (edge.check(user, NODE).remaining, edge.status.unwritten) == (58, 0)
    async with gate(mosquitto, state) as edge:
        assert edge.check(user, NODE).remaining == 58


async def test_a_lock_at_the_end_is_waited_for(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    lock = locked(state)
    async with gate(mosquitto, state) as edge:
        lock.__enter__()
        with pytest.raises(NotJournaled):
            edge.record(user, NODE)
        asyncio.get_running_loop().call_later(0.5, lock.__exit__, None, None, None)
    async with gate(mosquitto, state) as edge:
        assert edge.status.unacknowledged == 1


async def test_a_place_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path: Path) -> None:
    nobody = Broker(host="127.0.0.1", port=9, client_id="g")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").touch()
    with disk(tmp_path / "full") as small:
        (small.path / "something").write_bytes(bytes(4096))
        small.fill()
        for path in (
            tmp_path / "no folder" / "gate.db",
            tmp_path / "a folder",
            tmp_path / "a file" / "gate.db",
            small.path / "gate.db",
            Path("/proc/gate.db"),
        ):
            with pytest.raises(StateUnwritable, match=r"cannot be written.*Gate\(broker, None\)"):
                async with Gate(nobody, path):
                    pass
    assert (tmp_path / "a folder").is_dir()


async def test_a_gate_that_finds_its_file_locked_says_so(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Broker(host="127.0.0.1", port=9, client_id="g")
    async with Gate(nobody, state):
        pass
    monkeypatch.setattr("kosmo_billing_daemon.gate.state.PATIENCE", 0.1)
    other = sqlite3.connect(state, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateInUse, match="another program"):
        async with Gate(nobody, state):
            pass
    other.close()

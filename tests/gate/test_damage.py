"""A damaged state file: the gate starts with everything that can be read, and with nothing that is wrong."""

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.gate import Gate, Reason, salvage
from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.lease_rows import LeaseRow, LeaseRows
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.pages import PAGE
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.seal import break_seal
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, daemon, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

NOBODY = Broker(host="127.0.0.1", port=9, client_id="g")  # nobody listens there
ON_A_PAGE = 60  # messages or documents, at most


class Written(NamedTuple):
    """What is in an undamaged file."""

    content: bytes
    documents: dict[int, UserEntry]
    messages: dict[tuple[int, str], Row]
    leases: set[LeaseRow]


def write(path: Path) -> Written:
    state, now = StateFile(path), datetime.now(UTC).timestamp()
    nodes = frozenset(f"!{number:08x}" for number in range(300))  # more than one page holds
    documents = {
        uuid4().int: UserEntry(
            number,
            (None, Reason.REVOKED, Reason.EXPIRED, Reason.NO_PLAN)[number % 4],
            nodes if number == 8 else frozenset({NODE}) if number % 2 else None,
            50,
            7,
            uuid4().int,
            100.0,
            now + 1e6,
        )
        for number in range(1, 60)
    }
    users = list(documents)
    journal = Journal(state)
    with state.transaction():
        state.save_documents(documents.items())
        for number in range(150):
            journal.append(Row(0, users[number % 59], f"m-{number}-{uuid4()}", NODE, 1 + number % 3, now))
        journal.acknowledged(journal.waiting(0, 50), MessageStage.DONE)
        state.save_fact("complete", 1.0)
        state.save_fact("mark", now)
        leases = {LeaseRow(uuid4().bytes, user, uuid4().int, 16, now + 1e6) for user in users[:20]}
        for lease in leases:
            LeaseRows(state).save(lease)
    messages = {(row.user, row.message_id): row for row in journal.waiting(0, 1000)}
    state.close()
    return Written(path.read_bytes(), documents, messages, leases)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("whole") / "gate.db")


def rights(entry: UserEntry) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in UserEntry.__slots__ if name not in {"own", "seen"})


class Left(NamedTuple):
    """What a gate started with."""

    lost_documents: int
    lost_messages: int
    loss: str | None


def started(path: Path, written: Written) -> Left:
    """Open a file as a gate does, use it, and compare what it holds with what was written."""
    state = StateFile(path)
    journal, entries, loss = Journal(state), state.loaded.entries, state.loss
    ledger = UsageLedger(journal, entries, 1000)
    assert all(rights(entry) == rights(written.documents[user]) for user, entry in entries.items())
    assert set(LeaseRows(state).leases()) <= written.leases
    waiting = journal.waiting(0, 1000)
    unknown = {row for row in waiting if (row.user, row.message_id) not in written.messages}
    assert len(unknown) <= 1, "one that was done may not be recognisable as such"
    for row in waiting:
        assert row in unknown or row[1:] == written.messages[row.user, row.message_id][1:]
    assert ledger.record(Row(0, uuid4().int, "another", NODE, 1, 1.0))
    assert journal.waiting_rows == len(waiting) + 1
    assert journal.rejected() == 0
    state.close()
    lost = len(written.messages) - len(waiting) + len(unknown)
    return Left(len(written.documents) - len(entries), lost, loss)


@pytest.fixture
def fast() -> Iterator[Path]:
    """Where hundreds of files are made and synchronised: in memory, if there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108  a fixture
    with TemporaryDirectory(prefix="kosmo-gate-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def emptied(directory: Path) -> Path:
    for file in directory.iterdir():
        file.unlink()
    return directory / "gate.db"


def pages(content: bytes) -> Iterator[tuple[str, int, bytes]]:
    chance = random.Random(1)
    for number in range(len(content) // PAGE):
        for how, page in (("zeroed", bytes(PAGE)), ("random", chance.randbytes(PAGE))):
            yield how, number, content[: number * PAGE] + page + content[(number + 1) * PAGE :]


def test_a_gate_starts_with_any_page_destroyed_and_loses_what_was_on_it(
    fast: Path, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    for how, number, content in pages(written.content):
        path = emptied(fast)
        path.write_bytes(content)
        left = started(path, written)
        assert left.loss is not None, f"page {number} {how}: nothing said"
        assert left.lost_documents <= ON_A_PAGE, f"page {number} {how}"
        assert left.lost_messages <= ON_A_PAGE, f"page {number} {how}"
        assert path.with_name("gate.db.unreadable-1").read_bytes() == content


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("header", "count"), [(25, 50), pytest.param(100, 2_000, marks=pytest.mark.soak)])
def test_a_gate_starts_with_any_bit_flipped_and_nobody_has_other_rights(
    fast: Path, written: Written, caplog: pytest.LogCaptureFixture, header: int, count: int
) -> None:
    caplog.set_level("CRITICAL")
    chance = random.Random(2)
    used = [place for place, byte in enumerate(written.content) if byte]
    places = [*chance.sample(range(100), header), *chance.sample(used, count)]  # the header, and anywhere
    for place in places:
        content = bytearray(written.content)
        content[place] ^= 1 << chance.randrange(8)
        path = emptied(fast)
        path.write_bytes(content)
        left = started(path, written)
        lost = left.lost_documents + left.lost_messages
        assert lost <= ON_A_PAGE, f"byte {place}"
        assert not lost or left.loss is not None, f"byte {place}: nothing said"


def test_the_seal_of_an_orderly_close_hides_no_damage(fast: Path, written: Written) -> None:
    path = emptied(fast)
    path.write_bytes(written.content)
    StateFile(path).close()
    sealed = path.with_name("gate.db.seal").read_text()
    assert break_seal(path)
    assert not break_seal(path), "a seal is broken once"
    for place in range(100, len(written.content), len(written.content) // 60):
        path = emptied(fast)
        damaged = bytearray(written.content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        path.with_name("gate.db.seal").write_text(sealed)
        left = started(path, written)
        lost = left.lost_documents + left.lost_messages
        assert not lost or left.loss is not None, f"byte {place}: nothing said"


def test_a_file_in_use_has_no_seal(fast: Path) -> None:
    path = emptied(fast)
    StateFile(path).close()
    sealed = path.with_name("gate.db.seal").read_text()
    state = StateFile(path)
    assert not path.with_name("gate.db.seal").exists()
    Journal(state).append(Row(0, 1, "after", NODE, 1, 1.0))
    path.with_name("gate.db.seal").write_text(sealed)  # as after a power cut that lost its removal
    assert not break_seal(path), "its log has more"
    state.close()


async def test_a_damaged_log_is_noticed_and_what_is_whole_in_it_is_kept(
    fast: Path, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    state = StateFile(fast / "gate.db")
    journal = Journal(state)
    for row in written.messages.values():
        journal.append(row)
    names = ("gate.db", "gate.db-wal")
    content = {name: (fast / name).read_bytes() for name in names}  # as kill -9 leaves them
    state.close()
    log = content["gate.db-wal"]
    size = len(log)
    for place in (0, 17, 30, 32, 60, size // 2, size // 2 + 2000, size - 100):
        path = emptied(fast)
        path.write_bytes(content["gate.db"])
        changed = bytearray(log)
        changed[place] ^= 8
        path.with_name("gate.db-wal").write_bytes(changed)
        async with Gate(NOBODY, path, reporter="g") as edge:
            lost = len(written.messages) - edge.status.unacknowledged
            assert lost <= ON_A_PAGE, f"byte {place}"
            assert not lost or edge.status.loss is not None, f"byte {place}: nothing said"


async def test_the_loss_is_told_until_the_file_set_aside_is_deleted(tmp_path: Path, written: Written) -> None:
    path = tmp_path / "gate.db"
    path.write_bytes(written.content[:PAGE] + bytes(PAGE) + written.content[2 * PAGE :])
    async with Gate(NOBODY, path, reporter="g") as edge:
        assert "set aside as gate.db.unreadable-1; kept 59 documents" in str(edge.status.loss)
    async with Gate(NOBODY, path, reporter="g") as edge:
        assert "gate.db.unreadable-1: set aside at an earlier start" in str(edge.status.loss)
    path.with_name("gate.db.unreadable-1").unlink()
    async with Gate(NOBODY, path, reporter="g") as edge:
        assert edge.status.loss is None


async def test_a_start_interrupted_while_it_replaces_the_file_loses_nothing(
    tmp_path: Path, written: Written
) -> None:
    path = tmp_path / "gate.db"
    path.write_bytes(written.content[:PAGE] + bytes(PAGE) + written.content[2 * PAGE :])
    StateFile(path).close()
    path.rename(path.with_name("gate.db.recovered"))  # as after the first of two renames
    path.with_name("gate.db-wal").write_bytes(b"of the old file")
    left = started(path, written)
    assert (left.lost_documents, left.lost_messages) == (0, 0)
    path.with_name("gate.db.recovered").write_bytes(b"half of a new file")  # before them
    async with Gate(NOBODY, path, reporter="g") as edge:
        assert edge.status.documents == len(written.documents)


async def test_messages_of_a_file_set_aside_are_listed_and_written_back_from_a_shell(
    tmp_path: Path, written: Written
) -> None:
    aside, state = tmp_path / "gate.db.unreadable-1", tmp_path / "gate.db"
    aside.write_bytes(bytes(PAGE) + written.content[PAGE:])
    assert len(salvage(aside).unsent) == len(written.messages)

    def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kosmo_billing_daemon.gate", "salvage", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own

    listed = [json.loads(line) for line in shell(str(aside)).stdout.splitlines()]
    assert {(UUID(one["user_id"]).int, one["message_id"]) for one in listed} == written.messages.keys()
    assert shell(str(aside), "--into", str(state)).stdout.startswith("100 of 100 messages written")
    assert shell(str(aside), "--into", str(state)).stdout.startswith("0 of 100 messages written")
    async with Gate(NOBODY, state, reporter="g") as edge:
        assert edge.status.unacknowledged == len(written.messages)
        for wrong in (shell(str(aside), "--into", str(state)), shell(str(tmp_path / "nothing"))):
            assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1), wrong.stderr


FIRST_SCHEMA = """
PRAGMA application_id = 0x4B4F4742; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    user BLOB PRIMARY KEY, version INTEGER NOT NULL, refusal TEXT, nodes TEXT, quota INTEGER,
    used INTEGER NOT NULL, subscription BLOB, valid_from REAL NOT NULL, ends REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, message_id TEXT NOT NULL, node TEXT NOT NULL,
    count INTEGER NOT NULL, sent_at REAL NOT NULL, stage INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user, message_id)
);
CREATE INDEX journal_waiting ON journal (seq) WHERE stage = 0;
CREATE INDEX journal_open ON journal (user, seq) WHERE stage < 2;
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, message_id TEXT NOT NULL, reason TEXT NOT NULL
);
"""


async def test_a_file_of_the_first_schema_is_taken_over_and_its_messages_are_reported(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    user, now = uuid4(), datetime.now(UTC).timestamp()
    sql = sqlite3.connect(tmp_path / "gate.db", isolation_level=None)
    sql.executescript(FIRST_SCHEMA)
    sql.execute("INSERT INTO facts VALUES ('mark', ?), ('complete', 1.0), ('sequence', 1.0)", (now,))
    sql.execute(
        "INSERT INTO documents VALUES (?, 3, NULL, NULL, 50, 4, ?, ?, ?)",
        (user.bytes, uuid4().bytes, now - 9e4, now + 9e4),
    )
    for stage in MessageStage:
        sql.execute(
            "INSERT INTO journal (user, message_id, node, count, sent_at, stage) VALUES (?, ?, ?, 1, ?, ?)",
            (user.bytes, stage.name, NODE, now - 60, stage),
        )
    sql.execute(
        "INSERT INTO rejected (user, message_id, reason) VALUES (?, 'REFUSED', 'too old')", (user.bytes,)
    )
    sql.close()
    async with gate(mosquitto, tmp_path / "gate.db") as edge:
        assert edge.check(user, NODE).remaining == 50 - 4 - 4  # all but what was done or released
        assert (edge.status.unacknowledged, edge.status.held, edge.status.rejected) == (2, 1, 1)
        assert "schema 1" in str(edge.status.loss)
        edge.record(user, NODE, "DONE")
        assert edge.status.duplicates == 1
        async with daemon(mosquitto) as one:
            await eventually(lambda: edge.status.unacknowledged == 0, "the reports")
            assert one.ledger.counted == {(user, "WAITING"): 1, (user, "COUNTED"): 1}

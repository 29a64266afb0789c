"""The file of a gate: what it keeps, and what happens when it is not what it should be."""

import logging
import sqlite3
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.gate import Reason, StateInUse
from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.journal import REJECTED_KEPT, REMEMBERED, Journal
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.state import StateFile, checkpoint


def entry(version: int = 1, nodes: frozenset[str] | None = None, refusal: Reason | None = None) -> UserEntry:
    return UserEntry(version, refusal, nodes, 50, 7, uuid4().int, 100.0, 1000.0)


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    written = {
        uuid4().int: entry(),
        uuid4().int: entry(2, frozenset({"!1", "two words"})),
        uuid4().int: entry(3, frozenset()),
        5: entry(4, None, Reason.REVOKED),
    }
    state = StateFile(tmp_path / "gate.db")
    with state.transaction():
        state.save_documents(written.items())
        state.save_fact("mark", 123.5)
    state.close()
    again = StateFile(tmp_path / "gate.db")
    assert again.loaded.mark == 123.5
    names = set(UserEntry.__slots__)
    assert {user: {n: getattr(e, n) for n in names} for user, e in again.loaded.entries.items()} == {
        user: {n: getattr(e, n) for n in names} for user, e in written.items()
    }
    again.close()


@pytest.mark.parametrize("damage", [b"this is no database at all" * 100, b""])
def test_an_unreadable_file_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    path = tmp_path / "gate.db"
    state = StateFile(path)
    with state.transaction():
        state.save_documents((uuid4().int, entry()) for _ in range(1000))
    state.close()
    whole = path.read_bytes()
    path.write_bytes(damage or whole[:4096] + b"\xff" * (len(whole) - 4096))
    with caplog.at_level(logging.ERROR):
        again = StateFile(path)
    assert again.loaded.entries == {}
    assert (tmp_path / "gate.db.unreadable-1").exists()
    assert "moved aside" in caplog.text
    again.close()


def test_a_file_of_another_schema_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "gate.db"
    StateFile(path).close()
    sql = sqlite3.connect(path)
    sql.execute("PRAGMA user_version = 99")
    sql.close()
    StateFile(path).close()
    assert (tmp_path / "gate.db.unreadable-1").exists()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    sql = sqlite3.connect(path)
    sql.execute("CREATE TABLE theirs (a)")
    sql.close()
    before = path.read_bytes()
    with pytest.raises(Misconfigured, match="another program"):
        StateFile(path)
    assert path.read_bytes() == before


def test_one_file_serves_one_gate(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "gate.db")
    with pytest.raises(StateInUse):
        StateFile(tmp_path / "gate.db")
    state.close()
    StateFile(tmp_path / "gate.db").close()


def test_a_checkpoint_empties_the_log_beside_the_writer(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "gate.db")
    journal = Journal(state)
    for number in range(50):
        journal.append(Row(0, 1, str(number), "!1", 1, 0.0))
    before = (tmp_path / "gate.db").stat().st_size
    checkpoint(tmp_path / "gate.db")
    assert (tmp_path / "gate.db").stat().st_size >= before
    journal.append(Row(0, 1, "after", "!1", 1, 0.0))
    state.close()
    again = StateFile(tmp_path / "gate.db")
    assert Journal(again).waiting_rows == 51
    again.close()


def test_old_ids_and_old_rejections_are_forgotten(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "gate.db")
    journal = Journal(state)
    with state.transaction():
        for number in range(REMEMBERED + 10):
            journal.append(Row(0, 1, str(number), "!1", 1, 0.0))
        rows = journal.waiting(0, REMEMBERED + 10)
        journal.acknowledged(rows, MessageStage.DONE)
        for number in range(REJECTED_KEPT + 5):
            journal.reject(Row(0, 1, str(number), "!1", 1, 0.0), "too old")
        journal.forget_done()
    assert not journal.knows(1, "9")
    assert journal.knows(1, "10")
    assert journal.rejected() == REJECTED_KEPT
    state.close()

"""Own messages beside the daemon's count: never too few, too many only for moments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.errors import NotJournaled
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.ledger import SETTLED, UsageLedger
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.state import StateFile

USER = uuid4()
FIRST, SECOND = uuid4().int, uuid4().int  # subscriptions
START = 1_772_000_000.0


class Book:
    """A ledger over one user's documents, with the steps of a journey as methods."""

    def __init__(self, path: Path, limit: int = 1000) -> None:
        self.state = StateFile(path)
        self.journal = Journal(self.state)
        self.entries = self.state.loaded.entries
        self.ledger = UsageLedger(self.journal, self.entries, limit)
        self._number = 0

    def document(self, used: int, subscription: int = FIRST, valid_from: float = START) -> None:
        entry = UserEntry(1, None, None, 50, used, subscription, valid_from, START + 1e6)
        old = self.entries.get(USER.int)
        growth = self.ledger.pay(USER.int, old, entry)
        self.entries[USER.int] = entry
        self.ledger.replaced(USER.int, old, entry, growth)
        self.state.save_documents([(USER.int, entry)])

    def record(self, number: int, at: float = START + 10.0, user: UUID = USER) -> None:
        for _ in range(number):
            self._number += 1
            self.ledger.record(Row(0, user.int, f"message-{self._number}", "!1", 1, at))

    def hold(self, at: float = START + 10.0) -> None:
        self._number += 1
        held = Row(0, USER.int, f"message-{self._number}", "!1", 1, at, MessageStage.HELD)
        assert self.ledger.hold(held)

    def send(self) -> list[Row]:
        rows = self.journal.waiting(0, 500)
        self.ledger.sent(rows)
        return rows

    def acknowledge(self, rows: list[Row], at: float = 0.0, **rejected: str) -> None:
        self.ledger.acknowledged(rows, {key.replace("_", "-"): why for key, why in rejected.items()}, at)

    @property
    def used(self) -> int:
        """What the gate takes for used."""
        entry = self.entries[USER.int]
        return entry.used + entry.own


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gate.db"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    book = Book(path)
    yield book
    book.state.close()


def test_a_message_counts_at_once_and_once(book: Book) -> None:
    book.document(used=5)
    row = Row(0, USER.int, "same", "!1", 1, START)
    assert book.ledger.record(row)
    assert not book.ledger.record(row)
    assert book.used == 6


def test_acknowledgement_before_document_never_forgets_a_message(book: Book) -> None:
    book.document(used=0)
    book.record(25)
    rows = book.send()
    book.acknowledge(rows)
    assert book.used == 25
    book.document(used=25)
    assert book.used == 25


def test_document_before_acknowledgement_counts_twice_only_until_it_comes(book: Book) -> None:
    book.document(used=0)
    book.record(25)
    rows = book.send()
    book.document(used=25)
    assert book.used == 50
    book.acknowledge(rows)
    assert book.used == 25


def test_documents_may_come_in_parts(book: Book) -> None:
    book.document(used=0)
    book.record(3)
    first = book.send()
    book.acknowledge(first)
    book.record(4)
    second = book.send()
    book.document(used=3)
    assert book.used == 7
    book.acknowledge(second)
    assert book.used == 7
    book.document(used=7)
    assert book.used == 7


def test_growth_by_others_is_added_to_what_is_not_acknowledged(book: Book) -> None:
    book.document(used=0)
    book.record(5)
    book.document(used=10)
    assert book.used == 15


def test_growth_before_a_report_left_does_not_pay_for_it(book: Book) -> None:
    book.document(used=0)
    book.record(5)
    book.document(used=10)
    book.acknowledge(book.send())
    assert book.used == 15
    book.document(used=15)
    assert book.used == 15


def test_messages_of_the_former_subscription_do_not_burden_the_new_one(book: Book) -> None:
    book.document(used=45)
    book.record(5, at=START + 10.0)
    book.document(used=0, subscription=SECOND, valid_from=START + 20.0)
    assert book.used == 0
    book.record(1, at=START + 21.0)
    assert book.used == 1
    book.record(1, at=START + 19.0)  # heard late, sent before
    assert book.used == 1


def test_acknowledged_messages_of_the_former_subscription_are_done_with(book: Book) -> None:
    book.document(used=45)
    book.record(5, at=START + 10.0)
    book.acknowledge(book.send())
    book.document(used=0, subscription=SECOND, valid_from=START + 20.0)
    assert book.used == 0
    assert book.journal.counted(USER.int) == []


def test_a_message_sent_after_a_purchase_counts_for_it_even_if_the_document_comes_later(book: Book) -> None:
    book.document(used=45)
    book.record(1, at=START + 21.0)
    book.acknowledge(book.send())
    book.document(used=0, subscription=SECOND, valid_from=START + 20.0)
    assert book.used == 1
    book.document(used=1, subscription=SECOND, valid_from=START + 20.0)
    assert book.used == 1


def test_a_restart_changes_no_answer(path: Path) -> None:
    book = Book(path)
    book.document(used=0)
    book.record(3)
    book.acknowledge(book.send())
    book.record(4)
    assert book.used == 7
    book.state.close()
    again = Book(path)
    assert again.used == 7
    again.document(used=3)
    assert again.used == 7
    again.state.close()


def test_a_rejected_message_weighs_until_the_next_plan_and_is_remembered(book: Book) -> None:
    book.document(used=0)
    book.record(2)
    book.acknowledge(book.send(), message_1="too old")
    assert book.used == 2
    assert book.journal.rejected() == 1
    assert "message-1 too old" in str(book.journal.refused())
    book.document(used=1)
    assert book.used == 2
    book.document(used=9)  # growth by others pays for nothing that was never counted
    book.ledger.settle(SETTLED + 1.0, steady_since=0.0)
    assert book.used == 10
    book.document(used=0, subscription=SECOND, valid_from=START + 20.0)
    assert book.used == 0
    assert book.journal.refused() is None


def test_what_nothing_paid_for_is_settled_after_a_steady_while(book: Book) -> None:
    book.document(used=1)  # includes the message already: its first acknowledgement was lost in a crash
    book.record(1)
    book.acknowledge(book.send(), at=100.0)
    assert book.used == 2
    book.ledger.settle(100.0 + SETTLED - 1.0, steady_since=50.0)
    assert book.used == 2
    book.ledger.settle(100.0 + SETTLED, steady_since=110.0)
    assert book.used == 2
    book.ledger.settle(110.0 + SETTLED, steady_since=110.0)
    assert book.used == 1


def test_messages_of_a_user_nobody_knows_count_when_the_document_comes(book: Book) -> None:
    book.record(3)
    book.document(used=0)
    assert book.used == 3


def test_a_full_journal_says_so_and_still_counts(path: Path) -> None:
    book = Book(path, limit=2)
    book.document(used=0)
    book.record(2)
    with pytest.raises(NotJournaled, match="full"):
        book.record(1)
    assert book.used == 3
    book.document(used=0)
    assert book.used == 3
    book.state.close()


def test_a_counter_set_back_by_the_operator_pays_for_nothing(book: Book) -> None:
    book.document(used=30)
    book.record(2)
    book.acknowledge(book.send())
    book.document(used=10)
    assert book.used == 12


@pytest.mark.parametrize("order", ["ack-doc", "doc-ack"])
def test_alone_a_gate_is_exact_after_every_exchange(book: Book, order: str) -> None:
    book.document(used=0)
    for exchange in range(1, 11):
        book.record(5)
        steps: dict[str, Any] = {}
        rows = book.send()
        steps["ack"] = lambda rows=rows: book.acknowledge(rows)
        steps["doc"] = lambda exchange=exchange: book.document(used=5 * exchange)
        for step in order.split("-"):
            steps[step]()
            assert book.used >= 5 * exchange
        assert book.used == 5 * exchange

"""Leases and unanswered questions in the state file; see ``leases``."""

from typing import NamedTuple

from kosmo_billing_daemon.contract.lease_payloads import MAX_OPENINGS
from kosmo_billing_daemon.gate.errors import StateOfAnother
from kosmo_billing_daemon.gate.rows import blob, lease_sum
from kosmo_billing_daemon.gate.state import StateFile


class LeaseRow(NamedTuple):
    """A lease as it was granted, or what is kept of it; ``expires_at`` in epoch seconds."""

    lease: bytes
    user: int
    subscription: int
    messages: int
    expires_at: float


class QuestionRow(NamedTuple):
    """A question without an answer; one that hands back names the lease and what is kept of it."""

    request_id: str
    user: int
    want: int
    lease: bytes | None
    kept: int


class LeaseRows:
    """The statements on leases; the caller opens transactions."""

    def __init__(self, state: StateFile) -> None:
        self.transaction = state.transaction
        self._sql = state.sql

    def leases(self) -> list[LeaseRow]:
        query = "SELECT lease, user, subscription, messages, expires_at FROM leases"
        return [
            LeaseRow(lease, int.from_bytes(user), int.from_bytes(subscription), messages, expires_at)
            for lease, user, subscription, messages, expires_at in self._sql.execute(query)
        ]

    def used(self) -> dict[bytes, int]:
        """How many messages each lease let through or holds, as the journal knows."""
        query = "SELECT lease, sum(count) FROM journal WHERE lease IS NOT NULL AND stage < 3 GROUP BY lease"
        return dict(self._sql.execute(query))

    def questions(self) -> list[QuestionRow]:
        query = "SELECT request_id, user, want, lease, kept FROM questions"
        return [
            QuestionRow(request_id, int.from_bytes(user), want, lease, kept)
            for request_id, user, want, lease, kept in self._sql.execute(query)
        ]

    def save(self, row: LeaseRow) -> None:
        lease = row.lease, blob(row.user), blob(row.subscription), row.messages, row.expires_at
        query = "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?)"
        self._sql.execute(query, (*lease, lease_sum(*lease)))

    def remove(self, lease: bytes) -> None:
        self._sql.execute("DELETE FROM leases WHERE lease = ?", (lease,))

    def open(self, name: str) -> tuple[str, ...]:
        """Note that the file was opened; returns the openings since the last answered one, newest last."""
        with self.transaction():
            self._sql.execute("INSERT INTO openings (name) VALUES (?)", (name,))
        names = [name for (name,) in self._sql.execute("SELECT name FROM openings ORDER BY seq")]
        return (names[0], *names[1:][-(MAX_OPENINGS - 1) :])

    def opened(self) -> None:
        """Forget all openings but the present one: an answer came to it."""
        self._sql.execute("DELETE FROM openings WHERE seq < (SELECT max(seq) FROM openings)")

    def ask(self, row: QuestionRow) -> None:
        self._sql.execute(
            "INSERT OR REPLACE INTO questions VALUES (?, ?, ?, ?, ?)",
            (row.request_id, blob(row.user), row.want, row.lease, row.kept),
        )

    def answered(self, request_id: str) -> None:
        self._sql.execute("DELETE FROM questions WHERE request_id = ?", (request_id,))


OWNER = "strict:"
"""A fact whose name ends with the name of the strict gate whose file this is."""


def check_owner(state: StateFile, reporter: str) -> None:
    """Make the file that of a strict gate; raises ``StateOfAnother`` when another one's leases are in it."""
    names = state.sql.execute("SELECT name FROM facts WHERE name LIKE ?", (f"{OWNER}%",)).fetchall()
    others = [name.removeprefix(OWNER) for (name,) in names if name != f"{OWNER}{reporter}"]
    if others and LeaseRows(state).leases():
        raise StateOfAnother(
            f"{state.path} holds leases of gateway {others[0]}, and this is {reporter}: a copied file would"
            " use them twice; start with a file of its own"
        )
    with state.transaction():
        state.sql.execute("DELETE FROM facts WHERE name LIKE ?", (f"{OWNER}%",))
        state.save_fact(f"{OWNER}{reporter}", 1.0)

"""Messages that passed the gate, from the moment they were held or recorded until the daemon's count is in a
document.

A row goes WAITING (to be acknowledged) → COUNTED (acknowledged, maybe not in the document yet) → DONE, which
only remembers the id so that recording it again changes nothing. One that the daemon refused to count goes
WAITING → REFUSED and weighs here as long as its user has that plan: it happened. A hold begins as HELD, which
weighs and is not reported, and becomes WAITING or RELEASED, which weighs no more and may be held again.

Rows are changed and not deleted, save the oldest, so a gap in the numbers is a loss.
"""

from collections.abc import Iterable, Sequence

from kosmo_billing_daemon.gate.rows import MessageStage, Row, blob, message_sum
from kosmo_billing_daemon.gate.state import StateFile

REMEMBERED = 50_000  # newest rows whose ids are kept when DONE; about 100 bytes each
REJECTED_KEPT = 1000


class Journal:
    """The statements on the journal; the caller opens transactions where several belong together.

    ``waiting_rows`` is kept by the ledger: a statement counts only once it is committed.
    """

    def __init__(self, state: StateFile) -> None:
        self.transaction, self.failed = state.transaction, state.failed
        self._sql = state.sql
        (self.waiting_rows,) = self._one("SELECT count(*) FROM journal WHERE stage = 0")

    def append(self, row: Row) -> int:
        """Write one message down and return its number; 0 when this message of this user already was.

        One that was released is written down anew, under its old number.
        """
        _, user, message_id, node, count, sent_at, stage, lease = row
        message = blob(user), message_id, node, count, sent_at, lease
        checksum = message_sum(*message[:5], lease=lease)
        new = self._sql.execute(
            "INSERT INTO journal (user, message_id, node, count, sent_at, lease, stage, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*message, stage, checksum),
        )
        if new.rowcount > 0 and new.lastrowid is not None:
            return new.lastrowid
        again = self._sql.execute(
            "UPDATE journal SET node = ?, count = ?, sent_at = ?, lease = ?, stage = ?, checksum = ?"
            " WHERE user = ? AND message_id = ? AND stage = 3 RETURNING seq",
            (*message[2:], stage, checksum, *message[:2]),
        ).fetchone()
        return 0 if again is None else int(again[0])

    def knows(self, user: int, message_id: str) -> bool:
        query = "SELECT 1 FROM journal WHERE user = ? AND message_id = ? AND stage < 3"
        return self._sql.execute(query, (blob(user), message_id)).fetchone() is not None

    def resolve(self, seq: int, stage: MessageStage) -> bool:
        """Move a row on from HELD; false when it is not held."""
        query = "UPDATE journal SET stage = ? WHERE seq = ? AND stage = -2"
        return self._sql.execute(query, (stage, seq)).rowcount > 0

    def held(self) -> list[Row]:
        """Every held row, oldest first."""
        return self._rows("INDEXED BY journal_open WHERE stage < 2 AND stage = -2 ORDER BY seq")

    def last(self) -> int:
        """The number of the newest row, 0 when there is none."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM journal")[0])

    def waiting(self, after: int, most: int) -> list[Row]:
        """The oldest rows not acknowledged yet, from beyond ``after`` in the order of recording."""
        condition = "INDEXED BY journal_waiting WHERE stage = 0 AND seq > ? ORDER BY seq LIMIT ?"
        return self._rows(condition, after, most)

    def waiting_among(self, numbers: Sequence[int]) -> list[Row]:
        """Those of these rows that are not acknowledged yet."""
        places = ", ".join("?" * len(numbers))
        return self._rows(f"WHERE seq IN ({places}) AND stage = 0 ORDER BY seq", *numbers)

    def still_waiting(self, rows: Iterable[Row]) -> list[Row]:
        query = "SELECT 1 FROM journal WHERE seq = ? AND stage = 0"
        return [row for row in rows if self._sql.execute(query, (row.seq,)).fetchone() is not None]

    def oldest_waiting(self) -> float | None:
        """When the oldest message that is not acknowledged was sent."""
        row = self._sql.execute("SELECT sent_at FROM journal WHERE stage = 0 ORDER BY seq LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def counted(self, user: int) -> list[Row]:
        """A user's acknowledged rows that no document is known to include, oldest first."""
        return self._rows(
            "INDEXED BY journal_open WHERE user = ? AND stage < 2 AND stage = 1 ORDER BY seq", blob(user)
        )

    def own(self, user: int, since: float) -> int:
        """How many messages of a user, sent from ``since`` on, are HELD, WAITING, COUNTED or REFUSED."""
        query = (
            "SELECT coalesce(sum(count), 0) FROM journal INDEXED BY journal_open"
            " WHERE user = ? AND stage < 2 AND sent_at >= ?"
        )
        return int(self._one(query, blob(user), since)[0])

    def open_users(self) -> set[int]:
        """Every user with rows that are HELD, WAITING, COUNTED or REFUSED."""
        query = "SELECT DISTINCT user FROM journal INDEXED BY journal_open WHERE stage < 2"
        return {int.from_bytes(user) for (user,) in self._sql.execute(query)}

    def counted_users(self) -> set[int]:
        query = "SELECT DISTINCT user FROM journal INDEXED BY journal_open WHERE stage < 2 AND stage = 1"
        return {int.from_bytes(user) for (user,) in self._sql.execute(query)}

    def noted(self, since: float, until: float) -> list[Row]:
        """The rows not acknowledged yet, held ones included, that were sent between these times."""
        return self._rows("WHERE stage IN (-2, 0) AND sent_at BETWEEN ? AND ?", since, until)

    def correct(self, row: Row, sent_at: float) -> None:
        """Give a row another time."""
        checksum = message_sum(blob(row.user), row.message_id, row.node, row.number, sent_at, lease=row.lease)
        query = "UPDATE journal SET sent_at = ?, checksum = ? WHERE seq = ? AND stage IN (-2, 0)"
        self._sql.execute(query, (sent_at, checksum, row.seq))

    def acknowledged(self, rows: Iterable[Row], stage: MessageStage) -> None:
        """Move rows on from WAITING; those that are beyond stay."""
        query = "UPDATE journal SET stage = ? WHERE seq = ? AND stage = 0"
        self._sql.executemany(query, ((stage, row.seq) for row in rows))

    def finish(self, rows: Iterable[Row]) -> None:
        """Move rows on from COUNTED to DONE."""
        query = "UPDATE journal SET stage = 2 WHERE seq = ? AND stage = 1"
        self._sql.executemany(query, ((row.seq,) for row in rows))

    def reject(self, row: Row, reason: str) -> None:
        """Keep the name of a message that the daemon will never count, for the operator."""
        self._sql.execute(
            "INSERT INTO rejected (user, message_id, reason) VALUES (?, ?, ?)",
            (blob(row.user), row.message_id, reason),
        )
        last = "DELETE FROM rejected WHERE seq <= (SELECT max(seq) FROM rejected) - ?"
        self._sql.execute(last, (REJECTED_KEPT,))

    def release_refused(self, user: int, before: float) -> None:
        """Let refused messages weigh no more that were sent before the user's plan began."""
        query = "UPDATE journal SET stage = 2 WHERE user = ? AND stage < 2 AND stage = -1 AND sent_at < ?"
        self._sql.execute(query, (blob(user), before))

    def refused(self) -> str | None:
        """Say which messages the daemon refused that still weigh here."""
        query = "SELECT count(*) FROM journal INDEXED BY journal_open WHERE stage < 2 AND stage = -1"
        (number,) = self._one(query)
        if not number:
            return None
        query = "SELECT message_id, reason FROM rejected ORDER BY seq DESC LIMIT 1"
        message_id, reason = self._sql.execute(query).fetchone() or ("", "")
        return (
            f"the daemon did not count {number} messages, which count here; the last: {message_id} {reason}"
        )

    def rejected(self) -> int:
        """How many rejected messages are kept."""
        return int(self._one("SELECT count(*) FROM rejected")[0])

    def forget_done(self) -> None:
        """Drop the ids of long finished or released messages; a thousand per call, so that nobody waits."""
        self._sql.execute(
            "DELETE FROM journal WHERE seq IN (SELECT seq FROM journal WHERE stage >= 2"
            " AND (lease IS NULL OR lease NOT IN (SELECT lease FROM leases))"  # they say what is left of it
            " AND seq <= (SELECT max(seq) FROM journal) - ? ORDER BY seq LIMIT 1000)",
            (REMEMBERED,),
        )

    def _rows(self, condition: str, *values: object) -> list[Row]:
        query = f"SELECT seq, user, message_id, node, count, sent_at, stage, lease FROM journal {condition}"  # noqa: S608  our own text
        return [
            Row(seq, int.from_bytes(user), message_id, node, count, sent_at, MessageStage(stage), lease)
            for seq, user, message_id, node, count, sent_at, stage, lease in self._sql.execute(query, values)
        ]

    def _one(self, query: str, *values: object) -> tuple[int, ...]:
        row: tuple[int, ...] = self._sql.execute(query, values).fetchone()
        return row

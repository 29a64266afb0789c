"""Which of this gate's own messages to add to a document's ``messages_used``: never too few.

A document includes what was committed before its row was read, but does not say which messages those are. A
usage-ack says that messages are committed, and may come before or after the document that includes them. So:

- A message that is held or not acknowledged is always added.
- One that is acknowledged stays added until documents have *grown* by it: the growth of ``messages_used``
  from one document to the next pays for acknowledged messages, oldest first. What grew while a report was
  under way and pays for nothing yet is credit for its acknowledgement, which is then on the road.
- Alone, a gate is exact, whatever comes first. With others, their growth may pay for ours too early, but
  only in the moment between an acknowledgement and its document: the overshoot stays within what the others
  accept during the propagation delay.
- What nothing paid for (a message reported twice because a crash hid the first answer) is settled after 30
  s of unbroken connection with the daemon not offline: it publishes within a second, so the document has it
  by then.
- One that the daemon refuses to count (its time is too far back) stays added: it happened.
- A document of another subscription starts anew: the daemon counts a message for the subscription valid at
  its ``sent_at``, so messages sent before ``valid_from`` are the former one's and are added no more.

Everything but credit, which belongs to one connection, is in the journal: a restart changes no answer.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.errors import NotJournaled
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.timekeeping import Behind

SETTLED = 30.0
MOST_VOLATILE = 100_000  # messages in memory alone, about 30 MB; more are counted, and forgotten by name


class UsageLedger:
    """Keeps ``UserEntry.own`` of every user right. Users are the whole numbers of their UUIDs.

    Memory changes only after the file did, for a transaction may fail until its end; what cannot be written
    now is in ``unwritten`` until it can. ``held`` has every hold by user and message id; ``late`` the numbers
    of rows that began to wait after newer ones did.
    """

    def __init__(self, journal: Journal, entries: dict[int, UserEntry], limit: int) -> None:
        self.unwritten = 0  # messages in memory alone
        self.repeated = 0  # messages recorded again
        self._journal = journal
        self._entries = entries
        self._limit = limit
        self._open = journal.open_users()
        self._counted_at = dict.fromkeys(journal.counted_users(), 0.0)
        self._under_way: dict[int, int] = defaultdict(int)
        self._credit: dict[int, int] = {}
        self._volatile: dict[int, dict[str, Row]] = {}  # what is in memory alone
        self._unnamed: dict[int, int] = defaultdict(int)  # what is too much even for that is only counted
        self.held = {(row.user, row.message_id): row for row in journal.held()}
        self.late: list[int] = []
        self._newest = journal.last()
        for user in list(self._open):
            self._add_up(user)

    def record(self, row: Row) -> bool:
        """Count a message at once and write it down; false when it was recorded before.

        One that is held is committed. Raises ``NotJournaled`` when it is counted but not written down.
        """
        if self.held and (row.user, row.message_id) in self.held:
            self.commit(row)
            return True
        counted = bool(self._volatile) and row.message_id in self._volatile.get(row.user, ())
        seq, problem = self._append(row)
        if seq is None:
            self.repeated += 1
            return False
        if not counted:
            self._weigh(row, 1)
            if not seq:
                self._keep(row)
        elif seq:
            self._drop((row,))
        if not seq:
            raise NotJournaled(problem)
        self._begins_to_wait(seq)
        return True

    def hold(self, row: Row) -> bool:
        """Count a message, of stage ``HELD``, before it is known to pass; false when it is recorded already.

        It is in memory alone where it cannot be written down.
        """
        seq = None
        if not self._volatile or row.message_id not in self._volatile.get(row.user, ()):
            seq, _ = self._append(row)
        if seq is None:
            self.repeated += 1
            return False
        self._weigh(row, 1)
        self.held[row.user, row.message_id] = Row(seq, *row[1:])
        if not seq:
            self._keep(row)
        return True

    def commit(self, row: Row) -> None:
        """Let a hold wait for its report; a message that is no longer held is recorded, unless it was.

        Raises ``NotJournaled`` when that is not written down yet.
        """
        held = self.held.pop((row.user, row.message_id), None)
        if held is None:
            if not self.knows(row):
                self.record(row._replace(stage=MessageStage.WAITING))
            return
        row = held._replace(stage=MessageStage.WAITING)
        if row.seq:
            try:
                self._journal.resolve(row.seq, MessageStage.WAITING)
            except sqlite3.Error as error:
                self._journal.failed(error)
                self._keep(row)
                raise NotJournaled(f"the journal could not be written: {error}") from error
            self._begins_to_wait(row.seq)
            return
        if row.message_id in self._volatile.get(row.user, ()):
            self._volatile[row.user][row.message_id] = row
        else:
            self._unnamed[row.user] -= row.number
            self._weigh(row, -1)
        self.record(row)

    def release(self, row: Row) -> bool:
        """Give a hold back; false when the message is reported already."""
        held = self.held.pop((row.user, row.message_id), None)
        if held is None:
            return not self.knows(row)
        row = held._replace(stage=MessageStage.RELEASED)
        if row.seq:
            try:
                self._journal.resolve(row.seq, MessageStage.RELEASED)
            except sqlite3.Error as error:
                self._journal.failed(error)
                self._keep(row)
        elif row.message_id in self._volatile.get(row.user, ()):
            self._drop((row,))
        else:
            self._unnamed[row.user] -= row.number
        self._weigh(row, -1)
        return True

    def write_unwritten(self) -> bool:
        """Write down what is in memory alone, as much as there is room for; true when there was something."""
        room = self._limit - self._journal.waiting_rows
        each = chain.from_iterable(rows.values() for rows in self._volatile.values())
        rows = list(islice(each, max(room, 0)))
        if not rows:
            return False
        written = []
        with self._journal.transaction():
            for row in rows:
                if row.seq:
                    self._journal.resolve(row.seq, row.stage)
                    written.append(row)
                elif seq := self._journal.append(row):
                    written.append(row._replace(seq=seq))
        self._drop(rows)
        for row in written:
            if row.stage is MessageStage.WAITING:
                self._begins_to_wait(row.seq)
            elif row.stage is MessageStage.HELD:
                self.held[row.user, row.message_id] = row
        for user in {row.user for row in rows}:
            self._open.add(user)
            self._add_up(user)
        return True

    def correct(self, behind: Behind) -> None:
        """Give messages their right times that were noted by a clock that was behind."""
        with self._journal.transaction():
            rows = self._journal.noted(behind.since, behind.until)
            for row in rows:
                self._journal.correct(row, behind.right(row.sent_at))
        for names in self._volatile.values():
            names.update(
                (name, row._replace(sent_at=behind.right(row.sent_at))) for name, row in names.items()
            )
        for key, row in self.held.items():
            self.held[key] = row._replace(sent_at=behind.right(row.sent_at))
        for user in {row.user for row in rows} | self._volatile.keys():
            self._add_up(user)

    def _append(self, row: Row) -> tuple[int | None, str]:
        """Write a message down and return its number: ``None`` when it is known, and 0 with the problem when
        it cannot be written.
        """
        problem = f"the journal is full: {self._limit} messages wait for their acknowledgement"
        try:
            if self._journal.waiting_rows + len(self.held) < self._limit:
                seq = self._journal.append(row)
                if not seq:
                    return None, ""
                self._open.add(row.user)
                return seq, ""
            if self._journal.knows(row.user, row.message_id):
                return None, ""
        except sqlite3.Error as error:
            problem = f"the journal could not be written: {error}"
            self._journal.failed(error)
            if self.knows(row):
                return None, ""
        return 0, problem

    def _begins_to_wait(self, seq: int) -> None:
        self._journal.waiting_rows += 1
        if seq > self._newest:
            self._newest = seq
        elif seq < self._newest:
            self.late.append(seq)

    def _weigh(self, row: Row, sign: int) -> None:
        entry = self._entries.get(row.user)
        if entry is not None and row.sent_at >= entry.valid_from:
            entry.own += sign * row.number

    def knows(self, row: Row) -> bool:
        """Say whether a message is recorded or held, as far as can be read."""
        try:
            return self._journal.knows(row.user, row.message_id)
        except sqlite3.Error:
            return False

    def _keep(self, row: Row) -> None:
        if self.unwritten < MOST_VOLATILE:
            self._volatile.setdefault(row.user, {})[row.message_id] = row
            self.unwritten += 1
        elif not row.seq:
            self._unnamed[row.user] += row.number

    def _drop(self, rows: Iterable[Row]) -> None:
        for row in rows:
            names = self._volatile[row.user]
            del names[row.message_id]
            self.unwritten -= 1
            if not names:
                del self._volatile[row.user]

    def sent(self, rows: Sequence[Row]) -> None:
        """Note that a report is under way."""
        for row in rows:
            self._under_way[row.user] += row.number

    def landed(self) -> None:
        """Forget what was under way: the connection ended or the reports are sent anew."""
        self._under_way.clear()
        self._credit.clear()

    def acknowledged(self, rows: Sequence[Row], rejected: Mapping[str, str], at: float) -> None:
        """Apply a usage-ack, which arrived ``at`` (monotonic): message id → reason for those not counted."""
        credit = {row.user: self._credit.get(row.user, 0) for row in rows}
        counted, done, refused = [], [], []
        with self._journal.transaction():
            waiting = self._journal.still_waiting(rows)
            for row in waiting:
                if row.message_id in rejected:
                    self._journal.reject(row, rejected[row.message_id])
                    refused.append(row)
                elif credit[row.user] >= row.number:
                    credit[row.user] -= row.number
                    done.append(row)
                else:
                    counted.append(row)
            self._journal.acknowledged(done, MessageStage.DONE)
            self._journal.acknowledged(counted, MessageStage.COUNTED)
            self._journal.acknowledged(refused, MessageStage.REFUSED)
        self._journal.waiting_rows -= len(waiting)
        self._counted_at.update((row.user, at) for row in counted)
        for row in waiting:
            self._under_way[row.user] -= row.number
        for user, left in credit.items():
            if self._under_way[user] <= 0:
                del self._under_way[user]
                self._credit.pop(user, None)
            elif user in self._credit:
                self._credit[user] = left
            self._add_up(user)

    def pay(self, user: int, old: UserEntry | None, new: UserEntry) -> int:
        """Let a newer document finish what it shows to be included, in the transaction that saves it.

        Returns by how much more it grew, for ``replaced``.
        """
        growth = new.used
        if old is not None and old.subscription == new.subscription:
            growth = max(0, new.used - old.used)
        elif user in self._open:
            self._journal.release_refused(user, new.valid_from)
        if user not in self._counted_at:
            return growth
        paid = []
        for row in self._journal.counted(user):
            if row.sent_at < new.valid_from:
                paid.append(row)
            elif row.number <= growth:
                growth -= row.number
                paid.append(row)
            else:
                break
        self._journal.finish(paid)
        return growth

    def replaced(self, user: int, old: UserEntry | None, new: UserEntry, growth: int) -> None:
        """Carry a user's own messages over to a newer document, once it is saved or could not be."""
        if old is None or old.subscription != new.subscription:
            self._unnamed.pop(user, None)
        if user in self._under_way:
            self._credit[user] = min(self._under_way[user], self._credit.get(user, 0) + growth)
        if user in self._open or user in self._volatile or user in self._unnamed:
            self._add_up(user, new)

    def settle(self, now: float, steady_since: float) -> None:
        """Finish what documents include without having shown it; both times monotonic."""
        due = [user for user, at in self._counted_at.items() if max(at, steady_since) + SETTLED <= now]
        if not due:
            return
        with self._journal.transaction():
            for user in due:
                self._journal.finish(self._journal.counted(user))
        for user in due:
            self._add_up(user)

    def _add_up(self, user: int, entry: UserEntry | None = None) -> None:
        entry = entry or self._entries.get(user)
        if not self._journal.own(user, float("-inf")):
            self._open.discard(user)
        if user in self._counted_at and not self._journal.counted(user):
            del self._counted_at[user]
        if entry is not None:
            rows = self._volatile.get(user, {}).values()
            entry.own = (
                self._journal.own(user, entry.valid_from)
                + sum(_not_in_the_journal(row) for row in rows if row.sent_at >= entry.valid_from)
                + self._unnamed.get(user, 0)
            )


def _not_in_the_journal(row: Row) -> int:
    """By how much a row that is in memory alone differs from what the journal weighs."""
    if row.seq:
        return -row.number if row.stage is MessageStage.RELEASED else 0
    return row.number

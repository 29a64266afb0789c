"""Which of this gate's own messages to add to a document's ``messages_used``: never too few, too many only
for moments.

A document includes what was committed before its row was read, but does not say which messages those are. A
usage-ack says that messages are committed, and may come before or after the document that includes them. So:

- A message that is not acknowledged is always added.
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
from collections.abc import Mapping, Sequence

from kosmo_billing_daemon.gate.decisions import Entry
from kosmo_billing_daemon.gate.errors import NotJournaled
from kosmo_billing_daemon.gate.journal import Journal, Stage
from kosmo_billing_daemon.gate.state import Row

SETTLED = 30.0


class Ledger:
    """Keeps ``Entry.own`` of every user right. Users are keys as in ``decisions.user_key``."""

    def __init__(self, journal: Journal, entries: dict[int, Entry], limit: int) -> None:
        self._journal = journal
        self._entries = entries
        self._limit = limit
        self._open = journal.open_users()
        self._counted_at = dict.fromkeys(journal.counted_users(), 0.0)
        self._under_way: dict[int, int] = defaultdict(int)
        self._credit: dict[int, int] = {}
        self._unwritten: dict[int, int] = defaultdict(int)  # could not be journaled
        for user in self._open:
            self._add_up(user)

    def record(self, row: Row) -> bool:
        """Count a message at once and write it down; false when it was recorded before.

        Raises ``NotJournaled`` when it is counted but not written down.
        """
        problem = None
        try:
            if self._journal.waiting_rows < self._limit:
                if not self._journal.append(row.user, row.message_id, row.node, row.number, row.sent_at):
                    return False
            elif self._journal.knows(row.user, row.message_id):
                return False
            else:
                problem = f"the journal is full: {self._limit} messages wait for their acknowledgement"
        except sqlite3.Error as error:
            problem = f"the journal could not be written: {error}"
        entry = self._entries.get(row.user)
        if entry is not None and row.sent_at >= entry.valid_from:
            entry.own += row.number
        if problem is not None:
            self._unwritten[row.user] += row.number
            raise NotJournaled(problem)
        self._open.add(row.user)
        return True

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
        users = {row.user for row in rows}
        rows = self._journal.still_waiting(rows)
        counted, done, refused = [], [], []
        for row in rows:
            credit = self._credit.get(row.user, 0)
            self._under_way[row.user] -= row.number
            if self._under_way[row.user] <= 0:
                del self._under_way[row.user]
            if row.message_id in rejected:
                self._journal.reject(row, rejected[row.message_id])
                refused.append(row)
            elif credit >= row.number:
                self._credit[row.user] = credit - row.number
                done.append(row)
            else:
                counted.append(row)
                self._counted_at[row.user] = at
        self._journal.acknowledged(done, Stage.DONE)
        self._journal.acknowledged(counted, Stage.COUNTED)
        self._journal.acknowledged(refused, Stage.REFUSED)
        for user in users:
            if user not in self._under_way:
                self._credit.pop(user, None)
            self._add_up(user)

    def replaced(self, user: int, old: Entry | None, new: Entry) -> None:
        """Carry a user's own messages over to a newer document."""
        if user not in self._open and user not in self._unwritten:
            return
        growth = new.used
        if old is not None and old.subscription == new.subscription:
            growth = max(0, new.used - old.used)
        else:
            self._unwritten.pop(user, None)
            self._journal.release_refused(user, new.valid_from)
        paid = []
        for row in self._journal.counted(user) if user in self._counted_at else ():
            if row.sent_at < new.valid_from:
                paid.append(row)
            elif row.number <= growth:
                growth -= row.number
                paid.append(row)
            else:
                break
        self._journal.finish(paid)
        if user in self._under_way:
            self._credit[user] = min(self._under_way[user], self._credit.get(user, 0) + growth)
        self._add_up(user, new)

    def settle(self, now: float, steady_since: float) -> None:
        """Finish what documents include without having shown it; both times monotonic."""
        for user, at in list(self._counted_at.items()):
            if max(at, steady_since) + SETTLED <= now:
                self._journal.finish(self._journal.counted(user))
                self._add_up(user)

    def _add_up(self, user: int, entry: Entry | None = None) -> None:
        entry = entry or self._entries.get(user)
        if not self._journal.own(user, 0.0):
            self._open.discard(user)
        if user in self._counted_at and not self._journal.counted(user):
            del self._counted_at[user]
        if entry is not None:
            entry.own = self._journal.own(user, entry.valid_from) + self._unwritten.get(user, 0)

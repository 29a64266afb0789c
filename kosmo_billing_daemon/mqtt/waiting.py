"""Users whose documents are to be published: for which rows of the outbox, and from when on.

One publication answers all rows of its user. A change of rights is due at once, a change of use a second
after the last publication, what was refused after a while. All times are of the loop: the system clock may be
set.
"""

import heapq
from collections.abc import Collection, Iterable
from uuid import UUID

from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT
from kosmo_billing_daemon.store.outbox import Kind, OutboxEntry

COALESCE = 1.0  # seconds: of changes of use alone at most one publication per user in this time
SENT_KEPT = 1000  # users; before there are more of them, who was sent long ago is not forgotten
NEVER = float("inf")


class WaitingUsers:
    """Users in the order of the times at which they are due. ``sent`` says when they were published last."""

    def __init__(self) -> None:
        self.sent: dict[UUID, float] = {}
        self.refused: dict[UUID, float] = {}  # until when
        self._entries: dict[UUID, list[OutboxEntry]] = {}
        self._at: dict[UUID, float] = {}
        self._order: list[tuple[float, UUID]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def queue(self, entries: Iterable[OutboxEntry], now: float) -> None:
        """Note who waits for new rows of documents."""
        for entry in entries:
            for user_id in entry.left:
                at = now
                if entry.kind is Kind.USAGE and user_id in self.sent:
                    at = self.sent[user_id] + COALESCE
                self.add(user_id, (entry,), max(at, self.refused.get(user_id, at)))

    def add(self, user_id: UUID, entries: Collection[OutboxEntry], at: float) -> None:
        """Have a user published for these rows too, at ``at`` or earlier."""
        self._entries.setdefault(user_id, []).extend(entries)
        if at < self._at.get(user_id, NEVER):
            self._at[user_id] = at
            heapq.heappush(self._order, (at, user_id))

    def refuse(self, user_id: UUID, entries: Collection[OutboxEntry], now: float) -> None:
        """Have a document tried again that the broker refused."""
        self.refused[user_id] = now + REFUSED_WAIT
        if entries or self.is_passed_over(user_id):
            self.add(user_id, entries, now + REFUSED_WAIT)

    def next_at(self) -> float:
        """Return when somebody is due; infinity when nobody is."""
        while self._order and self._at.get(self._order[0][1]) != self._order[0][0]:
            heapq.heappop(self._order)
        return self._order[0][0] if self._order else NEVER

    def due(self, now: float, most: int) -> list[UUID]:
        """Return users that are due; each is to be taken, or added again."""
        found: list[UUID] = []
        while len(found) < most and self.next_at() <= now:
            found.append(heapq.heappop(self._order)[1])
            del self._at[found[-1]]
        return found

    def is_passed_over(self, user_id: UUID) -> bool:
        """Say whether a user was due and was neither taken nor added again."""
        return user_id in self._entries and user_id not in self._at

    def take(self, user_id: UUID) -> list[OutboxEntry]:
        """Remove a user, and return the rows that a publication answers."""
        self._at.pop(user_id, None)
        return self._entries.pop(user_id, [])

    def forget_sent(self, now: float) -> None:
        """Forget who was published so long ago that it delays nobody."""
        if len(self.sent) > SENT_KEPT:
            self.sent = {user_id: at for user_id, at in self.sent.items() if at > now - COALESCE}

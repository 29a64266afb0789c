"""Reads the outbox over one connection to the broker: each row once, none skipped, none read through again.

A row that was read is known until it is deleted. Reading goes on after the greatest id below which nothing
can appear any more: ids are drawn before commits, so every transaction that may have drawn one must have
ended. A foreign transaction that stays open holds this back. Then readings pass more deleted rows, and after
a loss more documents are republished.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from kosmo_billing_daemon.store import outbox
from kosmo_billing_daemon.store.leader_lock import TermPool
from kosmo_billing_daemon.store.outbox import OF_DOCUMENTS, Drawn, Kind, OutboxEntry, Unpublished


class OutboxReader:
    """What was read and is not deleted, as far as the last reading knows."""

    def __init__(self, pool: TermPool, drawn: int) -> None:
        self.pool = pool
        self._known: dict[int, OutboxEntry] = {}
        self._deleted: list[OutboxEntry] = []
        self._passed = dict.fromkeys(Kind, 0)
        self._drawn = Drawn(drawn, 0)

    @property
    def entries(self) -> Collection[OutboxEntry]:
        """What is not deleted yet."""
        return self._known.values()

    @property
    def published_to(self) -> int:
        """Every change of a document up to this id was acknowledged, and none below it can appear."""
        oldest = min((e.id for e in self._known.values() if e.kind is not Kind.EVENT), default=None)
        passed = min(self._passed[kind] for kind in OF_DOCUMENTS)
        return passed if oldest is None else min(passed, oldest - 1)

    @property
    def is_behind(self) -> bool:
        """Whether something may still appear below what was drawn when that was asked last."""
        return min(self._passed.values()) < self._drawn.id

    def deleted(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget rows that are deleted, from the next reading on: one under way may still see them."""
        self._deleted += entries

    async def ask_drawn(self) -> bool:
        """Find out how far ids are drawn, which the next readings pass.

        Returns whether they are more than before, or rows were deleted since the last reading.
        """
        async with self.pool.connection() as connection:
            drawn = await outbox.load_drawn(connection)
        if drawn.id <= self._drawn.id and self._drawn.before:
            return bool(self._deleted)
        self._drawn = drawn
        return True

    async def read(
        self, users: Collection[UUID], busy: Collection[UUID], most: Mapping[Kind, int]
    ) -> Unpublished:
        """Return rows that were not read before, and documents of ``users`` who are not ``busy``."""
        deleted, self._deleted = self._deleted, []
        for entry in deleted:
            del self._known[entry.id]
        async with self.pool.connection() as connection:
            found = await outbox.read(
                connection, known=list(self._known), users=users, busy=busy, passed=self._passed, most=most
            )
        self._known |= {entry.id: entry for entry in found.entries}
        if found.ended > self._drawn.before > 0:
            self._passed |= dict.fromkeys(found.complete, self._drawn.id)
        return found

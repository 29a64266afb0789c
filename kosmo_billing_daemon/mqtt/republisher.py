"""Reads again what a broker that lost its memory may lack: the next page while one is published."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.entitlements import Versioned
from kosmo_billing_daemon.store.leader_lock import TermPool

PAGE = 200  # documents published between two readings of what is newly waiting: some milliseconds


class Republisher:
    """Pages of the documents with a version above ``after``; ``lost`` says how many there are."""

    def __init__(self, pool: TermPool, after: int, lost: int) -> None:
        self.is_read = lost == 0  # to the end
        self._pool = pool
        self._after = after
        self._user = UUID(int=0)
        self._ahead: asyncio.Task[list[Versioned]] | None = None

    async def next_page(self) -> Sequence[Versioned]:
        """Return the next documents, as they are now or were a page ago."""
        ahead, self._ahead = self._ahead, None
        page = await (self._read() if ahead is None else ahead)
        self.is_read = len(page) < PAGE
        if not self.is_read:
            self._user = page[-1].entitlement.user_id
            self._ahead = asyncio.create_task(self._read())
        return page

    def stop(self) -> None:
        """Read no further."""
        if self._ahead is not None:
            self._ahead.cancel()

    async def _read(self) -> list[Versioned]:
        async with self._pool.connection() as connection:
            return await entitlements.load_above(connection, self._after, self._user, PAGE)

"""How far publishing got: what the watermark promises after the broker lost its memory.

Every change of a document up to it was on the broker when it was written. So it stands still until what an
earlier loss took is republished and acknowledged to its end.
"""

from uuid import UUID

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.mqtt.reservation import Start
from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.leader_lock import TermPool


class WatermarkTracker:
    """Tracks publication over one link, from the watermark that the broker remembers on."""

    def __init__(self, start: Start) -> None:
        self.is_republished = False
        self.has_cleared = False  # since the documents were counted
        self.reservation = start.reservation
        self._database = start.position.database
        self._documents = start.position.documents
        self._sequence = start.after
        self._first: set[UUID] = set()

    def count_first(self, user_id: UUID) -> None:
        """Note the ack of a user's first document; two transactions that made it at once do so twice."""
        self._documents += user_id not in self._first
        self._first.add(user_id)

    def forget(self, user_id: UUID) -> None:
        """Note the ack of a document's clearing: the user's next document is a first one again."""
        self._first.discard(user_id)
        self.has_cleared = True

    async def count_again(self, pool: TermPool) -> None:
        """Have the database count the documents that there are once some were cleared.

        It does not know what was acknowledged and is not written yet, nor acks that come meanwhile.
        """
        self.has_cleared, before = False, frozenset(self._first)
        try:
            async with pool.connection() as connection:
                published = await entitlements.load_published(connection)
        except BaseException:
            self.has_cleared = True
            raise
        later = self._first - before - published.waiting
        self._documents = published.documents - len(published.waiting - self._first) + len(later)

    def watermark(self, published_to: int) -> Watermark:
        """Return what may be promised when every change up to an id was acknowledged."""
        if self.is_republished:
            self._sequence = max(self._sequence, published_to)
        return Watermark(
            sequence=self._sequence,
            entitlements=self._documents,
            version_ceiling=self.reservation.ceiling,
            database=self._database,
        )

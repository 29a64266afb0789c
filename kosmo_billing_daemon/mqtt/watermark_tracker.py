"""How far publishing got: what the watermark promises after the broker lost its memory.

Every change of a document up to it was on the broker when it was written. So it stands still until what an
earlier loss took is republished and acknowledged to its end.
"""

from uuid import UUID

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.mqtt.reservation import Start


class WatermarkTracker:
    """Tracks publication over one link, from the watermark that the broker remembers on."""

    def __init__(self, start: Start) -> None:
        self.is_republished = False
        self.reservation = start.reservation
        self._database = start.position.database
        self._documents = start.position.documents
        self._sequence = start.after
        self._first: set[UUID] = set()

    def count_first(self, user_id: UUID) -> None:
        """Note the ack of a user's first document; two transactions that made it at once do so twice."""
        self._documents += user_id not in self._first
        self._first.add(user_id)

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

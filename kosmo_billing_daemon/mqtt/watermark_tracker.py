"""How far publishing got: which publications are in flight, and up to which number everything is safe.

The watermark is a promise to ourselves after the broker lost its memory: every document published up to
it was on the broker when it was written. So it stands still until the sweep of an earlier loss is
acknowledged to its end, and never passes what the database knows, or the next connection would take the
database for a restored one.
"""

from uuid import UUID

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.mqtt.reservation import Reservation
from kosmo_billing_daemon.store.entitlements import Position


class WatermarkTracker:
    """Numbers publications over one link; ``after`` is the watermark that the broker remembers."""

    def __init__(self, position: Position, after: int, reservation: Reservation) -> None:
        self.sweep_from, self.sweep_until = after, position.sequence
        self._database = position.database
        self._sequence = self._marked = position.sequence
        self._documents = position.documents
        self._reservation = reservation
        self._watermark = after
        self._in_flight: dict[UUID, int] = {}  # sent and not yet marked -> number
        self._spoken_of: set[UUID] = set()  # since the sweep began
        self._swept_by: int | None = None if self.is_sweeping else position.sequence

    @property
    def is_sweeping(self) -> bool:
        """Whether documents that the broker may have lost are still to be sent."""
        return self.sweep_from < self.sweep_until

    @property
    def is_swept(self) -> bool:
        """Whether the last document of the sweep was acknowledged, or refused and said to wait."""
        return self._swept_by is not None and self._safe >= self._swept_by

    @property
    def _safe(self) -> int:
        return min(self._in_flight.values(), default=self._sequence + 1) - 1

    @property
    def users(self) -> list[UUID]:
        """Whose documents are in flight."""
        return list(self._in_flight)

    def has_spoken_of(self, user_id: UUID) -> bool:
        """Whether a document of this user went over this link: the sweep must not repeat an older one."""
        return user_id in self._spoken_of

    def begin(self, user_id: UUID) -> int:
        """Number a publication."""
        self._sequence += 1
        self._in_flight[user_id] = self._sequence
        if self._swept_by is None:
            self._spoken_of.add(user_id)
        return self._sequence

    def sweep_sent(self) -> None:
        """Note that the last document of the sweep was handed over."""
        if self._swept_by is None and not self.is_sweeping:
            self._swept_by = self._sequence
            self._spoken_of.clear()

    def end(self, user_id: UUID) -> None:
        """Forget a publication: it was marked, or its row says that it still waits."""
        self._in_flight.pop(user_id, None)

    def mark(self, sequence: int, *, first: bool) -> None:
        """Note a number that stands in the database now; ``first`` is the first document of its user."""
        self._marked = max(self._marked, sequence)
        self._documents += first

    def watermark(self) -> Watermark:
        """Return what may be promised now."""
        if self.is_swept:
            self._watermark = max(self._watermark, min(self._safe, self._marked))
        return Watermark(
            sequence=self._watermark,
            entitlements=self._documents,
            version_ceiling=self._reservation.ceiling,
            database=self._database,
        )

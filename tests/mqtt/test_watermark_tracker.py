"""The watermark promises nothing that a broker could forget unnoticed."""

from uuid import uuid4

import pytest

from kosmo_billing_daemon.mqtt.reservation import Reservation, Start
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.store.entitlements import Position


@pytest.fixture
def tracker() -> WatermarkTracker:
    """The broker remembers 40, and the database is at 100."""
    position = Position(sequence=100, documents=7, version_ceiling=200, database="one")
    reservation = Reservation(floor=0, ceiling=200, acknowledged=200)
    return WatermarkTracker(Start(position, 40, 3, reservation, went_back=False))


def test_it_stands_where_the_broker_remembers_until_what_was_lost_is_republished(
    tracker: WatermarkTracker,
) -> None:
    assert tracker.watermark(102).sequence == 40
    tracker.is_republished = True
    assert tracker.watermark(102).sequence == 102


def test_it_never_goes_back(tracker: WatermarkTracker) -> None:
    tracker.is_republished = True
    assert [tracker.watermark(to).sequence for to in (0, 103, 102)] == [40, 103, 103]


def test_it_tells_how_many_documents_there_are_and_which_versions_are_reserved(
    tracker: WatermarkTracker,
) -> None:
    user_id = uuid4()
    tracker.count_first(user_id)
    tracker.count_first(user_id)
    watermark = tracker.watermark(100)
    assert (watermark.entitlements, watermark.version_ceiling, watermark.database) == (8, 200, "one")

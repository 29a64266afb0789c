"""The watermark promises nothing that a broker could forget unnoticed."""

from uuid import UUID, uuid4

from kosmo_billing_daemon.mqtt.reservation import Reservation
from kosmo_billing_daemon.mqtt.watermark_tracker import WatermarkTracker
from kosmo_billing_daemon.store.entitlements import Position

AT_100 = Position(sequence=100, documents=7, version_ceiling=200, database="one")
RESERVED = Reservation(floor=0, ceiling=200, acknowledged=200)


def marked(progress: WatermarkTracker, user_id: UUID, sequence: int) -> None:
    progress.end(user_id)
    progress.mark(sequence, first=False)


def test_it_stands_where_the_broker_remembers_until_the_sweep_is_acknowledged() -> None:
    progress = WatermarkTracker(AT_100, 40, RESERVED)
    swept, fresh = uuid4(), uuid4()
    number = progress.begin(fresh)
    marked(progress, fresh, number)
    assert progress.watermark().sequence == 40
    progress.sweep_from = progress.sweep_until  # the last rows were read, and not sent yet
    assert progress.watermark().sequence == 40
    number = progress.begin(swept)
    progress.sweep_sent()
    assert progress.watermark().sequence == 40
    marked(progress, swept, number)
    assert progress.watermark().sequence == 102


def test_it_stays_below_the_oldest_in_flight() -> None:
    progress = WatermarkTracker(AT_100, 100, RESERVED)
    first, second = uuid4(), uuid4()
    one, two = progress.begin(first), progress.begin(second)
    marked(progress, second, two)
    assert progress.watermark().sequence == 100
    marked(progress, first, one)
    assert progress.watermark().sequence == two


def test_it_never_passes_what_the_database_knows() -> None:
    progress = WatermarkTracker(AT_100, 100, RESERVED)
    refused = uuid4()
    progress.begin(refused)
    progress.end(refused)
    assert progress.watermark().sequence == 100


def test_it_tells_how_many_documents_there_are_and_which_versions_are_reserved() -> None:
    progress = WatermarkTracker(AT_100, 100, RESERVED)
    user_id = uuid4()
    number = progress.begin(user_id)
    progress.end(user_id)
    progress.mark(number, first=True)
    watermark = progress.watermark()
    assert (watermark.entitlements, watermark.version_ceiling, watermark.database) == (8, 200, "one")

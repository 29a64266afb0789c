"""Reports read into columns say what ``usage_event`` says of each of their events."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import UsageEvent, UsageReport
from kosmo_billing_daemon.contract.usage_columns import UsageColumns
from tests.support.usage_reports import Read, judged_report, read_report

USER = "11111111-2222-3333-4444-555555555555"
RIGHT: dict[str, Any] = {
    "message_id": "m",
    "user_id": USER,
    "node_id": "!0000000a",
    "count": 1,
    "sent_at": "2026-03-01T12:00:00Z",
    "lease_id": USER,
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 2_000_000),
    st.floats(allow_nan=False),
    st.lists(st.integers(), max_size=2),
    st.text(max_size=130),
    st.sampled_from(
        [
            "",
            "x" * 128,
            "x" * 129,
            "\x00",
            "\ud800",
            "\N{SNOWMAN}",
            "line\nbreak",
            USER.upper(),
            USER.replace("-", ""),
            "{" + USER + "}",
            USER[:-1],
            "2026-03-01T12:00:00+02:00",
            "2026-03-01T12:00:00",
            "2026-03-01",
            "2026-03-01T12:00:00.123456Z",
            "0001-01-01T00:00:00+14:00",
        ]
    ),
)
EVENTS = st.one_of(
    st.just(RIGHT),
    st.builds(lambda name, value: RIGHT | {name: value}, st.sampled_from([*RIGHT, "unknown"]), VALUES),
    st.builds(lambda name: {k: v for k, v in RIGHT.items() if k != name}, st.sampled_from(list(RIGHT))),
    st.lists(st.integers(), max_size=1),
)


def _outcome(read: Callable[[bytes], Read], payload: bytes) -> object:
    try:
        return read(payload)
    except Malformed as error:
        return str(error)


@given(st.lists(EVENTS, max_size=6))
def test_the_columns_say_what_the_rules_say(events: list[Any]) -> None:
    payload = json.dumps({"report_id": "r", "events": events}).encode()
    assert _outcome(read_report, payload) == _outcome(judged_report, payload)
    with suppress(Malformed):
        rows = UsageColumns.decode(payload).rows()
        assert all(str(UUID(row[0])) == row[0] and row[4].tzinfo is UTC for row in rows)


@given(st.binary(max_size=60) | st.just(b"[]") | st.just(b'{"events": []}'))
def test_what_is_no_report_is_malformed_for_both(payload: bytes) -> None:
    assert _outcome(read_report, payload) == _outcome(judged_report, payload)


def test_a_plain_report_is_read_as_it_is_written() -> None:
    event = UsageEvent(
        message_id="m", user_id=UUID(USER), node_id=None, sent_at=datetime(2026, 3, 1, tzinfo=UTC), count=2
    )
    columns = UsageColumns.decode(UsageReport(report_id="r", events=(event,)).encode())
    assert list(columns.rows()) == [(USER, "m", None, 2, datetime(2026, 3, 1, tzinfo=UTC), None)]
    assert columns.rejected == []

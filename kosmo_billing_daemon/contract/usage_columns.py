"""A usage report read into columns, as the database takes it: many events, little work for each.

``usage_event`` has the rules: an event that is not plainly right here is judged there, so that both say the
same about every event (and a test compares them). One that is wrong by itself does not spoil the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kosmo_billing_daemon.contract.encoding import CANONICAL_UUID, MAX_ID_LENGTH, Fields, Malformed, loads
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    MAX_EVENTS_PER_REPORT,
    Rejection,
    UsageEvent,
    usage_event,
)
from kosmo_billing_daemon.runtime.records import record

Row = tuple[str, str, str | None, int, datetime, str | None]
"""One event: user id (canonical text), message id, node id, count, time of sending in UTC."""


@record
class UsageColumns:
    """The well-formed events of one report, one column per field, and what was wrong with the others."""

    report_id: str
    user_id: Sequence[str]
    message_id: Sequence[str]
    node_id: Sequence[str | None]
    count: Sequence[int]
    sent_at: Sequence[datetime]
    lease_id: Sequence[str | None]
    rejected: Sequence[Rejection]

    @classmethod
    def decode(cls, payload: bytes) -> "UsageColumns":
        """Read a report of 1 to 500 events; raises ``Malformed`` when it cannot be one as a whole."""
        document = loads(payload)
        report_id = Fields(document).text("report_id")
        raw = document.get("events")
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_EVENTS_PER_REPORT:
            raise Malformed(f"events: a list of 1 to {MAX_EVENTS_PER_REPORT} events")
        rows: list[Row] = []
        rejected: list[Rejection] = []
        for number, item in enumerate(raw):
            row = _plain(item) or _judged(item, number, rejected)
            if row is not None:
                rows.append(row)
        return cls.of(report_id, rows, rejected)

    @classmethod
    def of(cls, report_id: str, rows: Sequence[Row], rejected: Sequence[Rejection]) -> "UsageColumns":
        user_id, message_id, node_id, count, sent_at, lease_id = (
            zip(*rows, strict=True) if rows else ((),) * 6
        )
        return cls(report_id, user_id, message_id, node_id, count, sent_at, lease_id, rejected)

    def __len__(self) -> int:
        return len(self.user_id)

    def rows(self) -> Iterator[Row]:
        """Return the events one by one."""
        return zip(
            self.user_id,
            self.message_id,
            self.node_id,
            self.count,
            self.sent_at,
            self.lease_id,
            strict=True,
        )


def _plain(item: Any) -> Row | None:
    """Read an event that is right beyond doubt; ``None`` leaves it to ``usage_event``."""
    try:
        user_id, message_id = item["user_id"], item["message_id"]
        node_id, count, lease_id = item.get("node_id"), item.get("count", 1), item.get("lease_id")
        sent_at = datetime.fromisoformat(item["sent_at"])
        if (
            CANONICAL_UUID.fullmatch(user_id) is not None
            and _is_plain_text(message_id)
            and (node_id is None or _is_plain_text(node_id))
            and (lease_id is None or CANONICAL_UUID.fullmatch(lease_id) is not None)
            and type(count) is int
            and 1 <= count <= MAX_COUNT
            and sent_at.tzinfo is UTC  # what fromisoformat gives for Z
        ):
            return user_id, message_id, node_id, count, sent_at, lease_id
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None


def _is_plain_text(text: Any) -> bool:
    """Say whether it is a text of allowed length in which nothing can be unstorable (it is printable)."""
    return type(text) is str and 0 < len(text) <= MAX_ID_LENGTH and text.isprintable()


def _judged(item: Any, number: int, rejected: list[Rejection]) -> Row | None:
    if not isinstance(item, Mapping):
        raise Malformed(f"events[{number}]: an object")
    message_id = Fields(item, f"events[{number}].").text("message_id")
    try:
        event: UsageEvent = usage_event(message_id, Fields(item))
    except Malformed as error:
        rejected.append(Rejection(message_id, str(error)))
        return None
    lease_id = None if event.lease_id is None else str(event.lease_id)
    return str(event.user_id), event.message_id, event.node_id, event.count, event.sent_at, lease_id

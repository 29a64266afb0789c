"""Usage reports as the daemon reads them, and as the rules alone would have them read."""

from collections.abc import Mapping
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import Fields, Malformed, loads
from kosmo_billing_daemon.contract.payloads import (
    MAX_EVENTS_PER_REPORT,
    Rejection,
    UsageEvent,
    UsageReport,
    usage_event,
)
from kosmo_billing_daemon.contract.usage_columns import UsageColumns

Read = tuple[UsageReport, tuple[Rejection, ...]]
"""A report with its well-formed events, and what was wrong with the others."""


def read_report(payload: bytes) -> Read:
    """The report as the daemon reads it."""
    columns = UsageColumns.decode(payload)
    events = tuple(
        UsageEvent(
            message_id=message_id,
            user_id=UUID(user_id),
            node_id=node_id,
            sent_at=sent_at,
            count=count,
            lease_id=None if lease_id is None else UUID(lease_id),
        )
        for user_id, message_id, node_id, count, sent_at, lease_id in columns.rows()
    )
    return UsageReport(report_id=columns.report_id, events=events), tuple(columns.rejected)


def judged_report(payload: bytes) -> Read:
    """The report as ``usage_event`` judges each of its events, without the daemon's shorter way."""
    document = loads(payload)
    report_id, raw = Fields(document).text("report_id"), document.get("events")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_EVENTS_PER_REPORT:
        raise Malformed(f"events: a list of 1 to {MAX_EVENTS_PER_REPORT} events")
    events, rejected = [], []
    for number, item in enumerate(raw):
        if not isinstance(item, Mapping):
            raise Malformed(f"events[{number}]: an object")
        message_id = Fields(item, f"events[{number}].").text("message_id")
        try:
            events.append(usage_event(message_id, Fields(item)))
        except Malformed as error:
            rejected.append(Rejection(message_id, str(error)))
    return UsageReport(report_id=report_id, events=tuple(events)), tuple(rejected)

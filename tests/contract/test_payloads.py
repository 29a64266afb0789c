"""Payloads survive the way over MQTT, and whatever else arrives is Malformed with its place."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    MAX_EVENTS_PER_REPORT,
    EntitlementDocument,
    QuotaState,
    Rejection,
    Scope,
    Standing,
    StatusDocument,
    UsageAck,
    UsageEvent,
    UsageReport,
    Watermark,
)

USER = UUID("ab111111-1111-1111-1111-111111111111")
NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=128)
TIMES = st.datetimes(timezones=st.just(UTC))
WHOLE = st.integers(0, 2**53 - 1)

DOCUMENTS = st.builds(
    EntitlementDocument,
    version=st.integers(1, 2**53 - 1),
    user_id=st.uuids(),
    plan_type=TEXT,
    status=st.sampled_from(Standing),
    scope=st.sampled_from(Scope),
    allowed_nodes=st.lists(TEXT, max_size=4).map(tuple),
    features=st.lists(TEXT, max_size=4).map(tuple),
    messages_limit=st.none() | WHOLE,
    messages_used=WHOLE,
    quota_state=st.sampled_from(QuotaState),
    subscription_id=st.none() | st.uuids(),
    valid_from=st.none() | TIMES,
    valid_until=st.none() | TIMES,
    grace_until=st.none() | TIMES,
    issued_at=TIMES,
)
EVENTS = st.builds(
    UsageEvent,
    message_id=TEXT,
    user_id=st.uuids(),
    node_id=st.none() | TEXT,
    sent_at=TIMES,
    count=st.integers(1, MAX_COUNT),
)
REPORTS = st.builds(UsageReport, report_id=TEXT, events=st.lists(EVENTS, min_size=1, max_size=5).map(tuple))
ACKS = st.builds(
    UsageAck,
    report_id=TEXT,
    accepted=WHOLE,
    duplicates=WHOLE,
    rejected=st.lists(st.builds(Rejection, TEXT, TEXT), max_size=3).map(tuple),
    at=st.none() | TIMES,
)
WATERMARKS = st.builds(Watermark, sequence=WHOLE, entitlements=WHOLE, version_ceiling=WHOLE, database=TEXT)

DOCUMENT = json.loads(
    EntitlementDocument(
        version=7,
        user_id=USER,
        plan_type="guardian",
        status=Standing.ACTIVE,
        scope=Scope.WHITELIST,
        allowed_nodes=("!00000001",),
        features=(),
        messages_limit=500,
        messages_used=3,
        quota_state=QuotaState.OK,
        subscription_id=USER,
        valid_from=NOW,
        valid_until=NOW + timedelta(days=30),
        grace_until=None,
        issued_at=NOW,
    ).encode()
)
EVENT = {
    "message_id": "m1",
    "user_id": str(USER),
    "node_id": "!00000001",
    "count": 2,
    "sent_at": "2026-03-01T12:00:00Z",
}
REPORT = {"report_id": "r1", "events": [EVENT]}
ACK = {
    "report_id": "r1",
    "accepted": 1,
    "duplicates": 0,
    "rejected": [{"message_id": "m1", "reason": "too old"}],
}
WATERMARK = {"sequence": 9, "entitlements": 3, "version_ceiling": 12, "database": "d"}


def refusal(decode: Callable[[bytes], object], document: object) -> str:
    with pytest.raises(Malformed) as caught:
        decode(json.dumps(document).encode())
    return caught.value.message


@given(DOCUMENTS)
def test_an_entitlement_survives(document: EntitlementDocument) -> None:
    assert EntitlementDocument.decode(document.encode()) == document


@given(REPORTS)
def test_a_report_survives(report: UsageReport) -> None:
    assert UsageReport.decode(report.encode()) == report


@given(ACKS)
def test_an_acknowledgement_survives(ack: UsageAck) -> None:
    assert UsageAck.decode(ack.encode()) == ack


@given(WATERMARKS)
def test_a_watermark_survives(watermark: Watermark) -> None:
    assert Watermark.decode(watermark.encode()) == watermark


def test_the_entitlement_on_the_wire_has_the_fields_of_the_contract() -> None:
    assert {
        "version": 7,
        "user_id": str(USER),
        "plan_type": "guardian",
        "status": "active",
        "scope": "whitelist",
        "allowed_nodes": ["!00000001"],
        "features": [],
        "messages_limit": 500,
        "messages_used": 3,
        "quota_state": "ok",
        "subscription_id": str(USER),
        "valid_from": "2026-03-01T12:00:00.250000Z",
        "valid_until": "2026-03-31T12:00:00.250000Z",
        "grace_until": None,
        "issued_at": "2026-03-01T12:00:00.250000Z",
    } == DOCUMENT


def test_status_and_events_are_json_of_the_contract() -> None:
    status = StatusDocument(state="online", instance="a", version="1", since=NOW.replace(microsecond=0))
    assert json.loads(status.encode()) == {
        "state": "online",
        "instance": "a",
        "version": "1",
        "since": "2026-03-01T12:00:00Z",
    }
    event = json.loads(
        cloud_event(
            event_id="5", event_type="quota.reset", subject=str(USER), time=NOW, data={"name": "\u00fc"}
        )
    )
    assert (event["specversion"], event["id"], event["type"], event["subject"]) == (
        "1.0",
        "5",
        "quota.reset",
        str(USER),
    )
    assert (event["datacontenttype"], event["data"]) == ("application/json", {"name": "\u00fc"})
    assert event["source"]


@pytest.mark.parametrize(
    ("decode", "document"),
    [
        (EntitlementDocument.decode, DOCUMENT),
        (UsageReport.decode, REPORT),
        (UsageAck.decode, ACK),
        (Watermark.decode, WATERMARK),
    ],
)
def test_unknown_fields_are_ignored(decode: Callable[[bytes], object], document: dict[str, Any]) -> None:
    more = document | {"later": {"deep": [None, 1e400]}, "": 1}
    assert decode(json.dumps(more).encode()) == decode(json.dumps(document).encode())


@pytest.mark.parametrize("field", sorted(DOCUMENT))
def test_a_missing_field_of_an_entitlement_is_named(field: str) -> None:
    """Also a missing limit or end: read as null they would mean unlimited and endless."""
    document = {name: value for name, value in DOCUMENT.items() if name != field}
    assert refusal(EntitlementDocument.decode, document).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "wrong", [True, 1.5, float("nan"), float("inf"), -1, 2**53, 10**400, "x", "", [[]], {}]
)
@pytest.mark.parametrize("field", sorted(DOCUMENT))
def test_a_malformed_field_of_an_entitlement_is_named(field: str, wrong: object) -> None:
    if field == "plan_type" and wrong == "x":
        return
    assert refusal(EntitlementDocument.decode, DOCUMENT | {field: wrong}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"report_id": None}, "report_id: "),
        ({"report_id": ""}, "report_id: "),
        ({"report_id": "a" * 129}, "report_id: "),
        ({"report_id": "a\x00"}, "report_id: "),
        ({"report_id": "\ud800"}, "report_id: "),
        ({"events": None}, "events: "),
        ({"events": []}, "events: "),
        ({"events": {}}, "events: "),
        ({"events": [EVENT] * (MAX_EVENTS_PER_REPORT + 1)}, "events: "),
        ({"events": [EVENT, 3]}, "events[1]: "),
        ({"events": [EVENT, {}]}, "events[1].message_id: "),
        ({"events": [EVENT, EVENT | {"message_id": "\udfff"}]}, "events[1].message_id: "),
    ],
)
def test_a_report_that_cannot_be_answered_is_malformed_as_a_whole(change: dict[str, Any], place: str) -> None:
    assert refusal(UsageReport.decode, REPORT | change).startswith(place)


def test_a_report_may_be_full() -> None:
    full = json.dumps(REPORT | {"events": [EVENT] * MAX_EVENTS_PER_REPORT}).encode()
    assert len(UsageReport.decode(full).events) == MAX_EVENTS_PER_REPORT


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"user_id": "x"}, "user_id: "),
        ({"user_id": None}, "user_id: "),
        ({"user_id": 3}, "user_id: "),
        ({"sent_at": "2026-03-01T12:00:00"}, "sent_at: "),
        ({"sent_at": "0001-01-01T00:00:00+14:00"}, "sent_at: "),
        ({"sent_at": "9999-12-31T23:59:59-14:00"}, "sent_at: "),
        ({"sent_at": 1772366400}, "sent_at: "),
        ({"sent_at": "yesterday"}, "sent_at: "),
        ({"count": 0}, "count: "),
        ({"count": None}, "count: "),
        ({"count": True}, "count: "),
        ({"count": MAX_COUNT + 1}, "count: "),
        ({"node_id": 5}, "node_id: "),
        ({"node_id": "\ud800"}, "node_id: "),
    ],
)
def test_an_event_that_is_wrong_by_itself_does_not_spoil_the_others(
    change: dict[str, Any], place: str
) -> None:
    wrong = EVENT | {"message_id": "m2"} | change
    report = UsageReport.decode(json.dumps(REPORT | {"events": [EVENT, wrong]}).encode())
    assert [event.message_id for event in report.events] == ["m1"]
    (rejection,) = report.rejected
    assert rejection.message_id == "m2"
    assert rejection.reason.startswith(place)
    ack = UsageAck(report_id=report.report_id, accepted=1, duplicates=0, rejected=report.rejected)
    assert UsageAck.decode(ack.encode()) == ack


def test_count_and_node_may_be_left_out() -> None:
    event = {name: value for name, value in EVENT.items() if name not in ("count", "node_id")}
    (read,) = UsageReport.decode(json.dumps(REPORT | {"events": [event]}).encode()).events
    assert (read.count, read.node_id) == (1, None)


def test_times_of_any_offset_are_read_as_utc() -> None:
    event = EVENT | {"sent_at": "2026-03-01T14:00:00.5+02:00"}
    (read,) = UsageReport.decode(json.dumps(REPORT | {"events": [event]}).encode()).events
    assert (read.sent_at, read.sent_at.tzinfo) == (datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC), UTC)


@pytest.mark.parametrize(
    ("decode", "document", "place"),
    [
        (UsageAck.decode, ACK | {"accepted": -1}, "accepted: "),
        (UsageAck.decode, ACK | {"duplicates": "0"}, "duplicates: "),
        (UsageAck.decode, ACK | {"report_id": 1}, "report_id: "),
        (UsageAck.decode, ACK | {"rejected": {}}, "rejected: "),
        (UsageAck.decode, ACK | {"rejected": [1]}, "rejected: "),
        (UsageAck.decode, ACK | {"rejected": [{"message_id": "m", "reason": ""}]}, "rejected[0].reason: "),
        (
            UsageAck.decode,
            ACK | {"rejected": [{"message_id": "m", "reason": "r"}, {"reason": "x"}]},
            "rejected[1].message_id: ",
        ),
        (Watermark.decode, WATERMARK | {"sequence": None}, "sequence: "),
        (Watermark.decode, WATERMARK | {"entitlements": 1.0}, "entitlements: "),
        (Watermark.decode, WATERMARK | {"version_ceiling": "1"}, "version_ceiling: "),
        (Watermark.decode, WATERMARK | {"database": 1}, "database: "),
    ],
)
def test_a_malformed_field_is_named(decode: Callable[[bytes], object], document: object, place: str) -> None:
    assert refusal(decode, document).startswith(place)

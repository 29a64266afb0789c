"""Payloads are as the contract has them on the wire; whatever else arrives is Malformed with its place."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    MAX_EVENTS_PER_REPORT,
    EntitlementDocument,
    StatusDocument,
    UsageAck,
    Watermark,
)
from tests.contract.builders import ACK, ENTITLEMENT, EVENT, NOW, REPORT, USER, WATERMARK
from tests.support.usage_reports import read_report


def refusal(decode: Callable[[bytes], object], document: object) -> str:
    with pytest.raises(Malformed) as caught:
        decode(json.dumps(document).encode())
    return caught.value.message


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
    } == ENTITLEMENT


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
        (EntitlementDocument.decode, ENTITLEMENT),
        (read_report, REPORT),
        (UsageAck.decode, ACK),
        (Watermark.decode, WATERMARK),
    ],
)
def test_unknown_fields_are_ignored(decode: Callable[[bytes], object], document: dict[str, Any]) -> None:
    more = document | {"later": {"deep": [None, 1e400]}, "": 1}
    assert decode(json.dumps(more).encode()) == decode(json.dumps(document).encode())


@pytest.mark.parametrize("field", sorted(ENTITLEMENT))
def test_a_missing_field_of_an_entitlement_is_named(field: str) -> None:
    """Also a missing limit or end: read as null they would mean unlimited and endless."""
    document = {name: value for name, value in ENTITLEMENT.items() if name != field}
    assert refusal(EntitlementDocument.decode, document).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "wrong", [True, 1.5, float("nan"), float("inf"), -1, 2**53, 10**400, "x", "", [[]], {}]
)
@pytest.mark.parametrize("field", sorted(ENTITLEMENT))
def test_a_malformed_field_of_an_entitlement_is_named(field: str, wrong: object) -> None:
    if field == "plan_type" and wrong == "x":
        return
    assert refusal(EntitlementDocument.decode, ENTITLEMENT | {field: wrong}).startswith(f"{field}: ")


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
    assert refusal(read_report, REPORT | change).startswith(place)


def test_a_report_may_be_full() -> None:
    full = json.dumps(REPORT | {"events": [EVENT] * MAX_EVENTS_PER_REPORT}).encode()
    assert len(read_report(full)[0].events) == MAX_EVENTS_PER_REPORT


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
    report, rejected = read_report(json.dumps(REPORT | {"events": [EVENT, wrong]}).encode())
    assert [event.message_id for event in report.events] == ["m1"]
    (rejection,) = rejected
    assert rejection.message_id == "m2"
    assert rejection.reason.startswith(place)
    ack = UsageAck(report_id=report.report_id, accepted=1, duplicates=0, rejected=rejected)
    assert UsageAck.decode(ack.encode()) == ack


def test_count_and_node_may_be_left_out() -> None:
    event = {name: value for name, value in EVENT.items() if name not in ("count", "node_id")}
    (read,) = read_report(json.dumps(REPORT | {"events": [event]}).encode())[0].events
    assert (read.count, read.node_id) == (1, None)


def test_times_of_any_offset_are_read_as_utc() -> None:
    event = EVENT | {"sent_at": "2026-03-01T14:00:00.5+02:00"}
    (read,) = read_report(json.dumps(REPORT | {"events": [event]}).encode())[0].events
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

"""What the code writes fits the AsyncAPI document, and both refuse the same payloads."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kosmo_billing_daemon.contract import lease_payloads, payloads
from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH, Malformed
from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    EntitlementDocument,
    QuotaState,
    Rejection,
    Scope,
    Standing,
    StatusDocument,
    TimeAnswer,
    TimeRequest,
    UsageAck,
    UsageEvent,
    UsageReport,
    Watermark,
)
from kosmo_billing_daemon.contract.topics import Topics
from tests.contract.schemas import DOCUMENT, SCHEMAS, errors, schema_of

USER = UUID("7b1d6f3e-3f0c-4f55-9d7e-0a4c1f6a2b90")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ids = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128)
whole = some.integers(0, 2**53 - 1)
times = some.integers(0, 2**52).map(lambda microseconds: EPOCH + timedelta(microseconds=microseconds))
nodes = some.from_regex(r"![0-9a-f]{8}", fullmatch=True)

entitlements = some.builds(
    EntitlementDocument,
    version=some.integers(1, 2**53 - 1),
    user_id=some.uuids(),
    plan_type=ids,
    status=some.sampled_from(Standing),
    scope=some.sampled_from(Scope),
    allowed_nodes=some.lists(nodes, max_size=32).map(tuple),
    features=some.lists(ids, max_size=3).map(tuple),
    messages_limit=some.none() | whole,
    messages_used=whole,
    quota_state=some.sampled_from(QuotaState),
    subscription_id=some.none() | some.uuids(),
    valid_from=some.none() | times,
    valid_until=some.none() | times,
    grace_until=some.none() | times,
    issued_at=times,
)
usage_events = some.builds(
    UsageEvent,
    message_id=ids,
    user_id=some.uuids(),
    node_id=some.none() | ids,
    sent_at=times,
    count=some.integers(1, MAX_COUNT),
    lease_id=some.none() | some.uuids(),
)
reports = some.builds(
    UsageReport,
    report_id=ids,
    events=some.lists(usage_events, min_size=1, max_size=5).map(tuple),
    rejected=some.just(()),
)
rejections = some.builds(Rejection, ids, ids)
acks = some.builds(
    UsageAck,
    report_id=ids,
    accepted=whole,
    duplicates=whole,
    rejected=some.lists(rejections, max_size=3).map(tuple),
    at=some.none() | times,
)
watermarks = some.builds(Watermark, sequence=whole, entitlements=whole, version_ceiling=whole, database=ids)

MESSAGES = {
    "Entitlement": entitlements,
    "UsageReport": reports,
    "UsageAck": acks,
    "Watermark": watermarks,
    "TimeRequest": some.builds(TimeRequest, ids),
    "TimeAnswer": some.builds(TimeAnswer, ids, times),
    "LeaseRequest": some.builds(
        LeaseRequest,
        request_id=ids,
        user_id=some.uuids(),
        want=some.integers(0, MAX_COUNT),
        leases=some.lists(some.builds(HeldLease, some.uuids(), some.integers(0, MAX_COUNT)), max_size=3).map(
            tuple
        ),
        openings=some.lists(ids, max_size=3).map(tuple),
    ),
    "LeaseAnswer": some.builds(
        LeaseAnswer,
        request_id=ids,
        user_id=some.uuids(),
        at=times,
        lease_id=some.none() | some.uuids(),
        subscription_id=some.none() | some.uuids(),
        messages=some.integers(0, MAX_COUNT),
        expires_at=some.none() | times,
        reason=some.none() | some.sampled_from(LeaseRefusal),
    ),
}
DECODERS: dict[str, Any] = {
    "Entitlement": EntitlementDocument,
    "UsageReport": UsageReport,
    "UsageAck": UsageAck,
    "Watermark": Watermark,
    "TimeRequest": TimeRequest,
    "TimeAnswer": TimeAnswer,
    "LeaseRequest": LeaseRequest,
    "LeaseAnswer": LeaseAnswer,
}


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_every_message_has_an_example_that_fits(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    schema = message["payload"]["$ref"].rpartition("/")[2]
    assert message["examples"]
    for example in message["examples"]:
        assert errors(schema, example["payload"]) == []
        if name in DECODERS:
            DECODERS[name].decode(json.dumps(example["payload"]).encode())


@pytest.mark.parametrize("name", MESSAGES)
def test_what_the_code_writes_fits(name: str) -> None:
    @given(message=MESSAGES[name])
    def check(message: Any) -> None:
        payload = message.encode()
        assert errors(name, json.loads(payload)) == []
        assert type(message).decode(payload) == message

    check()


def test_status_and_events_that_the_code_writes_fit() -> None:
    now = datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC)
    status = StatusDocument(state="online", instance="here", version="1", since=now)
    assert errors("Status", json.loads(status.encode())) == []
    facts = {
        "subscription_id": str(USER),
        "plan_type": "guardian",
        "messages_used": 1,
        "messages_limit": None,
    }
    for event_type in SCHEMAS["QuotaEvent"]["properties"]["type"]["enum"]:
        event = cloud_event(event_id="1", event_type=event_type, subject=str(USER), time=now, data=facts)
        topic = Topics().event(event_type)
        assert schema_of(topic, json.loads(event)) == "QuotaEvent"
        assert errors("QuotaEvent", json.loads(event)) == []


ABSENT = object()
ODD: list[Any] = [
    ABSENT,
    None,
    True,
    -1,
    0,
    1,
    2**53,
    1.5,
    "",
    "word",
    "x" * (MAX_ID_LENGTH + 1),
    "x" * 1001,
    "nul\0",
    "2026-03-01",
    "2026-03-01T12:00:00",
    "2026-13-01T12:00:00Z",
    (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=1)).isoformat(),
    str(USER),
    [],
    [1],
    ["!A1"],
    {},
    "ok",
    "active",
    "any_node",
]
STRICTER = {("Entitlement", "allowed_nodes")}  # the code reads any texts there; the daemon writes node ids


def refused(name: str, changed: dict[str, Any]) -> bool:
    """Whether the code refuses a payload, or the one event in it."""
    try:
        decoded = DECODERS[name].decode(json.dumps(changed).encode())
    except Malformed:
        return True
    return name == "UsageReport" and bool(decoded.rejected)


@pytest.mark.parametrize("name", DECODERS)
def test_one_odd_field_is_judged_alike_by_document_and_code(name: str) -> None:
    example = DOCUMENT["components"]["messages"][name]["examples"][-1]["payload"]
    if name == "UsageReport":
        example = {**example, "events": example["events"][:1]}
    for place in places(example):
        for odd in ODD:
            changed = json.loads(json.dumps(example))
            *way, last = place
            target = changed
            for step in way:
                target = target[step]
            if odd is ABSENT:
                del target[last]
            else:
                target[last] = odd
            wrong = errors(name, changed)
            if (name, last) in STRICTER and wrong:
                continue
            assert refused(name, changed) == bool(wrong), (place, odd, wrong)


def places(example: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The way to every field, those of the first object in a list included."""
    for name, value in example.items():
        yield (name,)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for inner in value[0]:
                yield (name, 0, inner)


def test_unknown_fields_are_ignored_by_document_and_code() -> None:
    for name in DECODERS:
        example = DOCUMENT["components"]["messages"][name]["examples"][0]["payload"]
        assert not refused(name, {**example, "new_in_another_version": 1})
        assert errors(name, {**example, "new_in_another_version": 1}) == []


def test_the_module_of_payloads_has_no_message_that_the_document_lacks() -> None:
    encodable = {
        name
        for module in (payloads, lease_payloads)
        for name, thing in vars(module).items()
        if is_dataclass(thing) and hasattr(thing, "encode")
    }
    described = {"EntitlementDocument", "StatusDocument", *(MESSAGES.keys() - {"Entitlement"})}
    assert encodable == described

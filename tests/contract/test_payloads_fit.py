"""What the code writes fits the AsyncAPI document and survives the way; both refuse the same payloads."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given

from kosmo_billing_daemon.contract import lease_payloads, payloads
from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH, Malformed
from kosmo_billing_daemon.contract.payloads import (
    StatusDocument,
)
from kosmo_billing_daemon.contract.topics import Topics
from tests.contract.builders import DECODERS, MESSAGES, USER
from tests.contract.schemas import DOCUMENT, SCHEMAS, errors, schema_of
from tests.support.usage_reports import read_report


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_every_message_has_an_example_that_fits(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    schema = message["payload"]["$ref"].rpartition("/")[2]
    assert message["examples"]
    for example in message["examples"]:
        assert errors(schema, example["payload"]) == []
        if name in DECODERS:
            DECODERS[name](json.dumps(example["payload"]).encode())


@pytest.mark.parametrize("name", MESSAGES)
def test_what_the_code_writes_fits_and_is_read_back(name: str) -> None:
    @given(message=MESSAGES[name])
    def check(message: Any) -> None:
        payload = message.encode()
        assert errors(name, json.loads(payload)) == []
        assert DECODERS[name](payload) == message

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
    payload = json.dumps(changed).encode()
    try:
        DECODERS[name](payload)
    except Malformed:
        return True
    return name == "UsageReport" and bool(read_report(payload)[1])


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

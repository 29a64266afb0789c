"""The AsyncAPI document and the code say the same."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest

from kosmo_billing_daemon.contract.document import asyncapi
from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH
from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    MAX_EVENTS_PER_REPORT,
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
from kosmo_billing_daemon.contract.topics import SHARDS, Topics
from kosmo_billing_daemon.domain import invoices, metering, subscriptions
from kosmo_billing_daemon.gate import Decision, Reason
from tests.contract.schemas import DOCUMENT, SCHEMAS

USER = UUID("7b1d6f3e-3f0c-4f55-9d7e-0a4c1f6a2b90")
PARAMETERS = {
    "shard": "7b",
    "user_id": str(USER),
    "type": "quota.warning",
    "reporter": "gateway-1",
    "name": "bridge-1",
}
RETAINED = {"publishEntitlement", "publishStatus", "publishWatermark"}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document that is no example."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in ("examples", "example"):
                yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def resolve(pointer: str) -> Any:
    found: Any = DOCUMENT
    for name in pointer.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_it_is_asyncapi_3_and_every_reference_leads_somewhere() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert set(DOCUMENT) == {
        "asyncapi",
        "info",
        "defaultContentType",
        "servers",
        "channels",
        "operations",
        "components",
    }
    for part in walk(DOCUMENT):
        if "$ref" in part:
            assert set(part) == {"$ref"}, "nothing stands beside a reference"
            assert isinstance(resolve(part["$ref"]), dict)


def test_operations_name_messages_of_their_own_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        for side in (operation, operation.get("reply", operation)):
            channel = side["channel"]["$ref"]
            assert channel.startswith("#/channels/")
            assert all(message["$ref"].startswith(f"{channel}/messages/") for message in side["messages"])


def test_every_channel_is_used_and_names_its_parameters() -> None:
    used = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert used == {f"#/channels/{name}" for name in DOCUMENT["channels"]}
    for channel in DOCUMENT["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel.get("parameters", {}))


@pytest.mark.parametrize("topics", [Topics(), Topics("elsewhere/v1")])
def test_the_addresses_are_the_topics(topics: Topics) -> None:
    channels = json.loads(asyncapi(topics))["channels"]
    assert {name: channel["address"].format(**PARAMETERS) for name, channel in channels.items()} == {
        "entitlements": topics.entitlement(USER),
        "events": topics.event("quota.warning"),
        "usage": topics.usage("gateway-1"),
        "usageAcks": topics.usage_ack("gateway-1"),
        "status": topics.status,
        "watermark": topics.watermark,
        "timeRequests": topics.time_request("bridge-1"),
        "timeAnswers": topics.time_answer("bridge-1"),
        "leases": topics.lease("gateway-1"),
        "leaseGrants": topics.lease_grant("gateway-1"),
    }
    assert PARAMETERS["shard"] in SHARDS


def test_retained_is_what_is_state() -> None:
    bindings = {name: operation["bindings"]["mqtt"] for name, operation in DOCUMENT["operations"].items()}
    assert {name for name, binding in bindings.items() if binding["retain"]} == RETAINED
    assert {binding["qos"] for binding in bindings.values()} == {1}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ("Entitlement", EntitlementDocument),
        ("Status", StatusDocument),
        ("Watermark", Watermark),
        ("UsageEvent", UsageEvent),
        ("UsageReport", UsageReport),
        ("UsageAck", UsageAck),
        ("TimeRequest", TimeRequest),
        ("TimeAnswer", TimeAnswer),
        ("LeaseRequest", LeaseRequest),
        ("LeaseAnswer", LeaseAnswer),
        ("HeldLease", HeldLease),
        ("Rejection", Rejection),
        ("Decision", Decision),
    ],
)
def test_the_fields_are_those_of_the_class(schema: str, kind: Any) -> None:
    assert set(SCHEMAS[schema]["properties"]) == {field.name for field in fields(kind)}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (SCHEMAS["Standing"]["enum"], Standing),
        (SCHEMAS["LeaseRefusal"]["enum"], LeaseRefusal),
        (SCHEMAS["Scope"]["enum"], Scope),
        (SCHEMAS["QuotaState"]["enum"], QuotaState),
        (SCHEMAS["Reason"]["enum"], Reason),
        (SCHEMAS["InvoiceFacts"]["properties"]["status"]["enum"], invoices.InvoiceStatus),
        (SCHEMAS["InvoiceFacts"]["properties"]["payment"]["enum"], invoices.Payment),
        (SCHEMAS["SubscriptionFacts"]["properties"]["source"]["enum"], subscriptions.Source),
    ],
)
def test_the_words_are_those_of_the_code(words: list[str], kind: type[StrEnum]) -> None:
    assert words == list(kind)


def test_events_name_every_kind_of_case_that_is_about_an_invoice_of_ours() -> None:
    others = (invoices.CaseKind.UNKNOWN_ORDER, invoices.CaseKind.NEGATIVE_BALANCE)
    words = SCHEMAS["InvoiceFacts"]["properties"]["kind"]["enum"]
    assert words == [kind for kind in invoices.CaseKind if kind not in others]


def test_every_reason_of_the_gate_is_explained() -> None:
    for reason in Reason:
        assert f"{reason}: " in SCHEMAS["Reason"]["description"]


def test_events_of_rights_are_those_of_the_domain() -> None:
    types = SCHEMAS["SubscriptionEvent"]["properties"]["type"]["enum"]
    assert set(types) == {f"subscription.{event}" for event in subscriptions.SubscriptionEvent} | {
        "subscription.expiring",
        "subscription.renewing",
    }


def test_the_bounds_are_those_of_the_code() -> None:
    report, event = SCHEMAS["UsageReport"]["properties"], SCHEMAS["UsageEvent"]["properties"]
    assert report["events"]["maxItems"] == MAX_EVENTS_PER_REPORT
    assert event["count"]["maximum"] == MAX_COUNT
    assert event["message_id"]["maxLength"] == event["node_id"]["maxLength"] == MAX_ID_LENGTH
    assert metering.TOO_OLD in SCHEMAS["Rejection"]["properties"]["reason"]["examples"]
    assert f"{metering.ACCEPTED_LATE.days} days" in event["sent_at"]["description"]

"""Whatever arrives over MQTT is read or refused as Malformed, and nothing else happens."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.contract.encoding import Malformed, dumps, loads, rfc3339
from kosmo_billing_daemon.contract.lease_payloads import LeaseAnswer, LeaseRequest
from kosmo_billing_daemon.contract.payloads import (
    EntitlementDocument,
    TimeAnswer,
    TimeRequest,
    UsageAck,
    Watermark,
)
from tests.contract.builders import ACK, ENTITLEMENT, EVENT, REPORT, WATERMARK
from tests.contract.test_payloads import refusal
from tests.support.usage_reports import read_report

Payload = EntitlementDocument | UsageAck | Watermark | TimeRequest | TimeAnswer | LeaseRequest | LeaseAnswer


def reported(payload: bytes) -> UsageAck:
    """The answer to a report, with what is taken from it."""
    report, rejected = read_report(payload)
    return UsageAck(report_id=report.report_id, accepted=0, duplicates=0, rejected=rejected)


DECODERS: list[Callable[[bytes], Payload]] = [
    EntitlementDocument.decode,
    reported,
    UsageAck.decode,
    Watermark.decode,
    TimeRequest.decode,
    LeaseRequest.decode,
    LeaseAnswer.decode,
    TimeAnswer.decode,
]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"NaN",
        b"{",
        b'{"a":1}x',
        b'{"version":' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe",
        b'{"report_id":"\xed\xa0\x80"}',
        b'{"report_id":"\xff"}',
        json.dumps(REPORT).encode("utf-16"),
        json.dumps(REPORT).encode("utf-16-le"),
        json.dumps(REPORT).encode("utf-32"),
        json.dumps(WATERMARK).encode("utf-8-sig"),
        '{"report_id":"\u00fc"}'.encode("latin-1"),
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_what_is_no_utf8_json_object_is_malformed(decode: Callable[[bytes], object], payload: bytes) -> None:
    with pytest.raises(Malformed):
        decode(payload)


def decode_or_refuse(payload: bytes) -> None:
    for decode in DECODERS:
        try:
            read = decode(payload)
        except Malformed as error:
            error.message.encode()
        else:
            read.encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(payload: bytes) -> None:
    decode_or_refuse(payload)


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
SCALARS: list[st.SearchStrategy[Any]] = [
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    ANY_TEXT,
    st.uuids().map(str),
]
VALUES = st.recursive(
    st.one_of(SCALARS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([ENTITLEMENT, REPORT, ACK, WATERMARK]), st.data())
def test_any_value_in_any_field_is_read_or_malformed(document: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(document)))
    decode_or_refuse(json.dumps(document | {field: data.draw(VALUES)}).encode())


@given(st.sampled_from(sorted(EVENT)), VALUES)
def test_any_value_in_any_field_of_an_event_is_read_or_malformed(field: str, value: object) -> None:
    decode_or_refuse(json.dumps(REPORT | {"events": [EVENT | {field: value}]}).encode())


@given(ANY_TEXT)
def test_a_text_that_utf8_cannot_hold_is_refused_both_ways(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(Malformed):
            dumps({"a": text})
        assert refusal(reported, REPORT | {"report_id": text}).startswith("report_id: ")
    else:
        assert loads(dumps({"a": text})) == {"a": text}


@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001  the zone is drawn beside it
    st.integers(-14 * 60, 14 * 60),
)
def test_times_are_written_in_utc_with_z(time: datetime, minutes: int) -> None:
    aware = time.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = rfc3339(aware)
    assert text is not None
    assert text.endswith("Z")
    assert ("." in text) == (aware.microsecond != 0)
    assert datetime.fromisoformat(text) == aware

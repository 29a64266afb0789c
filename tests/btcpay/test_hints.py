"""Webhook bodies: what is kept of a hint, and what is none."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.btcpay.errors import InvalidResponse
from kosmo_billing_daemon.btcpay.payloads import Hint, hint

# Time is no fact about our code: a loaded machine draws slowly.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ORDER = "11111111-2222-3333-4444-555555555555"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text()
    | st.sampled_from(["New", "1e400", "NaN", "-0", "0e999", "http://x/i/1", "9" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_a_webhook_body_becomes_a_hint() -> None:
    body = json.dumps(
        {
            "deliveryId": "d",
            "webhookId": "w",
            "type": "InvoiceSettled",
            "storeId": "s",
            "invoiceId": "i",
            "metadata": {"orderId": ORDER},
            "pullPaymentId": "p",
            "manuallyMarked": False,
        }
    ).encode()
    assert hint(body) == Hint(
        delivery_id="d",
        type="InvoiceSettled",
        invoice_id="i",
        order_id=ORDER,
        store_id="s",
        pull_payment_id="p",
        claimed_status=None,
    )


def test_a_claimed_status_is_kept_as_a_claim() -> None:
    seen = hint(b'{"type": "InvoiceSettled", "invoiceId": "i", "status": "Settled"}')
    assert (seen.claimed_status, seen.delivery_id) == ("Settled", None)


@pytest.mark.parametrize("value", [5, None, "", [], "x" * 129, "a\x00b", "\ud800", "a\nb"])
def test_an_optional_field_we_could_not_keep_is_absent(value: Any) -> None:
    body = {
        "type": "X",
        "invoiceId": value,
        "deliveryId": value,
        "storeId": value,
        "metadata": {"orderId": value},
        "pullPaymentId": value,
        "status": value,
    }
    assert hint(json.dumps(body).encode()) == Hint(
        delivery_id=None,
        type="X",
        invoice_id=None,
        order_id=None,
        store_id=None,
        pull_payment_id=None,
        claimed_status=None,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b'{"type": "X"',
        b'{"type": 5}',
        b'{"type": ""}',
        b'{"type": "a\\u0000"}',
        b'{"type": "X", "n": NaN}',
        b'{"type": "X", "n": 1e99999999999999999999}',
        b'{"type": "X", "n": ' + b"9" * 5000 + b"}",
        b'{"type": "' + b"x" * 65 + b'"}',
        b'{"type": "\xff"}',
        '{"type": "X"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"type": "X"}',
        b"[" * 200_000,
        b'{"type": "X", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_webhook_body_is_malformed(body: bytes) -> None:
    with pytest.raises(InvalidResponse):
        hint(body)


@unhurried
@given(st.binary() | json_values.map(lambda value: json.dumps(value, default=str).encode()))
def test_any_body_is_a_hint_or_malformed(body: bytes) -> None:
    try:
        seen = hint(body)
    except InvalidResponse:
        return
    for text in (seen.delivery_id, seen.type, seen.invoice_id, seen.order_id, seen.store_id):
        assert text is None or (text.isprintable() and len(text.encode()) <= 4 * 128)


@unhurried
@given(
    st.fixed_dictionaries(
        {"type": st.just("X")},
        optional=dict.fromkeys(("deliveryId", "invoiceId", "storeId", "metadata", "status"), json_values),
    )
)
def test_any_object_with_a_type_is_a_hint(document: dict[str, Any]) -> None:
    body = json.dumps(document, default=str, allow_nan=True).encode()
    if b"NaN" in body or b"Infinity" in body:
        return
    assert hint(body).type == "X"

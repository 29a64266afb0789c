"""Whatever comes in, it is taken or refused, never a bug."""

import json
from datetime import UTC, datetime
from urllib.parse import urlsplit

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.btcpay.errors import InvalidResponse
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.web.redirects import checked
from kosmo_billing_daemon.web.rendering import encode
from kosmo_billing_daemon.web.webhooks import Intake

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SIGNED = Intake(secrets=(b"secret",), keep_claims=False)
OPEN = Intake(secrets=(), keep_claims=True)
HOST = "kosmo.example"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
bodies = st.binary() | st.dictionaries(
    st.sampled_from(["type", "deliveryId", "invoiceId", "storeId", "metadata", "status"]), json_values
).map(lambda document: json.dumps(document).encode())


@given(bodies)
@settings(max_examples=300, deadline=None, database=None)
def test_any_signed_body_becomes_a_delivery_the_database_can_hold(body: bytes) -> None:
    delivery = SIGNED.delivery(body, NOW)
    texts = [
        delivery.delivery_id,
        delivery.type,
        delivery.btcpay_invoice_id,
        delivery.order_id,
        delivery.store_id,
    ]
    assert all(text is None or (text.isprintable() and 1 <= len(text) <= 128) for text in texts)
    assert delivery.claimed_status is None


@given(bodies)
@settings(max_examples=300, deadline=None, database=None)
def test_any_unsigned_body_becomes_a_delivery_or_is_malformed(body: bytes) -> None:
    try:
        delivery = OPEN.delivery(body, NOW)
    except InvalidResponse:
        return
    assert delivery.type.isprintable()


@given(
    st.text()
    | st.text().map(lambda rest: f"https://{HOST}{rest}")
    | st.text().map(lambda rest: f"https://{rest}")
)
@example("https://kosmo.example:\u0661/")
@settings(max_examples=500, deadline=None, database=None)
def test_any_address_is_on_the_listed_host_or_refused(url: str) -> None:
    try:
        taken = checked(url, frozenset({HOST}))
    except Invalid:
        return
    assert taken == url
    assert urlsplit(url).hostname == HOST
    assert url.isascii()


@given(
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))
)
@settings(deadline=None, database=None)
def test_answers_read_back_as_they_were(document: dict[str, object]) -> None:
    assert json.loads(encode(document)) == document

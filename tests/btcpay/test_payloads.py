import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.btcpay.addresses import Links
from kosmo_billing_daemon.btcpay.errors import Garbled
from kosmo_billing_daemon.btcpay.payloads import confirmed, creation, observation, observations
from kosmo_billing_daemon.btcpay.reading import decode
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.domain.plans import BUILT_IN, Price

# Time is no fact about our code: a loaded machine draws slowly.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ORDER = "11111111-2222-3333-4444-555555555555"
EXPIRES = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INVOICE: Mapping[str, Any] = {
    "id": "SkdsDghkdP3D3qkj7bLq3",
    "storeId": "store",
    "amount": "5.00",
    "paidAmount": "0",
    "currency": "USD",
    "checkoutLink": "http://btcpay:23000/i/SkdsDghkdP3D3qkj7bLq3",
    "expirationTime": int(EXPIRES.timestamp()),
    "status": "New",
    "additionalStatus": "None",
    "metadata": {"orderId": ORDER},
    "somethingNew": [1, 2],
}


def read(**changes: Any) -> Observation:
    return observation(decode(json.dumps({**INVOICE, **changes}).encode()))


def test_an_invoice_becomes_an_observation() -> None:
    assert read() == Observation(
        btcpay_invoice_id="SkdsDghkdP3D3qkj7bLq3",
        store_id="store",
        order_id=ORDER,
        amount=Decimal(5),
        currency="USD",
        status=InvoiceStatus.NEW,
        payment=Payment.NONE,
        expires_at=EXPIRES,
        paid_amount=Decimal(0),
        checkout_url="http://btcpay:23000/i/SkdsDghkdP3D3qkj7bLq3",
    )


@pytest.mark.parametrize(
    ("status", "additional", "expected"),
    [
        ("Processing", "PaidOver", (InvoiceStatus.PROCESSING, Payment.OVER)),
        ("Settled", "Marked", (InvoiceStatus.SETTLED, Payment.MARKED)),
        ("Expired", "PaidPartial", (InvoiceStatus.EXPIRED, Payment.PARTIAL)),
        ("Expired", "PaidLate", (InvoiceStatus.EXPIRED, Payment.LATE)),
        ("Invalid", "None", (InvoiceStatus.INVALID, Payment.NONE)),
    ],
)
def test_every_status_is_known(status: str, additional: str, expected: tuple[InvoiceStatus, Payment]) -> None:
    seen = read(status=status, additionalStatus=additional)
    assert (seen.status, seen.payment) == expected


@pytest.mark.parametrize(
    "amount", [b'"5"', b'"5.00"', b"5", b"5.0", b"5.000000000000000000000000000", b"5e0"]
)
def test_money_is_exact_however_it_is_written(amount: bytes) -> None:
    body = json.dumps({**INVOICE, "amount": "AMOUNT"}).encode().replace(b'"AMOUNT"', amount)
    assert observation(decode(body)).amount == Decimal(5)


def test_a_number_never_passes_through_a_float() -> None:
    body = json.dumps({**INVOICE, "amount": "AMOUNT"}).encode()
    body = body.replace(b'"AMOUNT"', b"0.1000000000000000055511151231")
    assert observation(decode(body)).amount == Decimal("0.1000000000000000055511151231")


def test_servers_before_2_1_2_tell_no_paid_amount() -> None:
    document = {name: value for name, value in INVOICE.items() if name != "paidAmount"}
    assert observation(document).paid_amount is None
    assert read(paidAmount=None).paid_amount is None


@pytest.mark.parametrize(
    "metadata",
    [None, {}, [], {"orderId": None}, {"orderId": 5}, {"orderId": "a\x00b"}, {"orderId": "x" * 129}],
)
def test_an_order_id_that_cannot_be_ours_is_none(metadata: Any) -> None:
    assert read(metadata=metadata).order_id is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", None),
        ("id", ""),
        ("id", 5),
        ("id", "x" * 129),
        ("id", "a\x00"),
        ("id", "\ud800"),
        ("storeId", None),
        ("amount", None),
        ("amount", True),
        ("amount", "NaN"),
        ("amount", "Infinity"),
        ("amount", "-5"),
        ("amount", "1e400"),
        ("amount", "1e-400"),
        ("amount", "1e9999999999999999999"),
        ("amount", "9" * 65),
        ("amount", "1_000"),
        ("amount", "\u0665"),
        ("amount", {}),
        ("paidAmount", "sNaN"),
        ("paidAmount", []),
        ("currency", ""),
        ("status", "Paid"),
        ("status", None),
        ("status", ["New"]),
        ("additionalStatus", "Invalid"),
        ("expirationTime", None),
        ("expirationTime", "soon"),
        ("expirationTime", -1),
        ("expirationTime", True),
        ("expirationTime", 10**18),
        ("expirationTime", 10**400),
        ("expirationTime", 1.5),
        ("checkoutLink", None),
        ("checkoutLink", "javascript:alert(1)"),
        ("checkoutLink", "http://[/i/x"),
        ("checkoutLink", "https:///i/x"),
    ],
)
def test_what_decides_is_read_strictly(field: str, value: Any) -> None:
    with pytest.raises(Garbled) as caught:
        read(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "-Infinity"])
def test_a_decimal_that_is_no_number_is_garbled(amount: str) -> None:
    with pytest.raises(Garbled):
        observation({**INVOICE, "amount": Decimal(amount)})
    with pytest.raises(Garbled):
        observation({**INVOICE, "expirationTime": Decimal(amount)})


def test_an_unreadable_invoice_does_not_hide_the_others() -> None:
    with pytest.raises(Garbled) as caught:
        observations([INVOICE, {**INVOICE, "status": "Paid"}, None])
    assert [seen.order_id for seen in caught.value.readable] == [ORDER]
    assert caught.value.order_ids == (ORDER, None)


@pytest.mark.parametrize(
    ("called", "public", "link", "expected"),
    [
        ("http://btcpay:23000", None, "http://btcpay:23000/i/1", "http://btcpay:23000/i/1"),
        ("http://btcpay:23000", "https://pay.example", "http://btcpay:23000/i/1", "https://pay.example/i/1"),
        ("http://btcpay/b", "https://pay.example/", "http://btcpay/b/i/1?x=y", "https://pay.example/i/1?x=y"),
        (
            "http://btcpay/b/",
            "https://pay.example/shop",
            "http://btcpay/b/i/1",
            "https://pay.example/shop/i/1",
        ),
        ("http://btcpay/b", "https://pay.example", "http://btcpay/i/1", "https://pay.example/i/1"),
        ("http://btcpay/i", "https://pay.example", "http://btcpay/invoice", "https://pay.example/invoice"),
    ],
)
def test_checkout_links_lead_to_the_public_address(
    called: str, public: str | None, link: str, expected: str
) -> None:
    seen = observation({**INVOICE, "checkoutLink": link}, links=Links.of(called, public))
    assert seen.checkout_url == expected


def test_a_creation_names_amount_and_order_as_text() -> None:
    plan = BUILT_IN.plans[0]
    body = creation(
        UUID(ORDER),
        plan,
        asked=Price(Decimal("3.20"), "USD"),
        redirect_url="https://kosmo.example/done",
        expiration=timedelta(minutes=20),
    )
    assert body == {
        "amount": "3.20",
        "currency": "USD",
        "metadata": {"orderId": ORDER, "itemDesc": "KosmoConnect Wanderer, 30 days", "itemCode": "wanderer"},
        "checkout": {
            "redirectURL": "https://kosmo.example/done",
            "expirationMinutes": 20,
            "paymentTolerance": 0,
        },
    }
    assert isinstance(body["checkout"]["expirationMinutes"], int)


LATE = observation({**INVOICE, "status": "Expired", "additionalStatus": "PaidLate", "paidAmount": "5.00"})
NOW = EXPIRES + timedelta(hours=10)


def payment(status: str, value: str, received: datetime, fee: str | None = "0") -> dict[str, Any]:
    return {"status": status, "value": value, "fee": fee, "receivedDate": int(received.timestamp())}


def methods(*payments: dict[str, Any], rate: str = "99999.99") -> list[dict[str, Any]]:
    return [{"rate": rate, "payments": list(payments)}, {"rate": "1", "payments": []}]


def test_unconfirmed_money_is_not_confirmed() -> None:
    later = EXPIRES + timedelta(hours=1)
    seen = confirmed(
        LATE, methods(payment("Settled", "0.00002", later), payment("Processing", "0.00003", later)), NOW
    )
    assert seen.confirmed_amount == 2
    assert seen.last_received_at == later


def test_no_payment_confirms_nothing() -> None:
    assert confirmed(LATE, methods(), NOW).confirmed_amount == 0
    assert confirmed(LATE, methods(), NOW).last_received_at is None
    replaced = confirmed(LATE, methods(payment("Invalid", "1", NOW)), NOW)
    assert replaced.confirmed_amount == 0


@pytest.mark.parametrize(("value", "sum_"), [("0.0000495", "4.95"), ("0.0000001", "0.01")])
def test_what_is_called_paid_late_is_worth_its_payments_and_no_more(value: str, sum_: str) -> None:
    called = {**INVOICE, "status": "Expired", "additionalStatus": "PaidLate", "paidAmount": "5.00"}
    paid = methods(payment("Settled", value, NOW))
    assert confirmed(observation(called), paid, NOW).confirmed_amount == Decimal(sum_)


@pytest.mark.parametrize(
    ("currency", "rate", "values", "sum_"),
    [
        ("USD", "99999.99", ["0.00002002"], "2.0019998"),  # a satoshi is a tenth of a cent
        ("JPY", "15000000", ["0.00000333", "0.00000333"], "100"),  # 99.9, and 0.3 may be lost
        ("JPY", "15000000", ["0.00000334"], "50"),  # 50.1
        ("JPY", "15000000", ["0.00000336"], "50.4"),
        ("VND", "2500000000", ["0.00000001"], "25"),
        ("KWD", "30000", ["0.00000018"], "0.0054"),
    ],
)
def test_what_converting_loses_is_made_whole_and_nothing_else(
    currency: str, rate: str, values: list[str], sum_: str
) -> None:
    partly = observation(
        {**INVOICE, "currency": currency, "amount": "1000", "status": "Expired", "paidAmount": "900"}
    )
    paid = methods(*(payment("Settled", value, NOW) for value in values), rate=rate)
    assert confirmed(partly, paid, NOW).confirmed_amount == Decimal(sum_)


def test_settled_payments_of_an_invalid_invoice_count_as_btcpay_counts_them() -> None:
    invalid = observation({**INVOICE, "status": "Invalid", "paidAmount": "3.00"})
    paid = methods(payment("Settled", "0.00003001", NOW, fee="0.00000001"))
    assert confirmed(invalid, paid, NOW).confirmed_amount == Decimal(3)
    old = observation({**INVOICE, "status": "Invalid", "paidAmount": None})
    assert confirmed(old, paid, NOW).confirmed_amount == 3


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (EXPIRES - timedelta(hours=6), EXPIRES),
        (EXPIRES + timedelta(hours=1), EXPIRES + timedelta(hours=1)),
        (NOW + timedelta(hours=6), NOW),
    ],
)
def test_a_shifted_receipt_is_clipped(received: datetime, expected: datetime) -> None:
    assert confirmed(LATE, methods(payment("Settled", "1", received)), NOW).last_received_at == expected


@pytest.mark.parametrize(
    "document",
    [None, {}, [1], [{"payments": 5}], [{"rate": "x", "payments": [payment("Settled", "1", NOW)]}]],
)
def test_unreadable_payments_are_garbled(document: Any) -> None:
    with pytest.raises(Garbled):
        confirmed(LATE, document, NOW)


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


@unhurried
@given(st.dictionaries(st.sampled_from([*INVOICE]), json_values, max_size=4))
def test_any_document_is_an_observation_or_garbled(changes: dict[str, Any]) -> None:
    try:
        seen = observation({**INVOICE, **changes})
    except Garbled:
        return
    assert seen.amount >= 0
    assert seen.expires_at + timedelta(days=365) > seen.expires_at
    str(seen).encode()


@unhurried
@given(json_values, json_values, json_values, json_values)
def test_any_payments_are_confirmed_or_garbled(value: Any, fee: Any, rate: Any, received: Any) -> None:
    entry = {"status": "Settled", "value": value, "fee": fee, "receivedDate": received}
    for document in ([{"rate": rate, "payments": [entry, payment("Processing", "1", NOW)]}], value):
        try:
            seen = confirmed(LATE, document, NOW)
        except Garbled:
            continue
        assert seen.confirmed_amount is not None
        assert seen.confirmed_amount.is_finite()

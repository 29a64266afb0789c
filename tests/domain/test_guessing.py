"""What columns of v0.1 mean is guessed by what people commonly call them; a wrong type is no guess."""

import pytest

from kosmo_billing_daemon.domain.adoption.guessing import guess
from kosmo_billing_daemon.domain.adoption.old_tables import (
    FIELDS,
    ColumnKind,
    OldColumn,
    OldTable,
    Part,
    bare,
)
from kosmo_billing_daemon.domain.plans import BUILT_IN

# As frameworks and people write them: the fields in the order below.
SUBSCRIPTIONS = (
    "id user_id plan_type status valid_from valid_until messages_used messages_limit",
    "id user_id plan is_active started_at expires_at used quota",
    "pk subscriber_id tier active started ends_at messages_sent max_messages",
    "id userId planType isActive startsAt expiresAt messagesUsed messageLimit",
    "uuid uid plan_code state start_date end_date msg_count msg_limit",
    "ID Customer Package Enabled Begin Expiry Usage Allowance",
    "id account_id level sub_status period_start period_end sent_count monthly_quota",
    "subscription_id member_id product_name is_valid purchased_at paid_until consumed cap",
)
_SAID = ("id", "user_id", "plan", "status", "valid_from", "valid_until", "messages_used", "messages_limit")
INVOICES = (
    "btcpay_invoice_id user_id amount currency status checkout_url created_at",
    "btcpayInvoiceId userId amount currency status checkoutUrl createdAt",
    "external_id owner_id price currency_code state payment_link created_on",
    "provider_invoice_id uid amount_cents ccy payment_status pay_url inserted_at",
)
_BILLED = ("btcpay_invoice_id", "user_id", "amount", "currency", "status", "checkout_url", "created_at")


def table(part: Part, names: str, said: tuple[str, ...]) -> OldTable:
    kinds = {name: next(iter(FIELDS[part][name].kinds & _PLAIN)) for name in said}
    columns = [
        OldColumn(name=name, type="x", kind=kinds[each])
        for name, each in zip(names.split(), said, strict=True)
    ]
    return OldTable(schema="public", name=str(part), columns=tuple(reversed(columns)))


_PLAIN = {ColumnKind.ZONED, ColumnKind.INTEGER, ColumnKind.TEXT}


@pytest.mark.parametrize("names", SUBSCRIPTIONS)
@pytest.mark.parametrize("billed", INVOICES)
def test_what_columns_are_commonly_called_is_understood(names: str, billed: str) -> None:
    tables = {
        Part.SUBSCRIPTIONS: table(Part.SUBSCRIPTIONS, names, _SAID),
        Part.INVOICES: table(Part.INVOICES, billed, _BILLED),
    }
    made, _ = guess(tables, BUILT_IN)
    assert made.parts[Part.SUBSCRIPTIONS].columns == dict(zip(_SAID, names.split(), strict=True))
    assert made.parts[Part.INVOICES].columns == dict(zip(_BILLED, billed.split(), strict=True))


def test_a_likelier_name_is_preferred_and_a_wrong_type_is_named_and_passed_over() -> None:
    columns = {
        "ended_at": ColumnKind.ZONED,
        "expires_at": ColumnKind.BOOLEAN,
        "end_date": ColumnKind.DATE,
        "created_at": ColumnKind.ZONED,
        "started": ColumnKind.ZONED,
    }
    old = OldTable(
        schema="public",
        name="subscriptions",
        columns=tuple(OldColumn(name=name, type=str(kind), kind=kind) for name, kind in columns.items()),
    )
    made, why = guess({Part.SUBSCRIPTIONS: old}, BUILT_IN)
    found = made.parts[Part.SUBSCRIPTIONS].columns
    assert (found["valid_until"], found["valid_from"]) == ("end_date", "started")
    assert "subscriptions: expires_at is no valid_until, since its type is boolean" in why


def test_no_name_is_there_twice() -> None:
    for fields in FIELDS.values():
        for each in fields.values():
            assert len({bare(name) for name in each.names}) == len(each.names)

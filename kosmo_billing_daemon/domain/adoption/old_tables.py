"""The tables of KosmoConnect v0.1 as the catalogue shows them, and what their rows may say."""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from kosmo_billing_daemon.runtime.records import record


class ColumnKind(StrEnum):
    """What a column's type can hold, as far as it matters here."""

    ZONED = "zoned"
    NAIVE = "naive"
    DATE = "date"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    UUID = "uuid"
    BOOLEAN = "boolean"
    OTHER = "other"


@record(kw_only=True)
class OldColumn:
    """A column as the catalogue has it; ``type`` is how SQL writes its type, ``labels`` those of an enum."""

    name: str
    type: str
    kind: ColumnKind
    labels: tuple[str, ...] = ()


@record(kw_only=True)
class OldTable:
    """A table or view of v0.1; ``values`` are the values of columns with few, the frequent first."""

    schema: str
    name: str
    columns: tuple[OldColumn, ...]
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def shown(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> OldColumn | None:
        return next((column for column in self.columns if column.name == name), None)


class Part(StrEnum):
    """The tables that are moved in."""

    SUBSCRIPTIONS = "subscriptions"
    INVOICES = "invoices"
    WHITELIST = "whitelist"


_TIMES = frozenset(
    {
        ColumnKind.ZONED,
        ColumnKind.NAIVE,
        ColumnKind.DATE,
        ColumnKind.INTEGER,
        ColumnKind.NUMBER,
        ColumnKind.TEXT,
    }
)
_IDS = frozenset({ColumnKind.UUID, ColumnKind.INTEGER, ColumnKind.TEXT})
_NUMBERS = frozenset({ColumnKind.INTEGER, ColumnKind.NUMBER, ColumnKind.TEXT})
_WORDS = frozenset({ColumnKind.TEXT, ColumnKind.INTEGER})


@record(kw_only=True)
class Field:
    """Something that a row may say: the names of columns that say it, the likeliest first."""

    kinds: frozenset[ColumnKind]
    names: tuple[str, ...]
    is_needed: bool = False


FIELDS: Mapping[Part, Mapping[str, Field]] = {
    Part.SUBSCRIPTIONS: {
        "id": Field(kinds=_IDS, names=("id", "subscription_id", "uuid")),
        "user_id": Field(
            kinds=_IDS,
            names=("user_id", "userid", "user_uuid", "user", "account_id", "customer_id", "owner_id"),
            is_needed=True,
        ),
        "plan": Field(
            kinds=_WORDS,
            names=("plan_type", "plan", "tier", "plan_name", "plan_id", "subscription_type", "product"),
            is_needed=True,
        ),
        "status": Field(
            kinds=_WORDS | {ColumnKind.BOOLEAN},
            names=("status", "is_active", "active", "state", "subscription_status", "enabled"),
        ),
        "valid_from": Field(
            kinds=_TIMES,
            names=(
                "valid_from",
                "start_date",
                "starts_at",
                "started_at",
                "start_at",
                "start_time",
                "current_period_start",
                "activated_at",
                "created_at",
            ),
        ),
        "valid_until": Field(
            kinds=_TIMES,
            names=(
                "valid_until",
                "expires_at",
                "end_date",
                "ends_at",
                "expiry_date",
                "expiry",
                "expires",
                "valid_to",
                "end_at",
                "end_time",
                "expiration_date",
                "current_period_end",
            ),
            is_needed=True,
        ),
        "messages_used": Field(
            kinds=_NUMBERS,
            names=("messages_used", "used", "message_count", "messages_sent", "used_messages", "usage"),
        ),
        "messages_limit": Field(
            kinds=_NUMBERS,
            names=(
                "messages_limit",
                "message_limit",
                "quota",
                "messages_quota",
                "message_quota",
                "limit",
                "max_messages",
                "messages_allowed",
                "monthly_limit",
            ),
        ),
    },
    Part.INVOICES: {
        "id": Field(kinds=_IDS, names=("id",)),
        "btcpay_invoice_id": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=("btcpay_invoice_id", "invoice_id", "btcpay_id", "external_id", "id"),
            is_needed=True,
        ),
        "user_id": Field(
            kinds=_IDS,
            names=("user_id", "userid", "user_uuid", "user", "account_id", "customer_id", "owner_id"),
            is_needed=True,
        ),
        "plan": Field(
            kinds=_WORDS,
            names=("plan_type", "plan", "tier", "plan_name", "plan_id", "subscription_type", "product"),
        ),
        "status": Field(
            kinds=_WORDS, names=("status", "state", "invoice_status", "payment_status"), is_needed=True
        ),
        "amount": Field(
            kinds=_NUMBERS,
            names=("amount", "price", "amount_cents", "price_cents", "total", "amount_usd", "price_usd"),
            is_needed=True,
        ),
        "currency": Field(kinds=frozenset({ColumnKind.TEXT}), names=("currency", "currency_code")),
        "checkout_url": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=("checkout_url", "checkout_link", "payment_url", "invoice_url", "url"),
        ),
        "created_at": Field(kinds=_TIMES, names=("created_at", "created", "created_time", "date")),
        "expires_at": Field(kinds=_TIMES, names=("expires_at", "expiration_time", "expires", "expiry")),
        "settled_at": Field(kinds=_TIMES, names=("settled_at", "paid_at", "completed_at")),
    },
    Part.WHITELIST: {
        "user_id": Field(kinds=_IDS, names=("user_id", "userid", "user_uuid", "user"), is_needed=True),
        "node_id": Field(
            kinds=frozenset({ColumnKind.TEXT, ColumnKind.INTEGER}),
            names=("node_id", "node", "node_num", "meshtastic_id"),
            is_needed=True,
        ),
        "label": Field(kinds=frozenset({ColumnKind.TEXT}), names=("label", "name", "description", "alias")),
    },
}
"""What each table says, and which columns usually say it."""

OLD_NAMES: Mapping[Part, str | None] = {
    Part.SUBSCRIPTIONS: "subscriptions",
    Part.INVOICES: "btcpay_invoices",
    Part.WHITELIST: None,
}
"""What v0.1 calls them. A whitelist is read only where the map names one."""

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


_TIMES = frozenset(ColumnKind) - {ColumnKind.UUID, ColumnKind.BOOLEAN, ColumnKind.OTHER}
_IDS = frozenset({ColumnKind.UUID, ColumnKind.INTEGER, ColumnKind.TEXT})
_NUMBERS = frozenset({ColumnKind.INTEGER, ColumnKind.NUMBER, ColumnKind.TEXT})
_WORDS = frozenset({ColumnKind.TEXT, ColumnKind.INTEGER})


def bare(name: str) -> str:
    """Return a column's name as names are compared: ``validUntil`` is ``valid_until``."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def words(given: str) -> tuple[str, ...]:
    """Return what stands between the spaces of a text."""
    return tuple(given.split())


_USERS = words("""
    user_id user_uuid user subscriber_id subscriber member_id account_id account customer_id
    customer owner_id owner client_id uid username
""")
_PLANS = words("""
    plan_type plan tier plan_name plan_id plan_code plan_key plan_slug subscription_type
    subscription_plan subscription_tier membership package product product_name product_id sku
    level type kind
""")


@record(kw_only=True)
class Field:
    """Something that a row may say: the names of columns that say it, the likeliest first."""

    kinds: frozenset[ColumnKind]
    names: tuple[str, ...]
    is_needed: bool = False


FIELDS: Mapping[Part, Mapping[str, Field]] = {
    Part.SUBSCRIPTIONS: {
        "id": Field(kinds=_IDS, names=words("id subscription_id sub_id uuid subscription_uuid pk")),
        "user_id": Field(kinds=_IDS, names=_USERS, is_needed=True),
        "plan": Field(kinds=_WORDS, names=_PLANS, is_needed=True),
        "status": Field(
            kinds=_WORDS | {ColumnKind.BOOLEAN},
            names=words("""
                status is_active active state subscription_status sub_status plan_status enabled
                is_enabled is_valid is_current
            """),
        ),
        "valid_from": Field(
            kinds=_TIMES,
            names=words("""
                valid_from start_date starts_at started_at start_at start_time started starts start
                start_ts valid_since active_from effective_from period_start current_period_start
                begins_at begin_at begin_date begin from_date activated_at activation_date subscribed_at
                purchased_at purchase_date created_at created_on date_created created
            """),
        ),
        "valid_until": Field(
            kinds=_TIMES,
            names=words("""
                valid_until expires_at end_date ends_at expiry_date expiry expires valid_to valid_till
                valid_through end_at end_time expires_on expire_at expire_date expiration_date expiration
                expiration_time expiry_at expiry_time expired_at ends ends_on end end_ts active_until
                paid_until paid_through effective_until effective_to period_end current_period_end until
                to_date renews_at renewal_date next_billing_date ended_at
            """),
            is_needed=True,
        ),
        "messages_used": Field(
            kinds=_NUMBERS,
            names=words("""
                messages_used used message_count messages_sent sent_messages used_messages
                messages_consumed messages_count msgs_used msg_used msg_count num_messages quota_used
                used_quota usage usage_count used_count current_usage sent_count sent consumed counter
                count
            """),
        ),
        "messages_limit": Field(
            kinds=_NUMBERS,
            names=words("""
                messages_limit message_limit quota messages_quota message_quota limit max_messages
                messages_max messages_allowed message_allowance allowance messages_included
                included_messages messages_total total_messages message_cap messages_cap msg_limit
                msgs_limit msg_quota max_msgs quota_limit quota_total usage_limit monthly_limit
                monthly_quota cap
            """),
        ),
    },
    Part.INVOICES: {
        "id": Field(kinds=_IDS, names=("id",)),
        "btcpay_invoice_id": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=words("""
                btcpay_invoice_id btcpay_id btcpay_invoice invoice_id external_id external_invoice_id
                provider_id provider_invoice_id payment_id id
            """),
            is_needed=True,
        ),
        "user_id": Field(kinds=_IDS, names=_USERS, is_needed=True),
        "plan": Field(kinds=_WORDS, names=_PLANS),
        "status": Field(
            kinds=_WORDS,
            names=words("status state invoice_status payment_status btcpay_status"),
            is_needed=True,
        ),
        "amount": Field(
            kinds=_NUMBERS,
            names=words("""
                amount price amount_cents price_cents total total_amount amount_usd price_usd amount_fiat
                fiat_amount amount_due price_amount cost value
            """),
            is_needed=True,
        ),
        "currency": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=words("currency currency_code currency_iso fiat_currency price_currency ccy fiat"),
        ),
        "checkout_url": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=words("""
                checkout_url checkout_link payment_url payment_link pay_url invoice_url invoice_link
                btcpay_url checkout url link
            """),
        ),
        "created_at": Field(
            kinds=_TIMES,
            names=words("""
                created_at created created_time created_on date_created opened_at issued_at inserted_at
                invoice_date date timestamp
            """),
        ),
        "expires_at": Field(
            kinds=_TIMES,
            names=words("""
                expires_at expiration_time expires expiry expire_at expired_at expires_on expiry_date
                expiration expiration_date valid_until due_at due_date
            """),
        ),
        "settled_at": Field(
            kinds=_TIMES,
            names=words("settled_at paid_at paid_on completed_at confirmed_at fulfilled_at payment_date"),
        ),
    },
    Part.WHITELIST: {
        "user_id": Field(kinds=_IDS, names=_USERS, is_needed=True),
        "node_id": Field(
            kinds=frozenset({ColumnKind.TEXT, ColumnKind.INTEGER}),
            names=words("node_id node node_num node_hex node_identifier meshtastic_id mesh_id device_id"),
            is_needed=True,
        ),
        "label": Field(
            kinds=frozenset({ColumnKind.TEXT}),
            names=words(
                "label name node_name long_name short_name nickname alias title description comment note"
            ),
        ),
    },
}
"""What each table says, and which columns usually say it."""

OLD_NAMES: Mapping[Part, str | None] = {
    Part.SUBSCRIPTIONS: "subscriptions",
    Part.INVOICES: "btcpay_invoices",
    Part.WHITELIST: None,
}
"""What v0.1 calls them. A whitelist is read only where the map names one."""

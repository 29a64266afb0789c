"""The tables of v0.1 as they may look in the wild: the same customers, written in six ways."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import asyncpg

from kosmo_billing_daemon.domain.adoption.reading import USERS

QUOTAS = {"wanderer": 50, "guardian": 500, "sanctuary": None}
PRICES = {"wanderer": "5.00", "guardian": "12.00", "sanctuary": "50.00"}
PLANS = tuple(QUOTAS)


@dataclass(frozen=True)
class Customer:
    """One customer of v0.1, and what must come of it."""

    number: int
    plan: str
    start: datetime
    end: datetime
    used: int
    limit: int | None
    is_active: bool
    has_paid: bool

    @property
    def uuid(self) -> UUID:
        return uuid5(UUID(int=1), str(self.number))

    def is_current(self, now: datetime) -> bool:
        return self.is_active and self.end > now

    @property
    def btcpay_invoice_id(self) -> str:
        return f"Old{self.number:06}"


def customers(count: int, now: datetime) -> list[Customer]:
    """Customers of every kind, with ends that differ to the microsecond."""
    made = []
    for number in range(1, count + 1):
        plan = PLANS[number % 3]
        start = now - timedelta(days=1 + number % 20, microseconds=number * 7919)
        is_lapsed = number % 5 == 0
        end = start + timedelta(days=1 if is_lapsed else 31, microseconds=number * 104729 % 86_400_000_000)
        if is_lapsed:
            end = min(end, now - timedelta(microseconds=number))
        quota = QUOTAS[plan]
        made.append(
            Customer(
                number=number,
                plan=plan,
                start=start,
                end=end,
                used=number % 45,
                limit=None if quota is None else quota + number % 4,
                is_active=not is_lapsed and number % 11 != 0,
                has_paid=number % 2 == 0,
            )
        )
    return made


@dataclass(frozen=True)
class Variant:
    """One way to write customers down. ``subscriptions`` and ``invoices`` make rows of a customer."""

    name: str
    tables: str
    user: Callable[[Customer], Any]
    subscription: Callable[[Customer, Any], Sequence[Any]]
    invoice: Callable[[Customer, Any], Sequence[Any]]
    into: tuple[str, str]
    increment: str
    map: dict[str, Any] = field(default_factory=dict)

    def uuid(self, customer: Customer) -> UUID:
        """Whom the customer must become."""
        user = self.user(customer)
        try:
            return UUID(str(user))
        except ValueError:
            return uuid5(USERS, str(user))

    async def write(self, connection: "asyncpg.Connection[Any]", of: Sequence[Customer]) -> None:
        await connection.execute(self.tables)
        rows = [self.subscription(one, self.user(one)) for one in of]
        bills = [self.invoice(one, self.user(one)) for one in of if one.has_paid]
        for target, written in zip(self.into, (rows, bills), strict=True):
            places = ", ".join(f"${place}" for place in range(1, len(written[0]) + 1))
            await connection.executemany(f"INSERT INTO {target} VALUES ({places})", written)  # noqa: S608  ours


def _status(one: Customer) -> str:
    return "active" if one.is_active else "expired"


def _naive(at: datetime, hours: int = 0) -> datetime:
    return (at + timedelta(hours=hours)).replace(tzinfo=None)


PLAIN = Variant(
    name="plain",
    tables="""
        CREATE TABLE subscriptions (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, plan_type text NOT NULL,
            status text NOT NULL, valid_from timestamptz NOT NULL, valid_until timestamptz,
            messages_used integer NOT NULL DEFAULT 0, message_limit integer, updated_at timestamptz);
        CREATE INDEX ON subscriptions (user_id);
        CREATE TABLE btcpay_invoices (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), btcpay_invoice_id text UNIQUE NOT NULL,
            user_id uuid NOT NULL, plan_type text NOT NULL, amount numeric(10, 2) NOT NULL,
            currency text NOT NULL, status text NOT NULL, checkout_url text, created_at timestamptz NOT NULL)
    """,
    user=lambda one: one.uuid,
    subscription=lambda one, user: (
        user, one.plan, _status(one), one.start, one.end, one.used, one.limit,
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, one.plan, Decimal(PRICES[one.plan]), "USD", "Settled", one.start,
    ),
    into=(
        "subscriptions (user_id, plan_type, status, valid_from, valid_until, messages_used, message_limit)",
        "btcpay_invoices (btcpay_invoice_id, user_id, plan_type, amount, currency, status, created_at)",
    ),
    increment="UPDATE subscriptions SET messages_used = messages_used + 1, updated_at = now()"
    " WHERE user_id = $1",
)  # fmt: skip

NUMBERED = Variant(
    name="numbered",
    tables="""
        CREATE TABLE users (id serial PRIMARY KEY, mail text);
        CREATE TABLE subscriptions (
            id serial PRIMARY KEY, user_id integer NOT NULL, plan varchar(20) NOT NULL,
            is_active boolean NOT NULL, start_date timestamp NOT NULL, end_date timestamp,
            used smallint DEFAULT 0, quota integer,
            created_at timestamp DEFAULT now());
        CREATE TABLE btcpay_invoices (
            id serial PRIMARY KEY, invoice_id varchar(64) NOT NULL, user_id integer NOT NULL,
            plan varchar(20) NOT NULL, price double precision NOT NULL, status varchar(20) NOT NULL,
            checkout_link text, created_at timestamp NOT NULL)
    """,
    user=lambda one: 770_000_000 - one.number,
    subscription=lambda one, user: (
        user, one.plan.upper(), one.is_active, _naive(one.start), _naive(one.end), one.used, one.limit,
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, one.plan.upper(), float(PRICES[one.plan]), "PAID", _naive(one.start),
    ),
    into=(
        "subscriptions (user_id, plan, is_active, start_date, end_date, used, quota)",
        "btcpay_invoices (invoice_id, user_id, plan, price, status, created_at)",
    ),
    increment="UPDATE subscriptions SET used = used + 1 WHERE user_id = $1 AND is_active",
)  # fmt: skip

TEXTS = Variant(
    name="texts",
    tables="""
        CREATE TABLE subscriptions (
            user_id text, tier text, state text, starts_at text, expires_at text, message_count text,
            messages_limit text);
        CREATE TABLE btcpay_invoices (
            btcpay_id text, user_id text, tier text, amount text, currency_code text, state text, url text,
            created text)
    """,
    user=lambda one: f"Käufer '{one.number}'" if one.number % 2 else str(one.uuid).upper(),
    subscription=lambda one, user: (
        user, one.plan.title(), _status(one).upper(), one.start.isoformat(), one.end.isoformat(),
        str(one.used), "unlimited" if one.limit is None else str(one.limit),
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, one.plan.title(), PRICES[one.plan], "usd", "complete",
        one.start.isoformat(),
    ),
    into=(
        "subscriptions",
        "btcpay_invoices (btcpay_id, user_id, tier, amount, currency_code, state, created)",
    ),
    increment="UPDATE subscriptions SET message_count = (message_count::int + 1)::text WHERE user_id = $1",
)  # fmt: skip

ENUMS = Variant(
    name="enums",
    tables="""
        CREATE TYPE tier AS ENUM ('WANDERER', 'GUARDIAN', 'SANCTUARY');
        CREATE TYPE standing AS ENUM ('ACTIVE', 'CANCELLED');
        CREATE TABLE subscriptions (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id varchar(36) NOT NULL,
            plan_type tier NOT NULL, status standing NOT NULL, created_at timestamptz NOT NULL,
            expires_at timestamptz,
            messages_used bigint, messages_limit bigint DEFAULT -1);
        CREATE TABLE messages (subscription_id bigint REFERENCES subscriptions, text text);
        CREATE VIEW active_subscriptions AS SELECT * FROM subscriptions WHERE status = 'ACTIVE';
        CREATE TABLE btcpay_invoices (
            id text PRIMARY KEY, user_id varchar(36) NOT NULL, plan_type tier NOT NULL, amount_cents integer,
            status text, created_at timestamptz);
        CREATE TABLE hooks (url text)
    """,
    user=lambda one: str(one.uuid),
    subscription=lambda one, user: (
        user, one.plan.upper(), "ACTIVE" if one.is_active else "CANCELLED", one.start, one.end, one.used,
        -1 if one.limit is None else one.limit,
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, one.plan.upper(), int(Decimal(PRICES[one.plan]) * 100), "settled",
        one.start,
    ),
    into=(
        "subscriptions (user_id, plan_type, status, created_at, expires_at, messages_used, messages_limit)",
        "btcpay_invoices (id, user_id, plan_type, amount_cents, status, created_at)",
    ),
    increment="UPDATE subscriptions SET messages_used = messages_used + 1"
    " WHERE user_id = $1 AND status = 'ACTIVE'",
)  # fmt: skip

EPOCHS = Variant(
    name="epochs",
    tables="""
        CREATE TABLE subscriptions (
            subscription_id uuid DEFAULT gen_random_uuid(), user_uuid uuid, plan_id integer, active integer,
            start_time numeric(20, 6), end_time numeric(20, 6), messages_sent numeric, message_limit numeric);
        CREATE TABLE btcpay_invoices (
            btcpay_invoice_id char(12), user_uuid uuid, plan_id integer, amount integer, status text,
            created_at bigint)
    """,
    user=lambda one: one.uuid,
    subscription=lambda one, user: (
        user, PLANS.index(one.plan) + 1, int(one.is_active), _epoch(one.start), _epoch(one.end), one.used,
        one.limit,
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, PLANS.index(one.plan) + 1, int(Decimal(PRICES[one.plan]) * 100), "paid",
        int(one.start.timestamp() * 1000),
    ),
    into=(
        "subscriptions (user_uuid, plan_id, active, start_time, end_time, messages_sent, message_limit)",
        "btcpay_invoices",
    ),
    increment="UPDATE subscriptions SET messages_sent = messages_sent + 1 WHERE user_uuid = $1",
    map={"plans": {"1": "wanderer", "2": "guardian", "3": "sanctuary"}, "invoices": {"amount_in": "cents"}},
)  # fmt: skip

_ODD = """ "x"); DROP TABLE subscriptions; -- ü 'y' """.strip().replace('"', '""')

_SHOP = '"old ""Shop"""'

HOSTILE = Variant(
    name="hostile",
    tables=f"""
        CREATE SCHEMA {_SHOP};
        CREATE TABLE {_SHOP}."The Subs; --" (
            "{_ODD}" text, "kosmo-billing old" text, "select" boolean, "End$$" timestamp(6), "%s" timestamp,
            "a.b" real, "{{0}}" real, payload json);
        CREATE TABLE {_SHOP}.bills (
            "0" text, "1" text, "2" text, amount numeric(9, 3), status text, at timestamp);
        CREATE TABLE {_SHOP}.nodes (owner text, node bigint, note text)
    """,
    user=lambda one: f"'; DROP TABLE x; -- {one.number}",
    subscription=lambda one, user: (
        user, f"Plan \\ {one.plan}", one.is_active, _naive(one.end, 5), _naive(one.start, 5), one.used,
        one.limit,
    ),
    invoice=lambda one, user: (
        one.btcpay_invoice_id, user, f"Plan \\ {one.plan}", Decimal(PRICES[one.plan]), "OK'",
        _naive(one.start, 5),
    ),
    into=(
        f'{_SHOP}."The Subs; --"',
        f"{_SHOP}.bills",
    ),
    increment='UPDATE "The Subs; --" SET "a.b" = "a.b" + 1 WHERE "' + _ODD + '" = $1',  # noqa: S608  a name of the test
    map={
        "timezone": "Asia/Karachi",
        "subscriptions": {
            "table": 'old "Shop".The Subs; --', "user_id": _ODD.replace('""', '"'),
            "plan": "kosmo-billing old",
            "status": "select", "valid_until": "End$$", "valid_from": "%s", "messages_used": "a.b",
            "messages_limit": "{0}",
        },
        "invoices": {
            "table": 'old "Shop".bills', "btcpay_invoice_id": "0", "user_id": "1", "plan": "2",
            "created_at": "at", "statuses": {"OK'": "settled"},
        },
        "whitelist": {"table": 'old "Shop".nodes', "user_id": "owner", "node_id": "node", "label": "note"},
        "plans": {f"Plan \\ {plan}": plan for plan in PLANS},
    },
)  # fmt: skip


def _epoch(at: datetime) -> Decimal:
    span = at - datetime(1970, 1, 1, tzinfo=UTC)
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


VARIANTS = (PLAIN, NUMBERED, TEXTS, ENUMS, EPOCHS, HOSTILE)

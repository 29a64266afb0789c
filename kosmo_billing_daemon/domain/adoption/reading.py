"""Reads one row of an old table, whose values come as PostgreSQL writes them: as texts, or nothing.

The rule it keeps: a row is read exactly or not at all, and then the reason says what would help.
"""

import re
from collections.abc import Mapping
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from kosmo_billing_daemon.contract.node_ids import is_node_id
from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap, lowered
from kosmo_billing_daemon.domain.adoption.old_tables import ColumnKind, Part
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.plans import FREE, Catalogue, Plan, Price
from kosmo_billing_daemon.runtime.records import record

USERS = UUID("6d1c8f0e-5b0a-5c3e-9f62-0b6f0d3c7a11")
"""Namespace of users whose old id is no UUID: theirs is the UUIDv5 of the old id, as text, in it."""

Row = Mapping[str, str | None]
"""What a row says: the value of each column that the map names."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HEX = re.compile(r"[0-9a-f]{8}")
_EARLIEST, _LATEST = datetime(1900, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_INFINITE = ("infinity", "-infinity")
_SECONDS_UNTIL = Decimal(10) ** 11  # greater numbers are milliseconds: of the year 5138, in seconds
MILLISECONDS = 12
"""Digits of a time that is in milliseconds."""

_MOST = 2**53
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableRow(Exception):
    """Why a row cannot be read."""


@record(kw_only=True)
class OldSubscription:
    """A row of the old subscriptions; ``plan`` is missing for what gives nothing, ``limit`` if unlimited."""

    user: str
    plan: Plan | None
    is_active: bool
    valid_from: datetime | None
    valid_until: datetime
    used: int
    limit: int | None
    place: int = 0


@record(kw_only=True)
class OldInvoice:
    """A row of the old invoices."""

    user: str
    btcpay_invoice_id: str
    plan: Plan
    status: InvoiceStatus
    created_at: datetime
    expires_at: datetime | None
    settled_at: datetime | None
    checkout_url: str | None
    place: int = field(default=0)


def user_id(old: str) -> UUID:
    """Return whom an old id means."""
    return UUID(old) if _UUID.fullmatch(old) else uuid5(USERS, old)


class Reader:
    """Reads rows by one map and one catalogue; ``now`` stands for times that no column says."""

    def __init__(self, made: AdoptionMap, catalogue: Catalogue, now: datetime) -> None:
        self._map, self._catalogue, self._now = made, catalogue, now
        self._zone = ZoneInfo(made.timezone)

    def subscription(self, row: Row, place: int = 0) -> OldSubscription:
        """Read a subscription, or raise ``UnreadableRow``."""
        kinds = self._map.parts[Part.SUBSCRIPTIONS].kind
        user = _user(row)
        is_active = self._is_active(row)
        plan = self._plan(row.get("plan"))
        start = self._time(row.get("valid_from"), kinds("valid_from"), "start")
        end = self._time(row.get("valid_until"), kinds("valid_until"), "end")
        if end is None:
            end = self._map.without_end
            if end is None:
                raise UnreadableRow("it has no end; give those an end with subscriptions.without_end")
        if start is not None and end <= start:
            raise UnreadableRow("it ends before it begins")
        used = _whole(row.get("messages_used"), "used messages")
        limit = _whole(row.get("messages_limit"), "limit")
        if "messages_limit" not in self._map.subscriptions.columns:
            limit = None if plan is None else plan.quota
        elif limit is not None and (limit < 0 or (limit == 0 and plan is not None and plan.quota is None)):
            limit = None
        if used is not None and used < 0:
            raise UnreadableRow(f"{used} messages are used")
        return OldSubscription(
            user=user,
            plan=plan,
            is_active=is_active,
            valid_from=start,
            valid_until=end,
            used=used or 0,
            limit=limit,
            place=place,
        )

    def is_over(self, row: Row) -> bool:
        """Say whether a subscription that cannot be read is over all the same."""
        try:
            kind = self._map.subscriptions.kind("valid_until")
            end = self._time(row.get("valid_until"), kind, "end")
            return not self._is_active(row) or (end is not None and end <= self._now)
        except UnreadableRow:
            return False

    def is_closed(self, row: Row) -> bool:
        """Say whether an invoice that cannot be read is closed, or can never be paid."""
        status = self._map.statuses.get(lowered(row.get("status") or ""))
        is_open = status in (None, InvoiceStatus.NEW, InvoiceStatus.PROCESSING)
        return not is_open or not (row.get("btcpay_invoice_id") or "").strip()

    def invoice(self, row: Row, place: int = 0) -> OldInvoice:
        """Read an invoice, or raise ``UnreadableRow``."""
        kinds = self._map.parts[Part.INVOICES].kind
        btcpay_invoice_id = (row.get("btcpay_invoice_id") or "").strip()
        if not btcpay_invoice_id:
            raise UnreadableRow("it has no invoice at BTCPay")
        if not _OPAQUE.fullmatch(btcpay_invoice_id):
            raise UnreadableRow(f"{btcpay_invoice_id!r} is no id of BTCPay")
        status = self._map.statuses.get(lowered(row.get("status") or ""))
        if status is None:
            raise UnreadableRow(f"status {row.get('status')!r} is unknown; see [invoices.statuses]")
        return OldInvoice(
            user=_user(row),
            btcpay_invoice_id=btcpay_invoice_id,
            plan=self._sold(row),
            status=status,
            created_at=self._time(row.get("created_at"), kinds("created_at"), "time") or self._now,
            expires_at=self._time(row.get("expires_at"), kinds("expires_at"), "expiry"),
            settled_at=self._time(row.get("settled_at"), kinds("settled_at"), "time of settlement"),
            checkout_url=row.get("checkout_url") or None,
            place=place,
        )

    def node(self, row: Row) -> tuple[str, str, str | None]:
        """Read a whitelisted node: user, node id and label."""
        word = (row.get("node_id") or "").strip().lower()
        if self._map.parts[Part.WHITELIST].kind("node_id") is ColumnKind.INTEGER and word:
            word = f"!{int(word) % 2**32:08x}"
        elif _HEX.fullmatch(word):
            word = f"!{word}"
        if not is_node_id(word):
            raise UnreadableRow(f"{row.get('node_id')!r} is no id of a Meshtastic node")
        label = "".join(letter for letter in row.get("label") or "" if letter.isprintable())[:64]
        return _user(row), word, label or None

    def _is_active(self, row: Row) -> bool:
        """Say whether the status is one of an active plan; where no column says it, the end alone counts."""
        if "status" not in self._map.subscriptions.columns:
            return True
        word = lowered(row.get("status") or "")
        if word in self._map.active:
            return True
        if word in self._map.ended or not word:
            return False
        raise UnreadableRow(f"status {row.get('status')!r} is neither in active nor in ended")

    def _plan(self, old: str | None) -> Plan | None:
        """Return the plan of an old name; ``None`` for the free one, which is not sold."""
        name = self._map.plans.get(lowered(old or ""), lowered(old or ""))
        plan = self._catalogue.find(name)
        if plan is None and name != FREE:
            raise UnreadableRow(f"plan {old!r} is not in the catalogue; see [plans]")
        return plan

    def _sold(self, row: Row) -> Plan:
        """Return what was sold: a plan at the price of the row, of which the catalogue may know nothing."""
        amount = _amount(row.get("amount"), in_cents=self._map.in_cents)
        currency = (row.get("currency") or self._map.currency).strip().upper()
        if not re.fullmatch("[A-Z]{3,5}", currency):
            raise UnreadableRow(f"{row.get('currency')!r} is no currency")
        if "plan" in self._map.parts[Part.INVOICES].columns:
            plan = self._plan(row.get("plan"))
        else:
            prices = {each.price.amount: each for each in self._catalogue.plans}
            plan = prices.get(amount)
            if plan is None:
                raise UnreadableRow(f"no column says the plan, and none costs {amount:f}")
        if plan is None:
            raise UnreadableRow("an invoice for the free plan")
        if (plan.price.amount, plan.price.currency) == (amount, currency):
            return plan
        return replace(plan, price=Price(amount, currency))

    def _time(self, text: str | None, kind: ColumnKind | None, what: str) -> datetime | None:
        """Read a time to the microsecond; ``None`` where there is none, or one without end."""
        if text is None or not text.strip() or text in _INFINITE:
            return None
        if kind in (ColumnKind.INTEGER, ColumnKind.NUMBER):
            return _since_epoch(text, what)
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError:
            if re.match(r"\d{5,}-", text):
                return None  # beyond every year of ours: it never ends
            raise UnreadableRow(f"its {what} is {text[:40]!r}, which is no time") from None
        at = at.replace(tzinfo=self._zone) if at.tzinfo is None else at
        return _bounded(at, what)


def _since_epoch(text: str, what: str) -> datetime | None:
    number = _number(text, what)
    if abs(number) >= _SECONDS_UNTIL:
        number /= 1000
    if number >= _SECONDS_UNTIL:
        return None
    try:
        return _bounded(_EPOCH + int(number * 1_000_000) * _MICROSECOND, what)
    except OverflowError:
        raise UnreadableRow(f"its {what} is {text[:40]!r}, which is no time") from None


def _bounded(at: datetime, what: str) -> datetime | None:
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        return None
    if at >= _LATEST:
        return None
    if at < _EARLIEST:
        raise UnreadableRow(f"its {what} is {at.isoformat()}")
    return at


def _user(row: Row) -> str:
    user = row.get("user_id")
    if user is None or not user.strip():
        raise UnreadableRow("it has no user")
    if len(user) > 200:
        raise UnreadableRow("the id of its user has more than 200 characters")
    return user


def _number(text: str, what: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise UnreadableRow(f"its {what} is {text[:40]!r}, which is no number") from None
    if not number.is_finite():
        raise UnreadableRow(f"its {what} is {text}")
    return number


def _whole(text: str | None, what: str) -> int | None:
    if text is None or not text.strip():
        return None
    if lowered(text) in ("unlimited", "infinity"):
        return None
    number = _number(text, what)
    if number != number.to_integral_value() or abs(number) > _MOST:
        raise UnreadableRow(f"its {what} is {text}, which is no number of messages")
    return int(number)


def _amount(text: str | None, *, in_cents: bool) -> Decimal:
    if text is None or not text.strip():
        raise UnreadableRow("it has no amount")
    amount = _number(text, "amount")
    if amount <= 0 or amount.adjusted() > 12:
        raise UnreadableRow(f"its amount is {amount:f}")
    return amount / 100 if in_cents else amount

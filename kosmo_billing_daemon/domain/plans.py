"""What is sold. Every invoice and subscription refers to the plan as it was quoted, and a quote is never
changed, so a later price change never touches what was quoted or bought (R9).
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from datetime import timedelta
from decimal import Decimal
from typing import Any, NewType, NoReturn
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.currencies import digits, smallest_unit
from kosmo_billing_daemon.errors import Invalid, Misconfigured
from kosmo_billing_daemon.runtime.records import record

PlanType = NewType("PlanType", str)

_MICROSECOND = timedelta(microseconds=1)

FREE = PlanType("free")
"""What everybody has without a plan: receives, sends nothing. Never for sale."""


@record
class Price:
    """An exact amount in an ISO 4217 currency."""

    amount: Decimal
    currency: str


@record(kw_only=True)
class Plan:
    """One plan as sold: ``quota`` messages (``None`` = unlimited) within ``period``.

    A pack is sold like a plan, and has no period: it raises the limit of the plans that it ``fits`` (R17).
    ``quote_id`` names exactly this content; the database computes the same (``quote_id`` in the schema).
    """

    plan_type: PlanType
    price: Price
    period: timedelta
    quota: int | None
    scope: Scope
    features: tuple[str, ...] = ()
    fits: tuple[PlanType, ...] = ()
    quote_id: UUID = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        content = (
            self.plan_type,
            f"{self.price.amount:f}",
            self.price.currency,
            self.period // _MICROSECOND,
            self.quota,
            self.scope,
            self.features,
            self.fits,
        )
        digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).digest()
        object.__setattr__(self, "quote_id", UUID(bytes=digest[:16]))

    @property
    def is_pack(self) -> bool:
        return bool(self.fits)


@record
class Catalogue:
    """The plans and packs for sale, in the order in which they are shown. No two have one name."""

    plans: tuple[Plan, ...]
    packs: tuple[Plan, ...] = ()

    def find(self, plan_type: str) -> Plan | None:
        """Return the plan of that name, if it is for sale."""
        return next((plan for plan in self.plans if plan.plan_type == plan_type), None)

    def require(self, plan_type: str) -> Plan:
        """Return the plan of that name; raises ``Invalid`` if it is not for sale."""
        return self.find(plan_type) or _raise_unknown("plan", plan_type, self.plans, field="plan_type")

    def find_pack(self, name: str) -> Plan | None:
        """Return the pack of that name, if it is for sale."""
        return next((pack for pack in self.packs if pack.plan_type == name), None)

    def require_pack(self, name: str) -> Plan:
        """Return the pack of that name; raises ``Invalid`` if it is not for sale."""
        return self.find_pack(name) or _raise_unknown("pack", name, self.packs, field="pack")


def _raise_unknown(kind: str, name: str, offered: Sequence[Plan], *, field: str) -> NoReturn:
    names = ", ".join(each.plan_type for each in offered) or "none"
    raise Invalid(f"there is no {kind} {name!r}; for sale are {names}", field=field, code=f"unknown_{kind}")


def _plan(name: str, amount: str, quota: int | None, scope: Scope, *features: str) -> Plan:
    return Plan(
        plan_type=PlanType(name),
        price=Price(Decimal(amount), "USD"),
        period=timedelta(days=30),
        quota=quota,
        scope=scope,
        features=features,
    )


BUILT_IN = Catalogue(
    (
        _plan("wanderer", "5.00", 50, Scope.ANY_NODE),
        _plan("guardian", "12.00", 500, Scope.WHITELIST),
        _plan("sanctuary", "50.00", None, Scope.ANY_NODE, "api", "webhooks"),
    )
)
"""The catalogue that holds when no ``plans.toml`` is named."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,8})?")
_KEYS = {"price", "currency", "period_days", "messages", "scope", "features"}
_PACK_KEYS = {"price", "messages", "plans"}


def parse_catalogue(document: Mapping[str, Any]) -> Catalogue:
    """Read the parsed ``plans.toml``; raises ``Misconfigured`` with every problem in it."""
    problems: list[str] = []
    plans: list[Plan] = []
    tables = document.get("plans")
    if not isinstance(tables, Mapping) or not tables:
        raise Misconfigured(["plans: at least one table [plans.NAME] is needed"])
    problems += [
        f"{key}: unknown; only [plans.NAME] and [packs.NAME] tables are read"
        for key in document
        if key not in ("plans", "packs")
    ]
    for name, table in tables.items():
        plan, wrong = _parse_plan(name, table)
        problems += [f"plans.{name}.{problem}" for problem in wrong]
        if plan is not None:
            plans.append(plan)
    if len({plan.price.currency for plan in plans}) > 1:
        problems.append("plans: all prices must be in one currency, since a change of plan converts worth")
    packs, wrong = _parse_packs(document.get("packs", {}), tables, plans)
    problems += wrong
    if problems:
        raise Misconfigured(problems)
    return Catalogue(tuple(plans), packs)


def _parse_plan(name: str, table: Any) -> tuple[Plan | None, list[str]]:
    if not isinstance(table, Mapping):
        return None, ["must be a table"]
    wrong = [f"{key}: unknown; known are {', '.join(sorted(_KEYS))}" for key in table if key not in _KEYS]
    if not _NAME.fullmatch(name) or name == FREE:
        wrong.append("name: lower-case letters, digits and _, at most 32, and not 'free'")
    price = _decimal(table.get("price"))
    if price is None or price <= 0:
        wrong.append('price: a positive amount in quotes, such as "5.00"')
    currency = table.get("currency", "USD")
    if not isinstance(currency, str) or digits(currency) is None:
        wrong.append('currency: an ISO 4217 code such as "USD", or "BTC" or "SATS"')
    elif price is not None and price % smallest_unit(currency):
        # BTCPay would round it, and R9 would then refuse every payment of it.
        wrong.append(f"price: whole multiples of {smallest_unit(currency):f} {currency}")
    days = table.get("period_days", 30)
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= 366:
        wrong.append("period_days: whole days from 1 to 366")
    quota = table.get("messages", "missing")
    if quota == "unlimited":
        quota = None
    elif not isinstance(quota, int) or isinstance(quota, bool) or not 1 <= quota <= 10**9:
        wrong.append('messages: a whole number from 1 to 1000000000, or "unlimited"')
    scope = table.get("scope")
    if scope not in (Scope.ANY_NODE, Scope.WHITELIST):
        wrong.append('scope: "any_node" or "whitelist"')
    features = table.get("features", [])
    if not isinstance(features, list) or not all(isinstance(f, str) and _NAME.fullmatch(f) for f in features):
        wrong.append("features: a list of lower-case names")
    if wrong or price is None:
        return None, wrong
    return Plan(
        plan_type=PlanType(name),
        price=Price(price, currency),
        period=timedelta(days=days),
        quota=quota,
        scope=Scope(str(scope)),
        features=tuple(features),
    ), []


def _parse_packs(
    tables: Any, names: Mapping[str, Any], plans: Sequence[Plan]
) -> tuple[tuple[Plan, ...], list[str]]:
    """Read ``[packs.NAME]``; they are in the currency of the plans. ``names`` are those of all plans."""
    if not isinstance(tables, Mapping):
        return (), ["packs: must be tables [packs.NAME]"]
    currency = plans[0].price.currency if plans else None
    unlimited = {plan.plan_type for plan in plans if plan.quota is None}
    packs: list[Plan] = []
    problems: list[str] = []
    for name, table in tables.items():
        pack, wrong = _parse_pack(name, table, currency, names, unlimited)
        problems += [f"packs.{name}.{problem}" for problem in wrong]
        if pack is not None:
            packs.append(pack)
    return tuple(packs), problems


def _parse_pack(
    name: str, table: Any, currency: str | None, names: Mapping[str, Any], unlimited: Collection[str]
) -> tuple[Plan | None, list[str]]:
    if not isinstance(table, Mapping):
        return None, ["must be a table"]
    known = ", ".join(sorted(_PACK_KEYS))
    wrong = [f"{key}: unknown; known are {known}" for key in table if key not in _PACK_KEYS]
    if not _NAME.fullmatch(name) or name == FREE or name in names:
        wrong.append("name: lower-case letters, digits and _, at most 32, not 'free' and not that of a plan")
    price = _decimal(table.get("price"))
    if price is None or price <= 0:
        wrong.append('price: a positive amount in quotes, such as "2.00"')
    elif currency is not None and price % smallest_unit(currency):
        wrong.append(f"price: whole multiples of {smallest_unit(currency):f} {currency}")
    messages = table.get("messages")
    if not isinstance(messages, int) or isinstance(messages, bool) or not 1 <= messages <= 10**9:
        wrong.append("messages: a whole number from 1 to 1000000000")
    fits = table.get("plans")
    if not isinstance(fits, list) or not fits or not all(isinstance(each, str) for each in fits):
        wrong.append('plans: a list of the plans that it fits, such as ["wanderer"]')
        fits = []
    wrong += [f"plans: there is no plan {each!r}" for each in fits if each not in names]
    wrong += [f"plans: {each} is unlimited, so no pack fits it" for each in fits if each in unlimited]
    if len(set(fits)) < len(fits):
        wrong.append("plans: each plan once")
    if wrong or price is None or currency is None:
        return None, wrong
    return Plan(
        plan_type=PlanType(name),
        price=Price(price, currency),
        period=timedelta(0),
        quota=messages,
        scope=Scope.NONE,
        fits=tuple(PlanType(each) for each in fits),
    ), []


def _decimal(value: Any) -> Decimal | None:
    return Decimal(value) if isinstance(value, str) and _PRICE.fullmatch(value) else None

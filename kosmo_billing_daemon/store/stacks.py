"""The lots of a subscription, and what it released, as one JSON value of its row.

They are read and written with their row and never searched: a table of their own would cost each renewal
as many rows as it takes over.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.domain.lots import Lot, Released
from kosmo_billing_daemon.domain.plans import Price

_MICROSECOND = timedelta(microseconds=1)


def encode(lots: Sequence[Lot], released: Sequence[Released]) -> str:
    """Write a stack: amounts and messages as texts, times in microseconds."""
    stack: dict[str, Any] = {
        "lots": [
            {
                "purchase": str(lot.purchase),
                "paid": lot.paid.amount,
                "currency": lot.paid.currency,
                "period": None if lot.period is None else lot.period // _MICROSECOND,
                "messages": lot.messages,
                "time_left": lot.time_left // _MICROSECOND,
                "messages_left": lot.messages_left,
                **({} if lot.after is None else {"after": lot.after // _MICROSECOND}),
            }
            for lot in lots
        ]
    }
    if released:
        stack["released"] = [
            {"purchase": str(r.purchase), "worth": r.worth.amount, "currency": r.worth.currency}
            for r in released
        ]
    return json.dumps(stack, separators=(",", ":"), default="{:f}".format)


def decode(stack: str) -> tuple[tuple[Lot, ...], tuple[Released, ...]]:
    """Read what ``encode`` wrote."""
    read = json.loads(stack)
    lots = tuple(
        Lot(
            purchase=UUID(one["purchase"]),
            paid=Price(Decimal(one["paid"]), one["currency"]),
            period=None if one["period"] is None else one["period"] * _MICROSECOND,
            messages=_number(one["messages"]),
            time_left=one["time_left"] * _MICROSECOND,
            messages_left=_number(one["messages_left"]),
            after=one["after"] * _MICROSECOND if "after" in one else None,
        )
        for one in read["lots"]
    )
    released = tuple(
        Released(UUID(one["purchase"]), Price(Decimal(one["worth"]), one["currency"]))
        for one in read.get("released", ())
    )
    return lots, released


def _number(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)

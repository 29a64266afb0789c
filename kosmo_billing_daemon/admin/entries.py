"""The ledger as it is listed, summed up and written for spreadsheets (R13)."""

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from kosmo_billing_daemon.admin import spreadsheets
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import entries
from kosmo_billing_daemon.store.entries import Entry, EntryFilter, EntryPlace, EntrySum
from kosmo_billing_daemon.store.postgres import Pool

BATCH: Final = 5_000

_LAST: Final[EntryPlace] = (datetime(9999, 1, 1, tzinfo=UTC), 0)

HEADINGS: Final = (
    "entry", "at", "user_id", "order_id", "invoice_id", "kind", "amount", "currency", "reverses", "who",
    "reason",
)  # fmt: skip
"""Of ``cells``, for a spreadsheet."""


@record
class EntryPage:
    """Entries, newest first; ``next`` is where the list goes on."""

    entries: tuple[Entry, ...]
    next: EntryPlace | None


async def load_page(pool: Pool, wanted: EntryFilter, before: EntryPlace | None, limit: int) -> EntryPage:
    """Return one page of the ledger."""
    found = await pool.read(entries.load_newest, wanted, before or _LAST, limit + 1)
    shown = tuple(found[:limit])
    return EntryPage(shown, (shown[-1].at, shown[-1].id) if len(found) > limit else None)


async def load_every(pool: Pool, wanted: EntryFilter) -> AsyncGenerator[list[Entry]]:
    """Give all of it, oldest first, in batches of which only one is in memory; close it in any case."""
    async with pool.transaction() as connection:
        async for found in entries.stream(connection, wanted, BATCH):
            yield found


def load_csv(pool: Pool, wanted: EntryFilter) -> AsyncGenerator[str]:
    """Give all of it as a file for spreadsheets, part by part."""
    return spreadsheets.written(HEADINGS, load_every(pool, wanted), cells)


@record(kw_only=True)
class Equation:
    """One currency: received + granted = sold + refunded + written off + credit.

    ``sides`` are the kinds with their sums, all of them positive unless more was taken back than booked.
    """

    currency: str
    raising: tuple[tuple[EntryKind, Decimal], ...]
    lowering: tuple[tuple[EntryKind, Decimal], ...]
    credit: Decimal
    entries: int


async def load_equations(pool: Pool, wanted: EntryFilter) -> list[Equation]:
    """Return the sums of what the filter finds, by currency."""
    sums = await pool.read(entries.load_sums, wanted)
    return [_equation(name, sums) for name in dict.fromkeys(each.currency for each in sums)]


def _equation(currency: str, sums: Sequence[EntrySum]) -> Equation:
    amounts = {each.kind: each for each in sums if each.currency == currency}

    def side(sign: int) -> tuple[tuple[EntryKind, Decimal], ...]:
        return tuple(
            (kind, amounts[kind].amount * sign if kind in amounts else Decimal(0))
            for kind in EntryKind
            if kind.sign == sign
        )

    raising, lowering = side(1), side(-1)
    return Equation(
        currency=currency,
        raising=raising,
        lowering=lowering,
        credit=sum((amount for _, amount in raising), Decimal(0))
        - sum((amount for _, amount in lowering), Decimal(0)),
        entries=sum(each.entries for each in amounts.values()),
    )


def cells(entry: Entry) -> tuple[object, ...]:
    """Return one line of the ledger for a spreadsheet; the amount is what it did to the credit."""
    return (
        entry.id,
        f"{entry.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        str(entry.user_id),
        None if entry.order_id is None else str(entry.order_id),
        entry.invoice_id,
        str(entry.kind),
        f"{entry.amount:f}",
        entry.currency,
        entry.reverses,
        entry.who,
        entry.reason,
    )

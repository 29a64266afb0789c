"""Reads all rows of the old tables, user by user, and counts what they come to."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from kosmo_billing_daemon.domain.adoption.deciding import AdoptedUser, decide, is_followed
from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap, TableMap
from kosmo_billing_daemon.domain.adoption.old_tables import ColumnKind, Part
from kosmo_billing_daemon.domain.adoption.reading import (
    MILLISECONDS,
    OldInvoice,
    OldSubscription,
    Reader,
    UnreadableRow,
    user_id,
)
from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.domain.subscriptions import Status, UserId
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.whitelist import MOST_NODES
from kosmo_billing_daemon.store import old_tables
from kosmo_billing_daemon.store.adoptions import KeptRow, OldNode
from kosmo_billing_daemon.store.old_tables import OldRow
from kosmo_billing_daemon.store.old_views import Conventions
from kosmo_billing_daemon.store.postgres import Connection

SHOWN = 20
"""Rows that cannot be read, and notes, of which so many are shown."""

BATCH = 1000
"""Users in one write."""


@record
class RefusedRow:
    """A row that cannot be read, and why; ``matters`` unless it is over anyway."""

    table: str
    row: str
    reason: str
    matters: bool


@dataclass(slots=True, kw_only=True)
class Survey:
    """What reading all rows came to."""

    counts: dict[str, int] = field(default_factory=dict)
    unreadable: list[RefusedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conventions: Conventions = field(default_factory=Conventions)
    invoices: set[str] = field(default_factory=set)

    def count(self, what: str, more: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + more

    def refuse(self, row: RefusedRow) -> None:
        self.count("unreadable")
        self.count("unreadable that matter", int(row.matters))
        self.unreadable.append(row)
        if len(self.unreadable) > SHOWN:  # those that matter are shown first
            self.unreadable.sort(key=lambda one: not one.matters)
            self.unreadable.pop()

    def note(self, text: str) -> None:
        self.count("notes")
        if len(self.notes) < SHOWN:
            self.notes.append(text)

    @property
    def rows(self) -> int:
        return self.counts.get("subscriptions", 0) + self.counts.get("invoices", 0)


Batch: TypeAlias = list[tuple[AdoptedUser | None, list[KeptRow]]]
"""What becomes of users, and their old rows; rows that name no user are nobody's."""


class OldRowsReader:
    """Reads by one map and one catalogue, as of ``now``; ``who`` orders it."""

    def __init__(self, made: AdoptionMap, catalogue: Catalogue, now: datetime, *, who: str) -> None:
        self.survey = Survey()
        self._map, self._now, self._who = made, now, who
        self._reader = Reader(made, catalogue, now)

    @property
    def has_old_ids(self) -> bool:
        """Say whether users have ids that are no UUIDs to v0.1."""
        return any(of.kind("user_id") is not ColumnKind.UUID for of in self._map.parts.values())

    async def users(self, connection: Connection, *, whole: bool) -> AsyncIterator[Batch]:
        """Decide about all users; with ``whole``, their old rows come along as JSON."""
        batch: Batch = []
        async for key, rows, bills in _by_user(connection, self._map, whole=whole):
            read = [one for row in rows for one in self._subscription(row)]
            sold = [one for row in bills for one in self._invoice(row)]
            user = None
            if key:
                raw = next(row.said["user_id"] for row in (*rows, *bills)) or key
                user = decide(raw, read, sold, self._now, who=self._who)
                self._count(user)
            batch.append((user, _kept(rows, bills, user) if whole else []))
            if len(batch) >= BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def nodes(self, connection: Connection) -> list[OldNode]:
        """Read the whitelist, if the map names one."""
        of = self._map.parts.get(Part.WHITELIST)
        found: dict[tuple[UserId, str], OldNode] = {}
        if of is None:
            return []
        async for _, rows in old_tables.stream(connection, of.table, of.columns, whole=False):
            listed = 0
            for row in rows:
                try:
                    old_id, node, label = self._reader.node(row.said)
                    user = UserId(user_id(old_id))
                    if (user, node) not in found:
                        listed += 1
                    if listed > MOST_NODES:
                        raise UnreadableRow(f"more than {MOST_NODES} nodes of one user")
                except UnreadableRow as error:
                    self.survey.refuse(RefusedRow(of.table.name, _named(row), str(error), True))
                    continue
                found.setdefault((user, node), OldNode(user, node, label, old_id))
        self.survey.count("nodes", len(found))
        return list(found.values())

    def _subscription(self, row: OldRow) -> list[OldSubscription]:
        of, told = self._map.subscriptions, self.survey.conventions
        self.survey.count("subscriptions")
        self._note_times(of, row)
        try:
            read = self._reader.subscription(row.said, row.place)
        except UnreadableRow as error:
            matters = not self._reader.is_over(row.said)
            self.survey.refuse(RefusedRow(of.table.name, _named(row), str(error), matters))
            return []
        if of.kind("id") is ColumnKind.INTEGER:
            told.greatest_id = max(told.greatest_id, int(row.said["id"] or 0))
        if read.limit is None and read.plan is not None:
            told.unlimited = told.unlimited or row.said.get("messages_limit")
        return [read]

    def _invoice(self, row: OldRow) -> list[OldInvoice]:
        of = self._map.parts[Part.INVOICES]
        self.survey.count("invoices")
        self._note_times(of, row)
        try:
            read = self._reader.invoice(row.said, row.place)
            if read.btcpay_invoice_id in self.survey.invoices:
                raise UnreadableRow(f"invoice {read.btcpay_invoice_id} is in two rows")
        except UnreadableRow as error:
            matters = not self._reader.is_closed(row.said)
            self.survey.refuse(RefusedRow(of.table.name, _named(row), str(error), matters))
            return []
        self.survey.invoices.add(read.btcpay_invoice_id)
        return [read]

    def _note_times(self, of: TableMap, row: OldRow) -> None:
        for name in ("valid_from", "valid_until", "created_at", "expires_at", "settled_at"):
            is_number = of.kind(name) in (ColumnKind.INTEGER, ColumnKind.NUMBER)
            if is_number and len((row.said[name] or "").partition(".")[0]) >= MILLISECONDS:
                self.survey.conventions.milliseconds.add(of.columns[name])

    def _count(self, user: AdoptedUser) -> None:
        self.survey.count("users")
        for one in user.subscriptions:
            self.survey.count("active" if one.status is Status.ACTIVE else "ended")
        self.survey.count("open invoices", sum(is_followed(one, self._now) for one in user.invoices))
        for note in user.notes:
            self.survey.note(note)


def _named(row: OldRow) -> str:
    """Name a row so that an operator finds it."""
    said = row.said
    names = [("id", "id"), ("BTCPay invoice", "btcpay_invoice_id"), ("user", "user_id")]
    return (
        ", ".join(f"{what} {value[:60]}" for what, name in names if (value := said.get(name))) or "nameless"
    )


def _kept(rows: Sequence[OldRow], bills: Sequence[OldRow], user: AdoptedUser | None) -> list[KeptRow]:
    """Say which of ours each old row became. What was over is shown as it was; so is what cannot be read."""
    ours = {} if user is None else {user.places[one.id]: one for one in user.subscriptions}
    merged = set() if user is None else user.merged
    invoices = {} if user is None else {user.places[one.id]: one.id for one in user.invoices}
    kept = []
    for row in rows:
        one = ours.get(row.place)
        is_shown = one is not None and (
            one.status is Status.ACTIVE or (user is not None and one.id in user.dropped)
        )
        kept.append(
            KeptRow(
                part=Part.SUBSCRIPTIONS,
                id=None if one is None else one.id,
                is_history=not is_shown and row.place not in merged,
                messages_used=0 if one is None else one.messages_used,
                old=row.old or "{}",
            )
        )
    kept += [
        KeptRow(
            part=Part.INVOICES,
            id=invoices.get(row.place),
            is_history=row.place not in invoices,
            messages_used=0,
            old=row.old or "{}",
        )
        for row in bills
    ]
    return kept


async def _by_user(
    connection: Connection, made: AdoptionMap, *, whole: bool
) -> AsyncIterator[tuple[str, list[OldRow], list[OldRow]]]:
    """Yield each user's subscriptions and invoices, from two readings in the same order."""
    streams = [
        old_tables.stream(connection, of.table, of.columns, whole=whole)
        for part in (Part.SUBSCRIPTIONS, Part.INVOICES)
        if (of := made.parts.get(part)) is not None
    ]
    heads = [await anext(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        key = min(head[0] for head in heads if head is not None)
        found: list[list[OldRow]] = [[], []]
        for place, head in enumerate(heads):
            if head is not None and head[0] == key:
                found[place] = head[1]
                heads[place] = await anext(streams[place], None)
        yield key, found[0], found[1]

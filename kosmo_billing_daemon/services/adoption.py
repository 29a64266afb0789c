"""Moves in from KosmoConnect v0.1: plan what would become of its rows, do it in one transaction, undo it.

The rule it keeps: plan and run read every row by the same map and the same code, so what was printed is what
is done. Until the commit there is the old installation, after it the new one, and nothing in between.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kosmo_billing_daemon.domain.adoption.guessing import guess, telling, unknown_values
from kosmo_billing_daemon.domain.adoption.mapping import (
    AdoptionMap,
    corrected,
    table_names,
    unknown_plans,
)
from kosmo_billing_daemon.domain.adoption.old_tables import OLD_NAMES, Part
from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.errors import Conflict, Misconfigured, NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.adoption_reading import OldRowsReader, Survey
from kosmo_billing_daemon.store import (
    adoptions,
    audit,
    leader_lock,
    migrations,
    old_moves,
    old_tables,
    old_views,
)
from kosmo_billing_daemon.store.adoptions import Adoption
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.errors import translated
from kosmo_billing_daemon.store.old_moves import Name
from kosmo_billing_daemon.store.old_views import COMPAT, MOVED
from kosmo_billing_daemon.store.postgres import Connection, Database
from kosmo_billing_daemon.store.rights import Lack


@record(kw_only=True)
class AdoptionPlan:
    """What running it would do, and what stands in the way."""

    made: AdoptionMap
    why: Sequence[str]
    moved: Sequence[Name]
    survey: Survey
    unknown: Sequence[str]
    dependents: Sequence[str]
    lacking: Sequence[Lack]


@record(kw_only=True)
class Adopted:
    """What was done; ``roles`` are those that used the old tables."""

    counts: Mapping[str, int]
    moved: Sequence[Name]
    roles: Sequence[str]


Progress = Callable[[int, int], None]
"""Is told how many rows were read, of how many."""

STATEMENT_WITHIN = 3600.0
"""Seconds for one statement: an index of a large table takes long, and nobody waits behind it."""


@record(kw_only=True)
class MovingIn:
    """Moves in; ``document`` is the parsed ``adopt.toml``, empty where all is guessed."""

    database: Database
    catalogue: Catalogue
    clock: Clock
    who: str

    async def plan(
        self, document: Mapping[str, Any], progress: Progress = lambda _, __: None
    ) -> AdoptionPlan:
        """Read everything and write nothing; raises ``NotFound`` where there is nothing to move in."""
        async with (
            _connected(self.database) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await old_moves.prepare(connection)
            await self._require_room(connection)
            made, why = await self._map(connection, document)
            moved = await self._to_move(connection, made)
            lacking = await old_tables.load_lacking(connection, moved, (MOVED, COMPAT))
            reading = OldRowsReader(made, self.catalogue, self.clock(), who=self.who)
            total = await old_tables.count_rows(connection, made)
            async for _ in reading.users(connection, whole=False):
                progress(reading.survey.rows, total)
            await reading.nodes(connection)
            return AdoptionPlan(
                made=made,
                why=why,
                moved=moved,
                survey=reading.survey,
                unknown=unknown_values(made),
                dependents=await old_tables.load_dependents(connection, moved),
                lacking=lacking,
            )

    async def run(
        self, document: Mapping[str, Any], *, leave_unreadable: bool, progress: Progress = lambda _, __: None
    ) -> Adopted:
        """Move in, in one transaction; raises ``Conflict`` for rows that cannot be read and matter."""
        schema = self.database.schema
        async with _connected(self.database) as connection, connection.transaction():
            await old_moves.prepare(connection)
            await self._require_stopped(connection)
            await self._require_room(connection)
            made, _ = await self._map(connection, document)
            moved = await self._to_move(connection, made)
            _require_rights(await old_tables.load_lacking(connection, moved, (MOVED, COMPAT)))
            await old_moves.move_away(connection, moved)
            await migrations.migrate_within(connection, schema)
            now = self.clock()
            reading = OldRowsReader(_moved(made), self.catalogue, now, who=self.who)
            survey = reading.survey
            total = await old_tables.count_rows(connection, _moved(made))
            async for batch in reading.users(connection, whole=True):
                users = [user for user, _ in batch if user is not None]
                await adoptions.append(connection, users, now, by_old_id=reading.has_old_ids)
                await adoptions.append_rows(connection, [row for _, rows in batch for row in rows])
                progress(survey.rows, total)
            nodes = await reading.nodes(connection)
            if reading.has_old_ids:
                await adoptions.append_missing_users(connection, {one.user_id: one.old_id for one in nodes})
            await adoptions.append_nodes(connection, nodes, now)
            if survey.counts.get("unreadable that matter") and not leave_unreadable:
                count = survey.counts["unreadable that matter"]
                raise Conflict(
                    f"{count} rows that matter cannot be read, and nothing was changed. kosmo-billing adopt"
                    " plan shows them; correct the map, or leave them behind with --leave-unreadable"
                )
            for statement in old_views.statements(made, survey.conventions):
                await connection.execute(statement)
            shown = {of.table.name for of in made.parts.values()}
            for _, name in moved:
                if name not in shown:
                    await old_moves.show_as_it_was(connection, name)
            roles = await old_moves.grant_views(connection, [name for _, name in moved])
            subject = f"{survey.counts.get('users', 0)} users of KosmoConnect v0.1"
            entry = AuditEntry(
                at=now, who=self.who, action="adopt", user_id=None, subject=subject, reason="moved in"
            )
            await audit.append(connection, entry)
            done = Adoption(at=now, who=self.who, counts=survey.counts, moved=moved)
            await adoptions.append_adoption(connection, done, made)
            return Adopted(counts=survey.counts, moved=moved, roles=roles)

    async def undo(self) -> Sequence[Name]:
        """Put the old tables back and drop ours; raises ``Conflict`` once anything happened since."""
        schema = self.database.schema
        async with _connected(self.database) as connection, connection.transaction():
            await old_moves.prepare(connection)
            await self._require_stopped(connection)
            if await migrations.pending(connection, schema):
                raise NotFound("nothing was moved in here", code="not_adopted")
            await old_moves.lock_ours(connection)
            done = await adoptions.load(connection)
            if done is None:
                raise NotFound("nothing was moved in here", code="not_adopted")
            effect = await adoptions.load_first_effect(connection)
            if effect is not None:
                what, at = effect
                when = "" if at is None else f" at {at:%Y-%m-%d %H:%M:%S} UTC"
                raise Conflict(
                    f"it cannot be undone any more, since the old tables know nothing of this: {what}{when}",
                    code="has_effects",
                )
            await old_moves.remove_ours(connection, schema, migrations.objects())
            await old_moves.move_back(connection, done.moved)
            return done.moved

    async def _require_stopped(self, connection: Connection) -> None:
        if (await leader_lock.look(connection, self.database.schema)).is_held:
            raise Conflict("a daemon runs on this database; stop it first: systemctl stop kosmo-billing")

    async def _require_room(self, connection: Connection) -> None:
        """Refuse where our tables are in use already."""
        if not await migrations.is_migrated(connection, self.database.schema):
            return
        if await adoptions.load(connection) is not None:
            raise Conflict("v0.1 was moved in already; to go back: kosmo-billing adopt undo")
        if not await adoptions.is_empty(connection):
            raise Conflict("this database has users already, whom moving in could contradict")

    async def _map(
        self, connection: Connection, document: Mapping[str, Any]
    ) -> tuple[AdoptionMap, list[str]]:
        named = table_names(document)
        schema = self.database.schema
        # Where our tables stand already, those of our names are not the old ones.
        is_migrated = await migrations.is_migrated(connection, schema)
        schemas = [] if is_migrated else [schema]
        schemas += [] if "public" in (schema, *schemas) else ["public"]
        tables = {}
        for part, name in named.items():
            if name is None:
                continue
            table = await old_tables.find(connection, name, schemas)
            if table is None:
                if part is Part.INVOICES and name == OLD_NAMES[part] and part not in document:
                    continue
                where = "" if "." in name else f" in schema {' or '.join(schemas)}"
                raise NotFound(
                    f"there is no table {name}{where}; nothing to move in, or name it in a map:"
                    f' [{part}] table = "schema.name"',
                    code="no_old_tables",
                )
            _require_rights(await old_tables.load_lacking(connection, [(table.schema, table.name)]))
            values = await old_tables.load_values(
                connection, table, telling(part, table, document.get(part, {}))
            )
            tables[part] = replace(table, values=values)
        guessed, why = guess(tables, self.catalogue)
        made = corrected(guessed, document)
        problems = unknown_plans(made, [plan.plan_type for plan in self.catalogue.plans])
        if problems:
            raise Misconfigured(problems)
        return made, why

    async def _to_move(self, connection: Connection, made: AdoptionMap) -> list[Name]:
        """Return the tables of the map, and whatever else stands where ours will."""
        tables = [(of.table.schema, of.table.name) for of in made.parts.values()]
        if not await migrations.is_migrated(connection, self.database.schema):
            names = migrations.objects("TABLE|SEQUENCE")
            tables += await adoptions.load_colliding(connection, self.database.schema, names)
        moved = list(dict.fromkeys(tables))
        twice = sorted({name for _, name in moved if [other for _, other in moved].count(name) > 1})
        if twice:
            raise Conflict(f"tables of one name in two schemas: {', '.join(twice)}; rename one")
        return moved


def _moved(made: AdoptionMap) -> AdoptionMap:
    """Return the map of the same tables where they are now."""
    parts = {part: replace(of, table=replace(of.table, schema=MOVED)) for part, of in made.parts.items()}
    return replace(made, parts=parts)


def _require_rights(lacking: Sequence[Lack]) -> None:
    if lacking:
        raise Misconfigured([f"{lack.fact}: {lack.statement}" for lack in lacking])


@contextlib.asynccontextmanager
async def _connected(database: Database) -> AsyncIterator[Connection]:
    """Open a connection whose errors are ours; statements may take as long as they need."""
    with translated():
        connection = await replace(database, statement_timeout=STATEMENT_WITHIN).connect(
            name="kosmo-billing adopt"
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

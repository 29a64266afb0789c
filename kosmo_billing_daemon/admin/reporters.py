"""What an operator decides about a gateway that cannot be believed."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.domain.leases import freed
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.recounting import recount_users
from kosmo_billing_daemon.store import audit, leases, reporters, usage
from kosmo_billing_daemon.store.leases import GrantedLease
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

BATCH = 200  # users per transaction: their purchases wait for it


@record
class Voided:
    """What was taken back."""

    users: int
    messages: int


@record(kw_only=True)
class ReporterActions:
    """Carries out what operators decide about reporters; each decision is in the audit log."""

    pool: Pool
    clock: Clock

    async def void(self, reporter: str, since: datetime, by: OperatorAction) -> Voided:
        """Take back what a reporter counted since then, by the time of its arrival.

        Quotas return, also what later purchases took over, and documents follow; what was paid is not
        touched. A repeat changes nothing, and the same messages sent again are not counted.
        """
        users = messages = 0
        after = UUID(int=0)
        while True:
            found = await self.pool.read(reporters.load_users, reporter, since, after, BATCH)
            if not found:
                return Voided(users, messages)
            after = found[-1]

            async def work(connection: Connection, found: list[UUID] = found) -> dict[UUID, int]:
                now = self.clock()
                await usage.lock_counters(connection, map(str, found))
                voided = await reporters.void(connection, reporter, since, found, now)
                await recount_users(connection, [UserId(user) for user in voided], now)
                for user, number in voided.items():
                    subject = f"{number} messages that {reporter} counted since {since.isoformat()}"
                    await audit.append(connection, by.entry("usage.void", user, subject, now))
                return voided

            voided = await self.pool.retrying(work, locking_users(found))
            users += len(voided)
            messages += sum(voided.values())

    async def free(self, reporter: str | None, user_id: UUID | None, by: OperatorAction) -> Voided:
        """Take back what leases have outstanding, of a gateway or of a user; a repeat changes nothing."""
        users: set[UUID] = set()
        messages = 0
        while True:
            found = await self.pool.read(leases.load_open, reporter, user_id, BATCH)
            if not found:
                return Voided(len(users), messages)
            owners = sorted({one.user_id for one in found})

            async def work(
                connection: Connection, owners: list[UUID] = owners, found: list[GrantedLease] = found
            ) -> list[GrantedLease]:
                now = self.clock()
                await usage.lock_counters(connection, map(str, owners))
                locked = await leases.lock(connection, sorted(one.id for one in found))
                left = [one for one in locked.values() if one.lease.outstanding]
                await leases.save(connection, [replace(one, lease=freed(one.lease)) for one in left])
                for one in left:
                    subject = f"{one.lease.outstanding} messages leased to {one.reporter}"
                    await audit.append(connection, by.entry("leases.free", one.user_id, subject, now))
                return left

            left = await self.pool.retrying(work, locking_users([UserId(owner) for owner in owners]))
            users |= {one.user_id for one in left}
            messages += sum(one.lease.outstanding for one in left)

    async def close_case(self, number: int, by: OperatorAction) -> str:
        """Close a case and return its reporter; one that goes on opens another."""

        async def work(connection: Connection) -> str:
            now = self.clock()
            reporter = await reporters.close_case(connection, number, now)
            if reporter is None:
                raise NotFound(f"there is no open case {number} about a gateway")
            subject = f"case {number} of {reporter}"
            await audit.append(connection, by.entry("usage.close", None, subject, now))
            return reporter

        return await self.pool.retrying(work)

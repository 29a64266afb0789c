"""What needs an operator: payments, gateways that report too much, what is set aside, hooks that are off."""

from datetime import UTC, datetime
from typing import Final

from kosmo_billing_daemon.admin import listing
from kosmo_billing_daemon.admin.listing import ListedUser
from kosmo_billing_daemon.errors import NotFound
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import audit, hooks, listings, lookups, reporters
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.hooks import Hook
from kosmo_billing_daemon.store.listings import CasePlace, ListedCase
from kosmo_billing_daemon.store.lookups import SetAside
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.reporters import ReporterCase

_LAST: Final = (datetime(9999, 1, 1, tzinfo=UTC), 0)
_ACTIONS_SHOWN: Final = 5


@record(kw_only=True)
class Attention:
    """Everything that needs an operator, oldest first; ``next`` is where more cases begin."""

    cases: list[ListedCase]
    next: CasePlace | None
    gateways: list[ReporterCase]
    set_aside: list[SetAside]
    off: list[Hook]

    @property
    def is_empty(self) -> bool:
        return not (self.cases or self.gateways or self.set_aside or self.off)


async def load(pool: Pool, clock: Clock, limit: int, start: CasePlace | None = None) -> Attention:
    """Return what needs an operator; ``limit`` bounds each list."""
    async with pool.connection() as connection:
        cases = await listings.load_open_cases(connection, limit + 1, start or listings.FIRST)
        return Attention(
            cases=cases[:limit],
            next=(cases[limit].opened_at, cases[limit].number) if len(cases) > limit else None,
            gateways=await reporters.load_cases(connection, limit),
            set_aside=await lookups.load_set_aside(connection, clock(), limit),
            off=[one.hook for one in await hooks.load_all(connection) if one.hook.off_since],
        )


async def load_closed(
    pool: Pool, limit: int, before: CasePlace | None = None
) -> tuple[list[ListedCase], CasePlace | None]:
    """Return closed cases, the last one closed first, and where the list goes on."""
    cases = await pool.read(listings.load_closed_cases, *(before or _LAST), limit + 1)
    shown = cases[:limit]
    last = shown[-1] if len(cases) > limit else None
    return shown, None if last is None or last.closed_at is None else (last.closed_at, last.number)


@record(kw_only=True)
class CaseInQueue:
    """One case with its user as of now, what operators did about the user since, and its neighbours."""

    case: ListedCase
    user: ListedUser | None
    done: list[AuditEntry]
    queue: list[ListedCase]
    previous: int | None
    following: int | None


async def load_case(pool: Pool, number: int, limit: int) -> CaseInQueue:
    """Return a case and at most ``limit`` open ones around it; raises ``NotFound``."""
    async with pool.connection() as connection:
        case = await listings.load_case(connection, number)
        if case is None:
            raise NotFound(f"there is no case {number}")
        place = (case.opened_at, case.number)
        users: tuple[ListedUser, ...] = ()
        done: list[AuditEntry] = []
        if case.user_id is not None:
            users = await listing.load_these(connection, [case.user_id])
            actions = await audit.load_of_user(connection, case.user_id, _ACTIONS_SHOWN)
            done = [one for one in actions if one.at >= case.opened_at]
        queue = await listings.load_open_cases(connection, limit)
        if queue and (queue[-1].opened_at, queue[-1].number) < place:
            queue = await listings.load_open_cases(connection, limit, place)
        following = await listings.load_open_cases(connection, 1, (place[0], place[1] + 1))
        return CaseInQueue(
            case=case,
            user=users[0] if users else None,
            done=done,
            queue=queue,
            previous=await listings.load_previous_open_case(connection, *place),
            following=following[0].number if following else None,
        )


async def load_next(pool: Pool, after: ListedCase) -> int | None:
    """Return the open case after one, or else the oldest."""
    async with pool.connection() as connection:
        following = await listings.load_open_cases(connection, 1, (after.opened_at, after.number + 1))
        found = following or await listings.load_open_cases(connection, 1)
    return found[0].number if found else None

"""The list of users: filters, and pages that continue after the last user shown, however long the list is.

The rule it keeps: no page costs more than another. So nothing is counted and nothing skipped; each filter
walks along an index of its own. What changes while somebody turns pages may be missed, or be seen twice.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.admin import spreadsheets
from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.contract.payloads import QuotaState, Standing
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, NotFound
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import ledger, people, quotes
from kosmo_billing_daemon.store.people import Wanted
from kosmo_billing_daemon.store.postgres import Connection, Pool

BATCH = 1000
"""Users in one statement of a whole list."""

LONGEST_LIMIT = 1000
MOST_DAYS = 4000


class HasPlan(StrEnum):
    """Whether a user has a plan now."""

    ACTIVE = "active"
    LAPSED = "lapsed"


@record(kw_only=True)
class UserFilter:
    """Which users are listed: all that ever had a plan, or those for whom all of this is true.

    ``plan`` and ``ending`` (in so many days at most) are about the plan that a user has now.
    """

    plan: str | None = None
    ending: int | None = None
    exhausted: bool = False
    attention: bool = False
    state: HasPlan | None = None

    def __post_init__(self) -> None:
        if self.ending is not None and not 0 <= self.ending <= MOST_DAYS:
            raise Invalid(f"a number of days from 0 to {MOST_DAYS} is needed", field="ending")
        if self.state is HasPlan.LAPSED and self.needs_plan:
            raise Invalid(
                "users without a plan have nothing that ends or is used up: leave out the other filters",
                field="state",
            )

    @property
    def needs_plan(self) -> bool:
        """Whether only users can be meant who have a plan now."""
        return self.plan is not None or self.ending is not None or self.exhausted

    @property
    def is_by_end(self) -> bool:
        """Whether the next to end comes first; all other lists go by the user id."""
        has_plan = self.needs_plan or self.state is HasPlan.ACTIVE
        return has_plan and not self.exhausted and not self.attention


@record(kw_only=True)
class ListedUser:
    """One line of the list. A lapsed user has the plan that was the last."""

    user_id: UserId
    plan_type: str | None
    state: Standing
    valid_until: datetime | None
    messages_used: int
    messages_limit: int | None
    quota_state: QuotaState
    credit: Mapping[str, Decimal]
    open_cases: int


@record
class UserPage:
    """One page; ``next_cursor`` continues after it, unless it was the last."""

    users: tuple[ListedUser, ...]
    next_cursor: str | None


_Place = tuple[datetime, UUID]
"""Where a page ends; the time is only of use where the list goes by the end."""

_FIRST: Final[_Place] = (datetime(1900, 1, 1, tzinfo=UTC), UUID(int=0))


async def load_page(
    pool: Pool, wanted: UserFilter, cursor: str | None, limit: int, now: datetime
) -> UserPage:
    """Return one page; raises ``Invalid`` for a cursor that is none, ``NotFound`` for a plan never sold."""
    if not 1 <= limit <= LONGEST_LIMIT:
        raise Invalid(f"a number from 1 to {LONGEST_LIMIT} is needed", field="limit")
    users, last = await _page(pool, wanted, _FIRST if cursor is None else _decoded(cursor), limit, now)
    return UserPage(users, None if last is None else _encoded(last))


async def load_plans(pool: Pool) -> list[str]:
    """Return the plans that were ever sold or granted, by name."""
    return list(await pool.read(quotes.load_sold))


async def load_every(pool: Pool, wanted: UserFilter, now: datetime) -> AsyncGenerator[tuple[ListedUser, ...]]:
    """Give the whole list in batches, of which only one is in memory."""
    last: _Place | None = _FIRST
    while last is not None:
        users, last = await _page(pool, wanted, last, BATCH, now)
        yield users


async def load_these(connection: Connection, users: Sequence[UserId]) -> tuple[ListedUser, ...]:
    """Return the lines of these users, in this order."""
    described = await people.describe(connection, users)
    credit: dict[UUID, dict[str, Decimal]] = {}
    for (user_id, currency), amount in (await ledger.load_balances(connection, users)).items():
        if amount:
            credit.setdefault(user_id, {})[currency] = amount
    return tuple(
        ListedUser(
            user_id=user_id,
            plan_type=one.plan_type,
            state=one.entitlement.status,
            valid_until=one.entitlement.valid_until,
            messages_used=one.entitlement.messages_used,
            messages_limit=one.entitlement.messages_limit,
            quota_state=one.entitlement.quota_state,
            credit=credit.get(user_id, {}),
            open_cases=one.open_cases,
        )
        for user_id in users
        if (one := described.get(user_id)) is not None
    )


async def _page(
    pool: Pool, wanted: UserFilter, after: _Place, limit: int, now: datetime
) -> tuple[tuple[ListedUser, ...], _Place | None]:
    """Return a page's users, and where it ends if there are more."""
    async with pool.connection() as connection:
        # One more than is shown says whether anything follows.
        places = await _walk(connection, wanted, await _asked(connection, wanted, now), after, limit + 1)
        users = await load_these(connection, [UserId(user_id) for _, user_id in places[:limit]])
    return users, places[limit - 1] if len(places) > limit else None


async def _asked(connection: Connection, wanted: UserFilter, now: datetime) -> Wanted:
    found = None
    if wanted.plan is not None:
        sold = await quotes.load_sold(connection)
        if (found := sold.get(wanted.plan)) is None:
            those = f"; there were: {', '.join(sold)}" if sold else ""
            raise NotFound(f"no plan {wanted.plan!r} was ever sold or granted{those}")
    ends_before = people.NEVER if wanted.ending is None else now + timedelta(days=wanted.ending)
    return Wanted(quotes=found, ends_before=ends_before, exhausted=wanted.exhausted)


async def _walk(
    connection: Connection, wanted: UserFilter, asked: Wanted, after: _Place, limit: int
) -> list[_Place]:
    """Go along the index that fits the filters best."""
    if wanted.is_by_end:
        return [(at, user) for at, user in await people.load_by_end(connection, asked, after, limit)]
    user_id = after[1]
    if wanted.attention:
        has_plan = True if wanted.needs_plan else None
        has_plan = wanted.state is HasPlan.ACTIVE if wanted.state is not None else has_plan
        found = await people.load_with_cases(connection, asked, user_id, limit, has_plan=has_plan)
    elif wanted.exhausted:
        found = await people.load_exhausted(connection, asked, user_id, limit)
    elif wanted.state is HasPlan.LAPSED:
        found = await people.load_lapsed(connection, user_id, limit)
    else:
        found = await people.load_all(connection, user_id, limit)
    return [(_FIRST[0], user) for user in found]


def _encoded(place: _Place) -> str:
    at, user_id = place
    return urlsafe_b64encode(f"{at.isoformat()} {user_id}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> _Place:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, user_id = text.partition(" ")
        return read_time(at, "cursor"), UUID(user_id)
    except (Invalid, ValueError):
        raise Invalid("the cursor is none of ours: start with the first page", field="cursor") from None


def load_csv(pool: Pool, wanted: UserFilter, now: datetime) -> AsyncGenerator[str]:
    """Give the whole list as a file for spreadsheets, part by part."""
    return spreadsheets.written(_HEADINGS, load_every(pool, wanted, now), _cells)


_HEADINGS: Final = (
    "user_id", "plan", "state", "valid_until", "messages_used", "messages_limit", "credit", "open_cases",
)  # fmt: skip


def _cells(user: ListedUser) -> tuple[object, ...]:
    """Return one line of the list for a spreadsheet; a limit that is missing is none."""
    return (
        user.user_id,
        user.plan_type,
        user.state,
        rfc3339(user.valid_until),
        user.messages_used,
        user.messages_limit,
        " + ".join(f"{amount:f} {currency}" for currency, amount in sorted(user.credit.items())),
        user.open_cases,
    )

"""What an action would do to a user: the action itself, carried out in a transaction that is undone.

The rule it keeps: a preview cannot differ from the outcome, because nothing is computed a second time. It
suits actions that change the database alone, each in one transaction.
"""

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

from kosmo_billing_daemon.admin import explaining, listing
from kosmo_billing_daemon.admin.listing import ListedUser
from kosmo_billing_daemon.contract.payloads import Standing
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import leases, nodes
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.store.postgres import Connection, Pool, Rehearsal

_MOST_LEASES = 1000


@record(kw_only=True)
class UserState:
    """What an operator's action may change of a user."""

    listed: ListedUser
    nodes: tuple[Node, ...]
    leased: int

    @property
    def has_plan(self) -> bool:
        return self.listed.state in (Standing.ACTIVE, Standing.GRACE)


async def load_state(connection: Connection, user_id: UserId) -> UserState:
    """Return how a user stands."""
    (listed,) = await listing.load_these(connection, [user_id])
    held = await leases.load_open(connection, None, user_id, _MOST_LEASES)
    return UserState(
        listed=listed,
        nodes=tuple(await nodes.load(connection, user_id)),
        leased=sum(one.lease.outstanding for one in held),
    )


async def rehearse(
    pool: Pool, user_id: UserId, act: Callable[[Pool], Awaitable[object]]
) -> tuple[UserState, UserState]:
    """Return how a user stands and would stand; raises what the action would raise.

    ``act`` is given the pool to carry the action out on.
    """
    after: list[UserState] = []

    async def look(connection: Connection) -> None:
        after.append(await load_state(connection, user_id))

    before = await pool.read(load_state, user_id)
    await act(Rehearsal(pool, look))
    if not after:
        raise Conflict("there is nothing to do", code="nothing_to_do")
    return before, after[-1]


def changes(before: UserState, after: UserState) -> list[tuple[str, str]]:
    """Say what differs between two states: what it is about, and from what to what."""
    return [
        (name, f"{was} → {will_be}")
        for (name, was), (_, will_be) in zip(_facts(before), _facts(after), strict=True)
        if was != will_be
    ]


def _facts(state: UserState) -> Iterator[tuple[str, str]]:
    user = state.listed
    yield "Plan", user.plan_type if state.has_plan and user.plan_type else "none"
    yield "State", user.state
    yield "Until", _time(user.valid_until)
    yield "Messages", explaining.quota(user.messages_used, user.messages_limit) if state.has_plan else "none"
    yield "Credit", credit(user) or "none"
    listed = (f"{node.node_id} ({node.label})" if node.label else node.node_id for node in state.nodes)
    yield "Nodes", ", ".join(listed) or "none"
    yield "Leased to gateways", f"{state.leased} messages"
    yield "Open cases of this user", str(user.open_cases)


def credit(user: ListedUser) -> str:
    """Write a user's credit; empty where there is none."""
    return " + ".join(explaining.money(amount, name) for name, amount in sorted(user.credit.items()))


def _time(at: datetime | None) -> str:
    return "none" if at is None else explaining.when(at)

"""The paths on which the daemon is killed: how each begins, what is done, and how it must end."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

from kosmo_billing_daemon.link import Broker, connect
from kosmo_billing_daemon.store.postgres import Connection
from tests.crash.audit import Expected, complaints
from tests.crash.clients import lease, order, report, show
from tests.crash.process import CrashingDaemon
from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

BOUGHT = {"invoice.created": 1, "invoice.settled": 1, "subscription.activated": 1}
LIGHTNING = "BTC-LN"
SOON = timedelta(seconds=0.3)

_END_SOON = """
UPDATE subscriptions SET valid_from = valid_from - (valid_until - $2), valid_until = $2
WHERE user_id = $1 AND status = 'active'
"""


@dataclass(frozen=True)
class Trial:
    """One user on one path; the daemon lives when it begins."""

    world: World
    daemon: CrashingDaemon
    connection: Connection
    user_id: UUID = field(default_factory=uuid4)

    @property
    def bystander(self) -> UUID:
        """Somebody else, in the first shard, which is compared first."""
        return UUID(int=self.user_id.int >> 8)

    async def bought(self, how: str = "pay") -> str:
        """Begin with one plan that was bought and published; returns BTCPay's invoice."""
        invoice_id = await order(self.world, self.daemon, self.user_id)
        await self.world.simulator.act(invoice_id, how, method=LIGHTNING)
        await self.until_ended_as(Expected(1, events=BOUGHT))
        return invoice_id

    async def complaint(self, expected: Expected, *, in_the_past: bool = False) -> str | None:
        """The first thing that is not as it must be."""
        found = complaints(self.world, self.connection, self.user_id, expected, in_the_past=in_the_past)
        async with contextlib.aclosing(found):
            async for complaint in found:
                return complaint
        return None

    async def until_ended_as(self, expected: Expected) -> None:
        complaint: str | None = None

        async def fact() -> bool:
            nonlocal complaint
            complaint = await self.complaint(expected)
            return complaint is None

        await until(fact, lambda: f"{complaint}\n{self.daemon.log[-5000:]}")


@dataclass(frozen=True)
class Path:
    """``begin`` runs unharmed and returns an invoice; ``act`` meets the death; ``end`` is the end.

    With ``at_start`` the daemon is dead while ``act`` runs, and is started, armed, after it. Where the broker
    lost something, ``repairs_everybody`` has everybody's document compared in the end.
    """

    begin: Callable[[Trial], Awaitable[str]]
    act: Callable[[Trial, str], Awaitable[None]]
    end: Expected
    at_start: bool = False
    repairs_everybody: bool = False


async def _nothing(_trial: Trial) -> str:
    return ""


async def _buy(trial: Trial, _invoice_id: str) -> None:
    """As a front end does: order, show, pay."""
    invoice_id = await order(trial.world, trial.daemon, trial.user_id)
    await show(trial.world, trial.daemon, trial.user_id, invoice_id)
    await trial.world.pay(invoice_id)


async def _used_and_ordered_again(trial: Trial) -> str:
    await trial.bought()
    await report(trial.world, trial.user_id, (0, 7))
    return await order(trial.world, trial.daemon, trial.user_id)


async def _with_a_bystander(trial: Trial) -> str:
    await grant(trial.world, [trial.bystander])
    await trial.world.until_published(trial.bystander)
    return await _used_and_ordered_again(trial)


async def _pay(trial: Trial, invoice_id: str) -> None:
    await trial.world.pay(invoice_id)


async def _reach_the_end(trial: Trial, _invoice_id: str) -> None:
    end: object = await trial.connection.fetchval("SELECT clock_timestamp() + $1::interval", SOON)
    await trial.connection.execute(_END_SOON, trial.user_id, end)


async def _with_credit(trial: Trial) -> str:
    """Whoever has a plan, the credit for another, and chose renewal."""
    invoice_id = await trial.bought()
    await trial.connection.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES (now(), $1, 'granted', 5, 'USD', 'tester', 'a gift')",
        trial.user_id,
    )
    await trial.connection.execute(
        "INSERT INTO auto_renewals (user_id, is_on, chosen_at) VALUES ($1, true, now())", trial.user_id
    )
    return invoice_id


async def _marked_settled(trial: Trial) -> str:
    """What BTCPay settled by itself nobody can mark invalid there."""
    return await trial.bought("mark_settled")


async def _mark_invalid(trial: Trial, invoice_id: str) -> None:
    await trial.world.simulator.act(invoice_id, "mark_invalid")


async def _use(trial: Trial, _invoice_id: str) -> None:
    """Messages under a lease, some again without it, something unreadable, and more than the plan allows."""
    leased = {0: await lease(trial.world, trial.user_id)}
    await report(trial.world, trial.user_id, (0, 30), (20, 55), spoil=True, under=leased)


async def _forget(trial: Trial, _invoice_id: str) -> None:
    trial.world.broker.kill()
    await trial.world.broker.start()


async def _pay_and_meddle(trial: Trial, invoice_id: str) -> None:
    """Nobody listens to BTCPay's webhook, and somebody tampers with what the broker retains."""
    await trial.world.pay(invoice_id)
    broker = Broker(
        host=trial.world.broker.host, port=trial.world.broker.port, client_id="vandal", clean=True
    )
    async with connect(broker) as link:
        stranger = UUID(int=uuid4().int >> 8)
        await link.publish(TOPICS.entitlement(stranger), b"{", retain=True)
        await link.publish(TOPICS.entitlement(trial.bystander), b"", retain=True)


RENEWED = Expected(
    2,
    events={
        "invoice.created": 2,
        "invoice.settled": 2,
        "subscription.activated": 1,
        "subscription.renewed": 1,
    },
    messages=7,
)
FROM_CREDIT = Expected(
    2, events={**RENEWED.events, "credit.spent": 1}, may=frozenset({"subscription.renewing"})
)
EXPIRED = Expected(
    1, "expired", {**BOUGHT, "subscription.expired": 1}, may=frozenset({"subscription.expiring"})
)
REVOKED = Expected(1, "revoked", {**BOUGHT, "invoice.invalid": 1, "subscription.revoked": 1})
USED = Expected(1, events={**BOUGHT, "quota.warning": 1, "quota.exhausted": 1}, messages=55, leased=30)

PATHS = {
    "purchase": Path(_nothing, _buy, Expected(1, events=BOUGHT)),
    "settlement": Path(_used_and_ordered_again, _pay, RENEWED),
    "expiry": Path(Trial.bought, _reach_the_end, EXPIRED),
    "renewal": Path(_with_credit, _reach_the_end, FROM_CREDIT),
    "revocation": Path(_marked_settled, _mark_invalid, REVOKED),
    "usage": Path(Trial.bought, _use, USED),
    "republication": Path(Trial.bought, _forget, Expected(1, events=BOUGHT), repairs_everybody=True),
    "recovery": Path(_with_a_bystander, _pay_and_meddle, RENEWED, at_start=True, repairs_everybody=True),
}

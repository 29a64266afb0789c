"""A seeded walk: rounds of people, reports and faults; then everything heals, rests, and is compared.

The seed repeats what is decided; processes and networks keep their own time, so two runs interleave
differently.

A process has no clock that could jump. Instead, while the daemons are down, every stored time of the people
that still walk is moved into the past, in the database and at BTCPay alike: to the daemons that start then it
is later.
"""

import asyncio
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.btcpay.signature import HEADER, sign
from kosmo_billing_daemon.demo.btcpay.actions import PayerAction, possible_actions
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedInvoice
from tests.support import usage
from tests.support.daemon import WEBHOOK_SECRET
from tests.walk import renewals
from tests.walk.audit import complaints
from tests.walk.faults import FAULTS, Fault, mosquitto_killed
from tests.walk.gateways import report_until_answered
from tests.walk.heard import HeardEvents
from tests.walk.operator import Operator
from tests.walk.people import Person
from tests.walk.town import Town

_HEALS_WITHIN = 90.0
_STAY = 5  # rounds for which a person walks; afterwards only looked at
_JUMPS = tuple(timedelta(hours=hours) for hours in (1, 20, 30, 80, 300, 745))

_TIMES = """
SELECT c.table_name, string_agg(format('%1$I = %1$I - $1::interval', c.column_name), ', ') AS changes
FROM information_schema.columns AS c
WHERE c.table_schema = 'public' AND c.data_type = 'timestamp with time zone'
    AND c.is_generated = 'NEVER' AND c.table_name <> 'ledger'  -- whose rows nobody changes
    AND EXISTS (
    SELECT FROM information_schema.columns AS u
    WHERE (u.table_schema, u.table_name, u.column_name) = ('public', c.table_name, 'user_id'))
GROUP BY c.table_name
"""

_LOOKUPS = """
UPDATE lookups SET due_at = due_at - $1::interval, hinted_at = hinted_at - $1::interval
WHERE invoice_id IN (SELECT id FROM btcpay_invoices WHERE user_id = ANY ($2))
"""


@dataclass
class Walk:
    """``people`` is everybody; the last ``_STAY`` rounds' newcomers walk."""

    town: Town
    seed: int
    newcomers: int = 5
    reports: int = 8
    size: int = 500
    people: list[Person] = field(default_factory=list)
    chatty: list[Person] = field(default_factory=list)
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    heals: list[float] = field(default_factory=list)
    sent: int = 0  # events, repetitions included
    jumped: timedelta = timedelta()
    renewed: int = 0  # plans that credit had to renew at their end
    history: list[str] = field(default_factory=list)
    old: dict[str, bytes] = field(default_factory=dict)
    operator: Operator = field(init=False)
    heard: HeardEvents = field(init=False)

    def __post_init__(self) -> None:
        self.operator = Operator(self.town)
        self.heard = HeardEvents(self.town.world)

    async def round(self, jumps: float = 0.5) -> None:
        """One burst, and rest; fails with what differs and what the people concerned did.

        ``jumps`` is how probable it is that time passes afterwards, which restarts the daemons.
        """
        self.rounds += 1
        chance = Random(f"{self.seed} round {self.rounds}")
        self._meet(chance)
        walking = self.walking
        for _ in range(chance.choice([0, 1, 2, 3])):
            await self.operator.work(chance, walking)
        chosen = [chance.choice(row) for row in chance.sample(FAULTS, chance.choice([0, 1, 2, 2, 3, 4]))]
        self.history.append(f"round {self.rounds}: {[fault.__name__ for fault in chosen]}")
        self.faults.update(fault.__name__ for fault in chosen)
        plan = [(f, Random(chance.random()), chance.choice([0.3, 1.0, 2.0])) for f in chosen]
        steps = [chance.randrange(1, 6) for _ in walking]
        reporters = [Random(chance.random()) for _ in range(2)]
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as burst:
            for person, number in zip(walking, steps, strict=True):
                burst.create_task(person.live(self.town, number))
            for number, random in enumerate(reporters):
                burst.create_task(self._report(random, walking, number))
            await self._befall(plan)
            healed_at = time.monotonic()
            await self.town.heal()
            limit.reschedule(asyncio.get_running_loop().time() + _HEALS_WITHIN)
        await self._compare(walking, broker_forgot=mosquitto_killed in chosen)
        self.heals.append(time.monotonic() - healed_at)
        if chance.random() < jumps:
            await self._jump(chance, walking)

    async def _befall(self, plan: list[tuple[Fault, Random, float]]) -> None:
        async with asyncio.TaskGroup() as group:
            for fault, chance, seconds in plan:
                await asyncio.sleep(chance.uniform(0, 0.7))
                group.create_task(fault(self.town, chance, seconds))

    @property
    def walking(self) -> list[Person]:
        return [person for person in self.people if self.rounds - person.joined < _STAY]

    async def _compare(self, people: list[Person], *, broker_forgot: bool = False) -> None:
        """Let everything that still is to be heard be heard, rest, and look."""
        self.town.world.simulator.set_faults(webhooks={"hold": False})
        await self.town.world.simulator.drained()
        await self._hint(people)
        await self.operator.reconcile()
        await self.rest(people)
        await self.heard.listen(may_miss=broker_forgot)

    async def rest(self, people: list[Person]) -> None:
        """Wait until nothing differs; the last look alone would not tell what stood in the way."""
        deadline = time.monotonic() + _HEALS_WITHIN
        before: Counter[str] = Counter()
        while wrong := [complaint async for complaint in complaints(self.town, people)]:
            before.update(wrong)
            looks = (f"{number} looks: {complaint}" for complaint, number in before.most_common(10))
            assert time.monotonic() < deadline, self._told([*wrong, *looks])
            await asyncio.sleep(0.1)

    def summary(self, seconds: float) -> dict[str, Any]:
        """What was gone through; lost and doubled are 0, since a walk that differs fails."""
        everybody = [*self.people, *self.chatty]
        distinct = sum(len(person.messages) for person in everybody)
        return {
            "seed": self.seed,
            "daemons": len(self.town.houses),
            "seconds": round(seconds),
            "rounds": self.rounds,
            "steps": sum(len(person.journal) for person in self.people),
            "faults": dict(self.faults),
            "days_jumped": round(self.jumped / timedelta(days=1), 1),
            "users": len(everybody),
            "invoices": sum(len(person.invoices) for person in self.people),
            "altered": sum(len(person.altered) for person in self.people),
            "settled_by_hand": sum(len(person.settled_by_hand) for person in self.people),
            "offers": len(self.town.sells.ever),
            "cashed": sum(person.cashed for person in self.people),
            "refunded_in_btcpay": sum(len(person.refunded_there) for person in self.people),
            "from_credit": sum(len(person.from_credit) for person in self.people),
            "refunded": sum(len(person.refunded) for person in self.people),
            "renewed": self.renewed,
            "cases_closed": sum(len(person.dismissed) for person in self.people),
            "events_sent": self.sent,
            "events_distinct": distinct,
            "events_counted": distinct,
            "lost": 0,
            "doubled": 0,
            "heal_median": round(statistics.median(self.heals), 1),
            "heal_max": round(max(self.heals), 1),
        }

    def _told(self, wrong: list[str]) -> str:
        concerned = [p for p in self.people if any(str(p.user_id) in complaint for complaint in wrong)]
        journals = [f"{person.user_id}: {line}" for person in concerned for line in person.journal]
        lines = [f"KOSMO_WALK_SEED={self.seed}, round {self.rounds}", *wrong, *self.history[-12:], *journals]
        return "\n".join(lines)

    def _meet(self, chance: Random) -> None:
        for kind, number in ((self.people, self.newcomers), (self.chatty, 0 if self.chatty else 4)):
            for _ in range(number):
                user_id = UUID(int=chance.getrandbits(128), version=4)
                kind.append(Person(user_id, Random(chance.random()), joined=self.rounds))

    async def _report(self, chance: Random, walking: list[Person], reporter: int) -> None:
        """Report messages of everybody, some twice in one report, some in two, and an old report again."""
        now = datetime.now(UTC)
        reports = dict(chance.sample(sorted(self.old.items()), min(1, len(self.old))))
        events: list[dict[str, Any]] = []
        for number in range(self.reports // 2):
            events = events[: chance.choice([0, self.size // 10])]
            while len(events) < self.size:
                person = chance.choice([*self.chatty * 25, *walking])
                message_id = f"{self.rounds}-{reporter}-{number}-{len(person.messages)}"
                person.messages.add(message_id)
                sent_at = now - timedelta(seconds=chance.uniform(0, 2))
                events.append(usage.event(person.user_id, message_id, sent_at))
                if chance.random() < 0.02:
                    events.append(events[-1])
            del events[self.size :]
            reports[f"{self.rounds}-{reporter}-{number}"] = usage.payload(
                events, f"{self.rounds}-{reporter}-{number}"
            )
            self.old = {
                f"old-{self.rounds}-{reporter}": usage.payload(events, f"old-{self.rounds}-{reporter}")
            }
        names = [f"gateway-{reporter}"]
        if chance.random() < 0.3:
            names.append(f"bridge-{reporter}")  # heard the same messages
        broker = self.town.world.broker
        sent = await asyncio.gather(*(report_until_answered(broker, name, reports) for name in names))
        self.sent += sum(sent) * self.size

    async def _hint(self, people: list[Person]) -> None:
        """Send again the hints that nothing else makes up for, as BTCPay's page does by hand."""
        for person in people:
            for invoice_id in sorted(person.unheard):
                invoice = self.town.world.simulator.invoices[invoice_id]
                await self._deliver(invoice, f"again-{self.rounds}-{invoice_id}")
            person.unheard.clear()

    async def _deliver(self, invoice: SimulatedInvoice, delivery_id: str) -> None:
        body = (
            f'{{"deliveryId": "{delivery_id}", "type": "InvoiceSettled", "storeId": "{invoice.store_id}",'
            f' "invoiceId": "{invoice.id}", "metadata": {{"orderId": "{invoice.order_id}"}}}}'
        ).encode()
        headers = {HEADER: sign(body, WEBHOOK_SECRET.encode()), "Content-Type": "application/json"}
        url = self.town.houses[0].daemon.webhook_url
        while True:
            async with self.town.world.http.post(url, data=body, headers=headers) as response:
                if response.status == 200:
                    return
                assert response.status == 503, await response.text()
            await asyncio.sleep(0.1)

    async def _jump(self, chance: Random, people: list[Person]) -> None:
        """Make it later for those who walk, while no daemon runs; acts of that time are heard of later.

        Sometimes the catalogue changes then.
        """
        distance = chance.choice(_JUMPS)
        self.jumped += distance
        self.history.append(f"jump {distance}")
        ending = await renewals.ending(self.town, people, datetime.now(UTC) + distance)
        await self.town.stop_daemons()
        self.town.world.simulator.set_faults(webhooks={"hold": True})
        for person in people:
            if person.invoices and person.chance.random() < 0.3:
                await person.act(self.town)
                ending.pop(person.user_id, None)
        users = [person.user_id for person in people]
        async with self.town.world.sql() as connection, connection.transaction():
            for table in await connection.fetch(_TIMES):
                statement = f"UPDATE {table['table_name']} SET {table['changes']} WHERE user_id = ANY ($2)"  # noqa: S608  names of the catalogue
                await connection.execute(statement, distance, users)
            await connection.execute(_LOOKUPS, distance, users)
        for person in people:
            person.journal.append(f"{datetime.now(UTC):%H:%M:%S} {distance} pass")
            for invoice_id in person.invoices:
                await self._age(self.town.world.simulator.invoices[invoice_id], distance)
        if chance.random() < 0.5:
            self.history.append(self.town.change_catalogue(chance))
        await self.town.start_daemons()
        await self.town.until_ready()
        await self._compare(people)
        self.renewed += len(ending)
        missing = await renewals.missing(self.town, ending)
        assert not missing, self._told(missing)

    async def _age(self, invoice: SimulatedInvoice, distance: timedelta) -> None:
        invoice.created -= distance
        expires = invoice.expires - distance
        for payment in invoice.payments:
            payment.received -= distance
        invoice.monitored_until -= distance
        if expires <= datetime.now(UTC) and PayerAction.EXPIRE in possible_actions(invoice):
            await self.town.world.simulator.act(invoice.id, PayerAction.EXPIRE)
        invoice.expires = expires

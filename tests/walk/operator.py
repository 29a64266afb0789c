"""The operator, by the command line: gives and takes plans, decides about money, refunds, reconciles.

Only while nothing fails and everything is at rest: a command is not repeated.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from kosmo_billing_daemon.demo.btcpay.answers import GreenfieldRefused
from kosmo_billing_daemon.demo.btcpay.invoices import SimulatedStatus
from tests.support.daemon import command, environment, settings_for
from tests.walk.people import Person, money_of
from tests.walk.town import Town

_REASON = ("--reason", "a walk")
_UNDECIDED = {SimulatedStatus.NEW, SimulatedStatus.PROCESSING}  # BTCPay may yet call it settled or invalid


@dataclass(frozen=True)
class Operator:
    """Runs the commands that an operator would."""

    town: Town

    async def work(self, chance: Random, walking: Sequence[Person]) -> None:
        """Give somebody a plan or credit for it, refund, change the catalogue, or decide an open case."""
        done, person = chance.random(), chance.choice(walking)
        if done < 0.2:
            await self._grant(chance, person)
        elif done < 0.3:
            await self._cash(person)
        elif done < 0.35:
            await self.town.stop_daemons()
            person.note(self.town.change_catalogue(chance))
            await self.town.start_daemons()
            await self.town.until_ready()
        elif done < 0.55 and self.town.credit:
            await self._refund(chance, person)
        elif done < 0.65 and self.town.credit:
            await self._refund_there(chance, person)
        else:
            await self._decide(chance, walking)

    async def reconcile(self) -> None:
        await self._run("reconcile")

    async def _grant(self, chance: Random, person: Person) -> None:
        """Give a plan, and take some back at once; one beyond the prepaid cap is refused (R11)."""
        plan = chance.choice(self.town.sells.plans)
        person.note(f"is granted {plan}")
        if await self._run("user", "grant", str(person.user_id), plan, *_REASON, may_fail=True) is None:
            return
        person.granted += 1
        if chance.random() < 0.5:
            await self._run("user", "revoke", str(person.user_id), *_REASON)
            person.note("loses it")
            person.ungranted += 1

    async def _cash(self, person: Person) -> None:
        """End somebody's plan; what is left of it becomes credit."""
        arguments = ("user", "revoke", str(person.user_id), "--credit", *_REASON)
        if await self._run(*arguments, may_fail=True) is not None:
            person.cashed += 1
            person.note("loses its plan for credit")

    async def _refund_there(self, chance: Random, person: Person) -> None:
        """Refund a part of a payment in BTCPay's own pages, of which its webhook tells."""
        simulator = self.town.world.simulator
        refundable = [
            known
            for known in person.invoices
            if simulator.invoices[known].confirmed > 1
            and simulator.invoices[known].status not in _UNDECIDED
            and known not in person.altered
        ]
        if not refundable:
            return
        invoice_id = chance.choice(refundable)
        currency = simulator.invoices[invoice_id].currency
        amount = Decimal(chance.choice([40, 100])).scaleb(-currency.digits)
        with contextlib.suppress(GreenfieldRefused):  # BTCPay refunds no payment that is just expired
            simulator.refund(
                invoice_id, refundVariant="Custom", customAmount=str(amount), customCurrency=currency.code
            )
            known = person.refunded_there.get(invoice_id, Decimal(0))
            person.refunded_there[invoice_id] = known + amount
            person.note(f"{amount} of {invoice_id} are refunded in BTCPay")
        await simulator.drained()

    async def _refund(self, chance: Random, person: Person) -> None:
        """Refund what an invoice brought in, twice by the same command, or take an earlier refund back.

        It is refused where the user has no credit, or BTCPay does not refund such an invoice.
        """
        if person.refunded and chance.random() < 0.5:
            invoice_id = chance.choice(sorted(person.refunded))
            await self._run("refund", "cancel", invoice_id, *_REASON)
            del person.refunded[invoice_id]
            person.note(f"the refund of {invoice_id} is cancelled")
            return
        invoices = self.town.world.simulator.invoices
        received = [known for known in person.invoices if invoices[known].confirmed]
        chance.shuffle(received)
        for invoice_id in received[:2]:
            for _ in range(2):
                told = await self._run("refund", "make", invoice_id, "--json", *_REASON, may_fail=True)
                if told is not None:
                    person.refunded[invoice_id] = Decimal(json.loads(told)["amount"])
                    person.note(f"{person.refunded[invoice_id]} of {invoice_id} are refunded")

    async def _decide(self, chance: Random, walking: Sequence[Person]) -> None:
        """Settle an invoice for which there is a case, or close the case without any rights.

        Whatever is heard of it afterwards, or decided once more, changes nothing.
        """
        known = {str(person.user_id): person for person in walking}
        told = await self._run("attention", "--limit", "10000", "--json")
        invoices = self.town.world.simulator.invoices
        # One about a balance below zero has no invoice; nothing of it is decided here.
        cases = [
            case
            for case in json.loads(told or "[]")
            if case.get("user_id") in known and case.get("invoice_id") in invoices
        ]
        if not cases:
            return
        ready = [
            case
            for case in cases
            if case["kind"] != "overpaid" and invoices[case["invoice_id"]].status not in _UNDECIDED
        ]
        case = chance.choice(ready or cases)
        person, invoice_id, kind = known[case["user_id"]], case["invoice_id"], case["kind"]
        # Where money became credit because a mark had no effect, closing the case decides nothing.
        if kind == "not_fulfilled" or (ready and chance.random() < 0.6):
            for _ in range(chance.choice([1, 2])):
                # What the rules refuse when an invoice is paid, they refuse then too.
                if await self._run("invoices", "settle", invoice_id, *_REASON, may_fail=True) is None:
                    person.note(f"{invoice_id}, {kind}, cannot be settled by hand")
                    return
            person.note(f"{invoice_id}, {kind}, is settled by hand")
            person.settled_by_hand.add(invoice_id)
        else:
            await self._run("attention", "close", str(case["case"]), *_REASON)
            person.note(f"{kind} of {invoice_id} is closed")
            person.dismissed[invoice_id, kind] = money_of(invoices[invoice_id])
        person.unheard.add(invoice_id)

    async def _run(self, *arguments: str, may_fail: bool = False) -> str | None:
        """What the command printed; ``None`` if it failed."""
        world = self.town.world
        settings = settings_for(
            database_url=world.database_url,
            broker=world.broker,
            btcpay_url=world.simulator.url,
            **world.more,
        )
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            env=environment(**settings),
            cwd="/",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await process.communicate()
        assert may_fail or process.returncode == 0, f"{arguments}: {(said + complained).decode()}"
        return said.decode() if process.returncode == 0 else None

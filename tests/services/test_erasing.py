"""What comes at that moment or later about an erased user gives nothing, and keeps no id."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.admin.subjects import DataSubjects
from kosmo_billing_daemon.contract.lease_payloads import LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Erased, Invalid, NotFound
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.metering import Metering, Report
from kosmo_billing_daemon.store import erasures
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.usage import Quarantined
from tests.services.conftest import Shop, until
from tests.services.test_books import differences
from tests.support.usage import event, payload

BY = OperatorAction("eva", "ticket 7")


def subjects(shop: Shop) -> DataSubjects:
    return DataSubjects(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)


async def pseudonym(shop: Shop) -> UserId:
    (row,) = await shop.front.rows("SELECT user_id FROM pseudonyms")
    return UserId(row[0])


@asynccontextmanager
async def erasing(shop: Shop, user: UserId) -> AsyncIterator[None]:
    """Erase a user, and commit at the end of what stands within."""
    async with shop.front.pool.transaction(erasures.erasing(user)) as connection:
        for statement in erasures.statements(user, uuid4(), shop.clock()):
            await combine(connection, [statement])
        yield


def report(shop: Shop, *users: UserId) -> tuple[Metering, Report]:
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    sent = shop.clock() - timedelta(seconds=1)
    read = metering.read("gateway", payload([event(user, f"m {user}", sent) for user in users]))
    assert isinstance(read, Report)
    return metering, read


async def waits(shop: Shop) -> bool:
    return bool(await shop.front.rows("SELECT FROM pg_locks WHERE NOT granted"))


async def test_messages_counted_at_that_moment_count_for_the_others_alone(shop: Shop, user: UserId) -> None:
    other = UserId(uuid4())
    await shop.buy(user)
    await shop.buy(other)
    metering, read = report(shop, user, other)
    async with erasing(shop, user):
        counting = asyncio.create_task(metering.count([read]))
        await until(lambda: waits(shop), "the counting to wait")
    (answer,) = await counting
    assert answer is not None
    assert (answer.accepted, [each.reason for each in answer.rejected]) == (1, ["user_erased"])
    assert [row[0] for row in await shop.front.rows("SELECT user_id FROM usage_events")] == [other]


async def test_a_payment_settled_at_that_moment_is_the_pseudonyms(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    async with erasing(shop, user):
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        settling = asyncio.create_task(shop.told())
        await until(lambda: waits(shop), "the settlement to wait")
    await settling
    assert await shop.front.subscriptions(user) == []
    assert await shop.front.cases(await pseudonym(shop)) == [("late_payment", Decimal(5), True)]


async def test_what_turns_invalid_and_settles_again_makes_no_document(shop: Shop, user: UserId) -> None:
    """The reversal is booked all the same (R8)."""
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled")
    await subjects(shop).erase(user, BY, forfeit=True)
    nobody = await pseudonym(shop)
    await shop.front.execute("DELETE FROM outbox")  # it was cleared
    await shop.act(invoice, "mark_invalid")
    assert await shop.front.statuses(nobody) == ["revoked"]
    await shop.act(invoice, "mark_settled")
    assert await shop.front.rows("SELECT FROM entitlements") == []
    assert await shop.front.rows("SELECT FROM outbox WHERE users IS NOT NULL") == []


async def test_books_of_an_erased_user_whose_invoice_was_revoked_agree(shop: Shop, user: UserId) -> None:
    """Seen to fail: what had been granted for the plan was on the invoice again, and not in the ledger."""
    await shop.act(await shop.open(user), "mark_settled", "mark_invalid")
    await subjects(shop).erase(user, BY, forfeit=True)
    assert await differences(shop) == []


async def test_reports_that_cannot_be_counted_are_kept_without_the_id(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await subjects(shop).erase(user, BY, forfeit=True)
    metering, _ = report(shop, user)
    broken = metering.read("gateway", f'{{"events": "{str(user).upper()}"'.encode())
    assert isinstance(broken, Quarantined)
    await metering.count([], [broken])
    (row,) = await shop.front.rows("SELECT payload FROM usage_quarantine")
    assert row[0] == b'{"events": "erased"'


async def test_nothing_is_sold_leased_or_linked_to_an_erased_user(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    await subjects(shop).erase(user, BY, forfeit=True)
    with pytest.raises(Erased):
        await shop.front.open(user, "wanderer")
    ask = LeaseRequest(request_id="r", user_id=user, want=5)
    (answer,) = await Leasing(pool=shop.front.pool, clock=shop.clock).answer([("gateway", ask)])
    assert answer is not None
    assert answer.reason is LeaseRefusal.NO_SUBSCRIPTION
    await shop.front.expiry.links.show(user)
    assert await shop.front.rows("SELECT FROM renewal_links") == []
    with pytest.raises(Conflict, match="pseudonym"):
        await subjects(shop).preview(await pseudonym(shop))
    with pytest.raises(NotFound):
        await subjects(shop).preview(user)


async def test_what_is_still_the_users_is_not_erased_by_accident(shop: Shop, user: UserId) -> None:
    """A plan needs a word, and a refund on its way has to end."""
    invoice = await shop.buy(user)
    with pytest.raises(Conflict, match="the plan wanderer runs until"):
        await subjects(shop).erase(user, BY, forfeit=False)
    with pytest.raises(Invalid, match="must not name the user"):
        await subjects(shop).erase(user, OperatorAction("eva", f"of {user}"), forfeit=True)
    await shop.front.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES (now(), $1, 'granted', 3, 'USD', 'eva', 'r')",
        user,
    )
    refunding = Refunding(pool=shop.front.pool, btcpay=shop.front.btcpay, clock=shop.clock)
    await refunding.refund(shop.btcpay_id(invoice), None, BY)
    with pytest.raises(Conflict, match=r"nobody has claimed the refund of 3\.00 USD"):
        await subjects(shop).erase(user, BY, forfeit=True)
    await refunding.cancel(shop.btcpay_id(invoice), BY)
    await subjects(shop).erase(user, BY, forfeit=True)
    (left,) = await shop.front.rows(
        "SELECT sum(amount) FROM ledger WHERE user_id = $1", await pseudonym(shop)
    )
    assert left[0] == 3

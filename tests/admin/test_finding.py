"""Every name that an operator has at hand leads to its user, and no name to a wrong one."""

from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.admin import finding
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, NotFound
from tests.services.conftest import Shop


async def test_user_is_found_by_every_name(shop: Shop, user: UserId) -> None:
    invoice = await shop.buy(user)
    at_btcpay = shop.btcpay_id(invoice)
    names = [
        str(user),
        str(invoice.id),
        at_btcpay,
        f" {str(user).upper()}\n",
        f"https://pay.example/i/{at_btcpay}",
    ]
    for name in names:
        assert await finding.resolve(shop.front.pool, name) == user
        found = await finding.find(shop.front.pool, name)
        assert [one.user_id for one in found.users] == [user]
        assert [one.id for one in found.invoices] == [invoice.id]
    stranger = uuid4()
    assert await finding.resolve(shop.front.pool, str(stranger)) == stranger  # may be granted a plan
    assert (await finding.find(shop.front.pool, str(stranger))).is_empty


async def test_node_is_found_on_every_list_that_has_it(shop: Shop) -> None:
    users = sorted([UserId(uuid4()), UserId(uuid4())])
    for user in users:
        await shop.front.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!a1b2c3d4', '', now())", user)
    for name in ("!a1b2c3d4", "!A1B2C3D4", "a1b2c3d4"):
        found = await finding.find(shop.front.pool, name)
        assert [one.user_id for one in found.users] == users
    with pytest.raises(NotFound, match="kosmo-billing invoices find"):
        await finding.resolve(shop.front.pool, "!a1b2c3d4")


async def test_invoice_of_an_unknown_order_is_found_as_a_case(shop: Shop) -> None:
    await shop.front.execute(
        "INSERT INTO attention_cases (kind, detail, amount, btcpay_invoice_id, currency, opened_at)"
        " VALUES ('unknown_order', 'lost', 5, 'LostInvoice', 'USD', now())"
    )
    found = await finding.find(shop.front.pool, "LostInvoice")
    assert ([case.kind for case in found.cases], found.users, found.invoices) == (["unknown_order"], (), ())


async def test_name_of_nobody_and_name_of_two_are_refused(shop: Shop, user: UserId) -> None:
    for name in ("", "nobody", "' OR true --", "!a1b2c3d4e5", "\x00"):
        with pytest.raises(NotFound, match="not a UUID, and neither an order nor an invoice"):
            await finding.resolve(shop.front.pool, name)
        assert (await finding.find(shop.front.pool, name)).is_empty
    # A front end may let people choose their id: one who knows an order's id can take it.
    order = (await shop.buy(user)).id
    await shop.buy(UserId(UUID(str(order))))
    with pytest.raises(Conflict, match=f"is a user, and an order of user {user}"):
        await finding.resolve(shop.front.pool, str(order))
    found = await finding.find(shop.front.pool, str(order))
    assert {one.user_id for one in found.users} == {user, order}

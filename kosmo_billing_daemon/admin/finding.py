"""Finding users and invoices by whatever name an operator has at hand.

The rule it keeps: a name that could mean two users is refused, and one that means nobody says what was tried.
"""

import re
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.admin import listing
from kosmo_billing_daemon.admin.listing import ListedUser
from kosmo_billing_daemon.domain.invoices import Invoice
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, NotFound
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import listings, nodes
from kosmo_billing_daemon.store.invoices import find_invoice
from kosmo_billing_daemon.store.listings import ListedCase
from kosmo_billing_daemon.store.postgres import Pool

MOST_USERS = 100
"""Of one node, which is on as many lists as users care to put it on."""

_NODE: Final = re.compile(r"!?[0-9a-f]{8}")


@record(kw_only=True)
class FoundByName:
    """What a name means. ``cases`` are those about invoices that this database does not know."""

    name: str
    users: tuple[ListedUser, ...]
    invoices: tuple[Invoice, ...]
    cases: tuple[ListedCase, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.users or self.invoices or self.cases)


async def find(pool: Pool, name: str, limit: int = 20) -> FoundByName:
    """Return what is known under a user id, an order id, BTCPay's id of an invoice, or a node id.

    ``limit`` bounds the invoices of a user.
    """
    name = _trimmed(name)
    async with pool.connection() as connection:
        users: list[UserId] = []
        invoices: list[Invoice] = []
        if (user_id := _uuid(name)) is not None and await listings.is_known(connection, user_id):
            users.append(UserId(user_id))
            invoices += await listings.load_invoices(connection, user_id, None, limit)
        if (invoice := await find_invoice(connection, name)) is not None:
            invoices.append(invoice)
            users.append(invoice.user_id)
        if _NODE.fullmatch(name.lower()):
            node_id = f"!{name.lower().lstrip('!')}"
            users += await nodes.load_users(connection, node_id, MOST_USERS)
        return FoundByName(
            name=name,
            users=await listing.load_these(connection, list(dict.fromkeys(users))),
            invoices=tuple({one.id: one for one in invoices}.values()),
            cases=tuple(await listings.load_cases_of_name(connection, name)),
        )


async def resolve(pool: Pool, name: str) -> UserId:
    """Return the user whom a user id, an order id or BTCPay's id of an invoice means.

    Any UUID that is no order id may be a user of whom nothing is known yet. Raises ``NotFound``, and
    ``Conflict`` for a UUID that is both a known user and an order of another one.
    """
    name = _trimmed(name)
    user_id = _uuid(name)
    async with pool.connection() as connection:
        invoice = await find_invoice(connection, name)
        is_user = invoice is not None and user_id is not None and await listings.is_known(connection, user_id)
    if invoice is None:
        if user_id is not None:
            return UserId(user_id)
        advice = ""
        if _NODE.fullmatch(name.lower()):
            advice = "; whose list has a node is shown by: kosmo-billing invoices find"
        raise NotFound(
            f"{name!r} names no user: it is not a UUID, and neither an order nor an invoice of BTCPay that is"
            f" known here{advice}"
        )
    if is_user and user_id != invoice.user_id:
        raise Conflict(
            f"{name} is a user, and an order of user {invoice.user_id}; name the second one by that user id,"
            " or the first one by an invoice",
            code="ambiguous_name",
        )
    return invoice.user_id


def _trimmed(name: str) -> str:
    """Leave the id alone of what was copied: without space around it, or the address of its page."""
    return "".join(filter(str.isprintable, name)).strip().rstrip("/").rpartition("/")[2]


def _uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None

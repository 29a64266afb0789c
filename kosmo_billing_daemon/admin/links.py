"""What operators do with renewal links: show a user's, and end it."""

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.store import audit
from kosmo_billing_daemon.store import links as rows


async def show(links: RenewalLinks, user_id: UserId) -> str:
    """Return the user's link; raises ``Conflict`` where none are given out."""
    if links.public_url is None:
        raise Conflict("set PUBLIC_URL to where people reach the daemon; links begin with it")
    async with links.pool.connection() as connection:
        return (await links.issue(connection, [user_id]))[user_id]


async def revoke(links: RenewalLinks, user_id: UserId, by: OperatorAction) -> int:
    """End every link of the user, who gets a new one; returns how many were valid."""
    async with links.pool.transaction() as connection:
        now = links.clock()
        revoked = await rows.revoke(connection, user_id, now)
        await audit.append(connection, by.entry("user.link.revoke", user_id, "renewal link", now))
        return revoked

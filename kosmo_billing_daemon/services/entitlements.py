"""What a user may do now, in the words of the contract: the one place where the document is made.

REST and MQTT show the same document, so a front end and a gateway never disagree about a version.
"""

from datetime import datetime

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.domain.entitlements import entitlement
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Erased
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import entitlements, erasures
from kosmo_billing_daemon.store.entitlements import Versioned
from kosmo_billing_daemon.store.postgres import Pool

NEVER_SEEN = 0
"""The version of users who have no document: less than every version that is published."""


def document(versioned: Versioned, now: datetime) -> EntitlementDocument:
    """Write the document of one version."""
    content = versioned.entitlement
    return EntitlementDocument(
        version=versioned.version,
        user_id=content.user_id,
        plan_type=content.plan_type,
        status=content.status,
        scope=content.scope,
        allowed_nodes=content.allowed_nodes,
        features=content.features,
        messages_limit=content.messages_limit,
        messages_used=content.messages_used,
        quota_state=content.quota_state,
        subscription_id=content.subscription_id,
        valid_from=content.valid_from,
        valid_until=content.valid_until,
        grace_until=content.grace_until,
        issued_at=now,
    )


@record(kw_only=True)
class Entitlements:
    """Shows users what they may do."""

    pool: Pool
    clock: Clock

    async def show(self, user_id: UserId) -> EntitlementDocument:
        """Return the user's document; who never bought anything has one too, of version 0.

        Raises ``Erased`` for a user whose data was erased a short time ago.
        """
        async with self.pool.connection() as connection:
            known = await entitlements.load_of_users(connection, [user_id])
            if not known and await erasures.load_erased(connection, [user_id]):
                raise Erased("the data of this user was erased")
        versioned = known.get(user_id) or Versioned(NEVER_SEEN, entitlement(user_id, None, ()))
        return document(versioned, self.clock())

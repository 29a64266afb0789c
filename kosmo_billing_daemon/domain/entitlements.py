"""What a user may do right now, derived from the subscriptions: the content of the entitlement."""

from datetime import datetime

from kosmo_billing_daemon.contract.payloads import EntitlementContent, QuotaState, Scope, Standing
from kosmo_billing_daemon.domain.plans import FREE, Plan
from kosmo_billing_daemon.domain.subscriptions import Status, Subscription, SubscriptionId, UserId
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class Entitlement(EntitlementContent):
    """The whole truth about one user, before it has a version.

    A lapsed user has the free plan and the identity and period of what lapsed.
    """

    user_id: UserId


@record(kw_only=True)
class ShownPeriod:
    """What a document shows of a subscription."""

    id: SubscriptionId
    plan: Plan
    status: Status
    valid_from: datetime
    valid_until: datetime
    grace_until: datetime | None
    ended_at: datetime | None
    messages_limit: int | None
    messages_used: int


def quota_state(used: int, limit: int | None) -> QuotaState:
    """Compare use with the limit; the database function of the same name must agree."""
    if limit is None:
        return QuotaState.OK
    if used >= limit:
        return QuotaState.EXHAUSTED
    return QuotaState.WARNING if used * 5 >= limit * 4 else QuotaState.OK


def entitlement(
    user_id: UserId, row: Subscription | ShownPeriod | None, nodes: tuple[str, ...]
) -> Entitlement:
    """Describe what ``row``, the user's current or else last ended subscription, allows."""
    if row is not None and row.status.is_current:
        return Entitlement(
            user_id=user_id,
            plan_type=row.plan.plan_type,
            status=Standing.GRACE if row.status is Status.GRACE else Standing.ACTIVE,
            scope=row.plan.scope,
            allowed_nodes=nodes if row.plan.scope is Scope.WHITELIST else (),
            features=row.plan.features,
            messages_limit=row.messages_limit,
            messages_used=row.messages_used,
            quota_state=quota_state(row.messages_used, row.messages_limit),
            subscription_id=row.id,
            valid_from=row.valid_from,
            valid_until=row.valid_until,
            grace_until=row.grace_until,
        )
    if row is None:
        standing = Standing.NONE
    else:
        standing = Standing.REVOKED if row.status is Status.REVOKED else Standing.EXPIRED
    return Entitlement(
        user_id=user_id,
        plan_type=FREE,
        status=standing,
        scope=Scope.NONE,
        allowed_nodes=(),
        features=(),
        messages_limit=0,
        messages_used=0,
        quota_state=QuotaState.OK,  # nothing was used up: there is no plan
        subscription_id=None if row is None else row.id,
        valid_from=None if row is None else row.valid_from,
        valid_until=None if row is None else (row.ended_at or row.valid_until),
        grace_until=None,
    )

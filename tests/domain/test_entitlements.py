"""What a user may do now, from the row that stands for it."""

import pytest
from hypothesis import given

from kosmo_billing_daemon.contract.payloads import QuotaState, Scope, Standing
from kosmo_billing_daemon.domain.entitlements import entitlement, quota_state
from kosmo_billing_daemon.domain.history import advance, revoke
from kosmo_billing_daemon.domain.plans import FREE
from tests.domain.builders import (
    DAY,
    GUARDIAN,
    SANCTUARY,
    START,
    USER,
    WANDERER,
    Step,
    buy,
    live,
    play,
    sid,
    steps,
    use,
)

NODES = ("!00000001", "!00000002")


@pytest.mark.parametrize(
    ("used", "limit", "state"),
    [
        (0, 50, QuotaState.OK),
        (39, 50, QuotaState.OK),
        (40, 50, QuotaState.WARNING),
        (49, 50, QuotaState.WARNING),
        (50, 50, QuotaState.EXHAUSTED),
        (51, 50, QuotaState.EXHAUSTED),
        (0, 0, QuotaState.EXHAUSTED),
        (0, 1, QuotaState.OK),
        (7, 9, QuotaState.OK),
        (8, 9, QuotaState.WARNING),
        (10**9, None, QuotaState.OK),
    ],
)
def test_warning_begins_at_four_fifths_and_the_end_is_the_limit(
    used: int, limit: int | None, state: QuotaState
) -> None:
    assert quota_state(used, limit) is state


def test_a_user_who_never_bought_anything_receives_only() -> None:
    shown = entitlement(USER, None, NODES)
    assert (shown.plan_type, shown.status, shown.scope) == (FREE, Standing.NONE, Scope.NONE)
    assert (shown.messages_limit, shown.allowed_nodes, shown.features) == (0, (), ())
    assert (shown.subscription_id, shown.valid_from, shown.valid_until, shown.grace_until) == (None,) * 4


def test_each_plan_gives_its_scope_features_and_quota() -> None:
    wanderer = entitlement(USER, live(use(buy((), 1, WANDERER, START).history, 1, 45)), NODES)
    assert (wanderer.status, wanderer.scope, wanderer.allowed_nodes) == (Standing.ACTIVE, Scope.ANY_NODE, ())
    assert (wanderer.messages_limit, wanderer.messages_used, wanderer.quota_state) == (
        50,
        45,
        QuotaState.WARNING,
    )
    guardian = entitlement(USER, live(buy((), 1, GUARDIAN, START).history), NODES)
    assert (guardian.scope, guardian.allowed_nodes) == (Scope.WHITELIST, NODES)
    sanctuary = entitlement(USER, live(buy((), 1, SANCTUARY, START).history), NODES)
    assert (sanctuary.messages_limit, sanctuary.features) == (None, ("api", "webhooks"))


def test_grace_shows_its_end() -> None:
    held = advance(buy((), 1, WANDERER, START).history, START + 29 * DAY, holding=True).history
    shown = entitlement(USER, live(advance(held, START + 30 * DAY, holding=True).history), ())
    assert (shown.status, shown.valid_until, shown.grace_until) == (
        Standing.GRACE,
        START + 30 * DAY,
        START + 31 * DAY,
    )
    assert shown.plan_type == "wanderer"


def test_what_lapsed_or_was_revoked_leaves_the_free_plan_and_its_period() -> None:
    history = buy((), 1, SANCTUARY, START).history
    expired = entitlement(USER, advance(history, START + 31 * DAY, holding=False).history[0], NODES)
    revoked = entitlement(USER, revoke(history, sid(1), START + DAY, reason="invalid").history[0], NODES)
    assert (expired.status, expired.valid_until) == (Standing.EXPIRED, START + 30 * DAY)
    assert (revoked.status, revoked.valid_until) == (Standing.REVOKED, START + DAY)
    for shown in (expired, revoked):
        assert (shown.plan_type, shown.scope, shown.features, shown.messages_limit) == (
            FREE,
            Scope.NONE,
            (),
            0,
        )
        assert (shown.subscription_id, shown.quota_state) == (sid(1), QuotaState.OK)


@given(steps())
def test_an_entitlement_never_exceeds_its_plan(story: list[Step]) -> None:
    history, _ = play(story)
    for row in history:
        shown = entitlement(USER, row, NODES)
        if row.status.is_current:
            assert (shown.plan_type, shown.scope, shown.features) == (
                row.plan.plan_type,
                row.plan.scope,
                row.plan.features,
            )
            assert shown.messages_limit == row.messages_limit
        else:
            assert (shown.scope, shown.messages_limit, shown.features) == (Scope.NONE, 0, ())

"""What a document allows, by the gate's clock alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import Scope, Standing
from kosmo_billing_daemon.gate import Decision, Reason
from kosmo_billing_daemon.gate.decisions import entry_of
from kosmo_billing_daemon.gate.messages import checked_node
from tests.gate.stand_in import NODE, document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)


def decide(node: str = NODE, count: int = 1, at: datetime = NOW, **changes: Any) -> Decision:
    return entry_of(document(**{"valid_until": LATER, **changes})).decide(node, count, at.timestamp())


def test_an_active_plan_allows_and_tells_what_is_left() -> None:
    assert decide(messages_used=8) == Decision(True, Reason.OK, 42)


def test_an_unlimited_plan_has_no_remainder() -> None:
    assert decide(messages_limit=None, messages_used=10_000) == Decision(True, Reason.OK, None)


@pytest.mark.parametrize(
    ("used", "count", "allowed", "left"),
    [(49, 1, True, 1), (50, 1, False, 0), (60, 1, False, 0), (47, 3, True, 3), (48, 3, False, 2)],
)
def test_a_quota_has_room_for_the_whole_count_or_none(
    used: int, count: int, allowed: bool, left: int
) -> None:
    reason = Reason.OK if allowed else Reason.QUOTA_EXHAUSTED
    assert decide(messages_used=used, count=count) == Decision(allowed, reason, left)


def test_rights_end_at_their_time_without_another_document() -> None:
    assert decide(at=LATER - timedelta(microseconds=1)).allowed
    assert decide(at=LATER) == Decision(False, Reason.EXPIRED, 0)


def test_a_hold_lasts_until_its_own_end() -> None:
    held: dict[str, Any] = {"status": Standing.GRACE, "grace_until": LATER + timedelta(hours=24)}
    assert decide(at=LATER, **held).allowed
    assert decide(at=LATER + timedelta(hours=24), **held).reason is Reason.EXPIRED


def test_a_whitelist_allows_its_nodes_in_any_case() -> None:
    listed: dict[str, Any] = {"scope": Scope.WHITELIST, "allowed_nodes": ("!A1B2C3D4", "!00000001")}
    assert decide(checked_node("!a1b2C3D4", {}), **listed).allowed
    assert decide("!ffffffff", **listed) == Decision(False, Reason.NODE_NOT_ALLOWED, 0)
    assert not decide(scope=Scope.WHITELIST, allowed_nodes=())


@pytest.mark.parametrize(
    ("status", "reason"),
    [(Standing.NONE, Reason.NO_PLAN), (Standing.EXPIRED, Reason.EXPIRED), (Standing.REVOKED, Reason.REVOKED)],
)
def test_who_has_no_rights_is_told_why(status: Standing, reason: Reason) -> None:
    lapsed = decide(status=status, scope=Scope.NONE, messages_limit=0)
    assert lapsed == Decision(False, reason, 0)


def test_a_plan_without_outbound_messages_is_no_plan() -> None:
    assert decide(scope=Scope.NONE).reason is Reason.NO_PLAN


def test_rights_without_an_end_are_no_document() -> None:
    with pytest.raises(Malformed, match="valid_until"):
        entry_of(document(valid_until=None))


def test_a_decision_is_true_exactly_when_it_allows() -> None:
    assert Decision(True, Reason.OK, 1)
    assert not Decision(False, Reason.UNKNOWN_USER, 0)


def test_the_reasons_are_the_contract() -> None:
    assert set(Reason) == {
        "ok", "no_plan", "expired", "revoked", "node_not_allowed", "quota_exhausted", "unknown_user",
        "no_lease",
    }  # fmt: skip

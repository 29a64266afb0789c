"""The words of the contract and of the domain are the same words."""

from enum import StrEnum

import pytest

from kosmo_billing_daemon.contract import payloads
from kosmo_billing_daemon.domain import entitlements, plans


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (plans.Scope, payloads.Scope),
        (entitlements.Standing, payloads.Standing),
        (entitlements.QuotaState, payloads.QuotaState),
    ],
)
def test_enums_that_mean_the_same_are_equal(ours: type[StrEnum], theirs: type[StrEnum]) -> None:
    assert {item.name: item.value for item in ours} == {item.name: item.value for item in theirs}

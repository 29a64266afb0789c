"""Whether a plan is renewed from credit: shown and chosen over HTTP."""

from typing import Any
from uuid import UUID

import pytest

from tests.web.conftest import Service
from tests.web.test_credit import give

RENEWAL = "/subscription/renewal"


async def test_the_choice_is_shown_with_what_comes_of_it(service: Service, user: UUID) -> None:
    assert (await service.ask("GET", RENEWAL, user=user)).body == {
        "auto": False,
        "obstacle": "no_plan",
        "plan_type": None,
        "renews_at": None,
        "price": None,
        "amount_missing": None,
    }
    await service.subscribe(user, "wanderer")
    await give(service, user, "4.10")
    chosen = await service.ask("PUT", RENEWAL, user=user, json={"auto": True})
    until = (await service.ask("GET", "/subscription", user=user)).body["valid_until"]
    assert (chosen.status, chosen.body) == (
        200,
        {
            "auto": True,
            "obstacle": "credit_too_low",
            "plan_type": "wanderer",
            "renews_at": until,
            "price": {"amount": 5.0, "currency": "USD"},
            "amount_missing": 0.9,
        },
    )
    await give(service, user, "0.90")
    shown = await service.ask("GET", RENEWAL, user=user)
    assert (shown.body["auto"], shown.body["obstacle"], shown.body["amount_missing"]) == (True, None, 0)
    off = await service.ask("PUT", RENEWAL, user=user, json={"auto": False})
    assert (off.body["auto"], off.body["obstacle"]) == (False, None)


@pytest.mark.parametrize("body", [{}, {"auto": None}, {"auto": "true"}, {"auto": 1}])
async def test_the_choice_is_true_or_false(service: Service, user: UUID, body: dict[str, Any]) -> None:
    answer = await service.ask("PUT", RENEWAL, user=user, json=body)
    assert (answer.status, answer.code, answer.fields) == (422, "invalid", ["auto"])

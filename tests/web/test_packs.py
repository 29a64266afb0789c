"""Packs over HTTP: found with the plans that they fit, quoted and bought by name (R17)."""

from typing import Any
from uuid import UUID

import pytest

from tests.domain.builders import WITH_PACK
from tests.web.conftest import Service, Starter

PACK = {"pack": "extra_50"}


@pytest.fixture
async def service(start: Starter) -> Service:
    return await start(catalogue=WITH_PACK)


async def test_each_plan_lists_the_packs_that_fit_it(service: Service) -> None:
    listed = {plan["plan_type"]: plan["packs"] for plan in (await service.ask("GET", "/plans")).body}
    pack = {"pack": "extra_50", "price": {"amount": 4.0, "currency": "USD"}, "messages": 50}
    assert listed == {"wanderer": [pack], "guardian": [pack], "sanctuary": []}


async def test_a_pack_is_quoted_and_a_repeated_request_gives_the_same_invoice(
    service: Service, user: UUID
) -> None:
    await service.subscribe(user, "wanderer")
    until = (await service.ask("GET", "/subscription", user=user)).body["valid_until"]
    quoted = (await service.ask("POST", "/quotes", user=user, json=PACK)).body
    told = {name: quoted[name] for name in ("plan_type", "pack", "amount_due", "refusal", "rule")}
    assert told == {"plan_type": None, "amount_due": 4.0, "refusal": None, "rule": None} | PACK
    assert (quoted["messages_limit"], quoted["valid_until"]) == (100, until)
    plan = (await service.buy(user, "wanderer")).body
    first = await service.ask("POST", "/invoices", user=user, json=PACK, headers={"Idempotency-Key": "one"})
    assert (first.status, first.body["pack"], first.body["plan_type"]) == (201, "extra_50", None)
    assert (first.body["amount"], first.body["order_id"] != plan["order_id"]) == (4.0, True)
    again = await service.ask("POST", "/invoices", user=user, json=PACK)
    assert (again.status, again.body) == (200, first.body)
    named = await service.ask(
        "POST", "/invoices", user=user, json={"plan_type": "wanderer"}, headers={"Idempotency-Key": "one"}
    )
    assert (named.status, named.code) == (422, "idempotency_key_reused")


async def test_a_pack_without_a_plan_that_it_fits_is_refused(service: Service, user: UUID) -> None:
    refused = await service.ask("POST", "/invoices", user=user, json=PACK)
    assert (refused.status, refused.code) == (409, "no_fitting_plan")
    quoted = (await service.ask("POST", "/quotes", user=user, json=PACK)).body
    assert (quoted["refusal"], quoted["messages_limit"]) == ("no_fitting_plan", None)
    await service.subscribe(user, "sanctuary")
    assert (await service.ask("POST", "/invoices", user=user, json=PACK)).code == "no_fitting_plan"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"pack": "wanderer"}, "unknown_pack", "pack"),
    ({"plan_type": "extra_50"}, "unknown_plan", "plan_type"),
    ({"pack": "extra_50", "plan_type": "wanderer"}, "invalid", "pack"),
    ({"pack": 7}, "invalid", "pack"),
    ({}, "invalid", "plan_type"),
]


@pytest.mark.parametrize("path", ["/invoices", "/quotes"])
async def test_a_body_must_name_one_plan_or_pack(service: Service, user: UUID, path: str) -> None:
    for body, code, field in WRONG:
        answer = await service.ask("POST", path, user=user, json=body)
        assert (answer.status, answer.code, answer.fields) == (422, code, [field])

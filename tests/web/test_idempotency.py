"""``Idempotency-Key`` (R10) and the limit on new invoices."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.runtime.rate_limit import RateLimit, TooMany
from kosmo_billing_daemon.services.reservations import KEYS_PER_MINUTE
from tests.web.conftest import Answer, Service, Starter

KEY = "purchase-1"


async def buy(service: Service, user: UUID, plan: str = "wanderer", key: str = KEY, **more: str) -> Answer:
    return await service.ask(
        "POST",
        "/invoices",
        user=user,
        json={"plan_type": plan, **more},
        headers={"Idempotency-Key": key},
    )


async def test_two_hundred_identical_requests_make_one_invoice_and_get_equal_answers(
    start: Starter, user: UUID
) -> None:
    services = [await start(), await start()]
    answers = await asyncio.gather(*(buy(services[number % 2], user) for number in range(200)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.raw for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert len(services[0].simulator.invoices) == 1


async def test_the_stored_answer_is_given_whatever_became_of_the_invoice(
    service: Service, user: UUID
) -> None:
    first = await buy(service, user)
    await service.simulator.act(first.body["invoice_id"], "pay")
    await service.simulator.act(first.body["invoice_id"], "confirm")
    await service.rows("UPDATE btcpay_invoices SET status = 'settled'")
    again = await buy(service, user)
    assert (again.status, again.raw) == (201, first.raw)
    assert again.headers["Location"] == first.headers["Location"]


async def test_keys_are_not_kept_without_number_for_one_open_invoice(service: Service, user: UUID) -> None:
    """Fails without ``_keys``: asking again for an open invoice never counts, and each new key is a row."""
    first = await buy(service, user, key="key-0")
    for number in range(1, KEYS_PER_MINUTE):
        assert (await buy(service, user, key=f"key-{number}")).status == 200
    refused = await buy(service, user, key="one-more")
    assert (refused.status, refused.code) == (429, "too_many_keys")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await buy(service, user, key="key-0")).raw == first.raw
    assert (await service.buy(user, "wanderer")).status == 200
    assert (await buy(service, uuid4(), key="key-0")).status == 201
    kept = await service.rows("SELECT count(*) FROM idempotency_keys WHERE user_id = $1", user)
    assert kept[0]["count"] == KEYS_PER_MINUTE


async def test_spelling_does_not_make_another_request(service: Service, user: UUID) -> None:
    first = await buy(service, user)
    again = await service.ask(
        "POST",
        "/invoices",
        user=user,
        data=b'{ "redirect_url": null,\n"plan_type":"wanderer" }',
        headers={"Idempotency-Key": KEY},
    )
    assert (again.status, again.raw) == (201, first.raw)


async def test_the_same_key_for_another_request_is_refused(service: Service, user: UUID) -> None:
    await buy(service, user)
    for other in (
        await buy(service, user, "guardian"),
        await buy(service, user, redirect_url="https://kosmo.example/"),
    ):
        assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert len(service.simulator.invoices) == 1


async def test_users_do_not_share_keys(service: Service, user: UUID) -> None:
    mine, theirs = await buy(service, user), await buy(service, uuid4())
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.body["invoice_id"] != theirs.body["invoice_id"]


async def test_a_new_key_gets_the_open_invoice(service: Service, user: UUID) -> None:
    first, second = await buy(service, user), await buy(service, user, key="purchase-2")
    assert (second.status, second.body) == (200, first.body)
    assert (await buy(service, user, key="purchase-2")).status == 200


async def test_a_failure_is_not_stored(service: Service, user: UUID) -> None:
    await service.simulator.go_away()
    assert (await buy(service, user)).status == 503
    await service.simulator.come_back()
    answer = await buy(service, user)
    assert answer.status == 201
    assert (await buy(service, user)).raw == answer.raw
    assert len(service.simulator.invoices) == 1


async def test_a_key_whose_invoice_came_to_nothing_leads_to_a_new_one(service: Service, user: UUID) -> None:
    await service.simulator.go_away()
    assert (await buy(service, user)).status == 503
    await service.simulator.come_back()
    await service.rows("UPDATE btcpay_invoices SET status = 'abandoned', next_check_at = NULL")
    answer = await buy(service, user)
    assert answer.status == 201
    assert (await buy(service, user)).raw == answer.raw


async def test_a_refusal_leaves_the_key_free(service: Service, user: UUID) -> None:
    assert (await buy(service, user, "pilgrim")).code == "unknown_plan"
    assert (await buy(service, user, "guardian")).status == 201


async def test_a_key_is_kept_for_a_day(start: Starter, user: UUID) -> None:
    now = [datetime.now(UTC)]
    service = await start(clock=lambda: now[0])
    first = await buy(service, user)
    now[0] += timedelta(hours=23, minutes=59)
    assert (await buy(service, user)).raw == first.raw
    now[0] += timedelta(minutes=2)
    assert (await buy(service, user, "guardian")).status == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e4"])
async def test_a_key_that_is_none_is_refused(service: Service, user: UUID, key: str) -> None:
    answer = await buy(service, user, key=key)
    assert (answer.status, answer.code, answer.fields) == (
        422,
        "invalid_idempotency_key",
        ["Idempotency-Key"],
    )


async def test_the_longest_key_is_taken(service: Service, user: UUID) -> None:
    assert (await buy(service, user, key="x" * 255)).status == 201


async def test_too_many_new_invoices_are_refused_but_open_ones_are_still_found(
    start: Starter, user: UUID
) -> None:
    service = await start(invoice_rate=2)
    for plan in ("wanderer", "guardian"):
        for _ in range(3):
            assert (await service.buy(user, plan)).status in (200, 201)
    refused = await service.buy(user, "sanctuary")
    assert (refused.status, refused.code) == (429, "too_many_invoices")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert (await service.buy(user, "wanderer")).status == 200
    assert (await service.buy(uuid4(), "sanctuary")).status == 201
    assert len(service.simulator.invoices) == 3


def test_the_limit_refills_steadily_and_forgets_who_is_quiet() -> None:
    now = [0.0]
    limit = RateLimit(6, most_users=3, monotonic=lambda: now[0])
    user = uuid4()
    for _ in range(6):
        limit.take(user)
    with pytest.raises(TooMany) as refused:
        limit.take(user)
    assert refused.value.retry_after == 10
    now[0] += 10
    limit.take(user)
    with pytest.raises(TooMany):
        limit.take(user)
    for _ in range(5):
        limit.take(uuid4())
    assert len(limit) == 3
    now[0] += 1000
    limit.take(user)
    assert len(limit) == 1

"""What was counted for a user, and what the user bought."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.store import usage
from kosmo_billing_daemon.store.usage import UsageRows
from tests.web.conftest import Service, Starter

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


async def report(service: Service, user: UUID, *sent: datetime, received: datetime = NOW) -> None:
    """Count one message for each time."""
    async with service.pool.transaction() as connection:
        await usage.count(
            connection,
            UsageRows(
                user_id=[str(user)] * len(sent),
                message_id=[f"m-{at:%m%dT%H%M}" for at in sent],
                node_id=["!a1b2c3d4"] * len(sent),
                count=[1] * len(sent),
                sent_at=list(sent),
                report=[0] * len(sent),
                reporters=["gateway-1"],
            ),
            received,
        )


async def test_who_sent_nothing_has_thirty_empty_days(start: Starter, user: UUID) -> None:
    service = await start(clock=lambda: NOW)
    answer = await service.ask("GET", "/usage", user=user)
    assert answer.body == {
        "first": "2026-02-19", "last": "2026-03-20", "messages": 0, "days": [], "latest": [],
    }  # fmt: skip


async def test_messages_are_summed_per_day_and_the_last_ones_told(start: Starter, user: UUID) -> None:
    service = await start(clock=lambda: NOW)
    await report(service, user, *(NOW - timedelta(hours=hours) for hours in range(0, 48, 2)))
    await report(service, uuid4(), NOW)
    body = (await service.ask("GET", "/usage", user=user)).body
    assert body["days"] == [
        {"day": "2026-03-18", "messages": 5},
        {"day": "2026-03-19", "messages": 12},
        {"day": "2026-03-20", "messages": 7},
    ]
    assert body["messages"] == 24
    assert len(body["latest"]) == 20
    assert body["latest"][0] == {
        "message_id": "m-0320T1200",
        "node_id": "!a1b2c3d4",
        "count": 1,
        "sent_at": "2026-03-20T12:00:00Z",
        "decision": "no_subscription",
        "subscription_id": None,
    }
    one = (await service.ask("GET", "/usage?from=2026-03-19&to=2026-03-19", user=user)).body
    assert (one["first"], one["last"], one["messages"]) == ("2026-03-19", "2026-03-19", 12)


async def test_it_begins_with_the_present_plan(service: Service, user: UUID) -> None:
    await service.subscribe(user, "wanderer")
    now = datetime.now(UTC)
    await report(service, user, now, received=now)
    body = (await service.ask("GET", "/usage", user=user)).body
    assert body["first"] in (str(now.date()), str(now.date() - timedelta(days=1)))
    assert body["latest"][0]["decision"] == "counted"
    shown = (await service.ask("GET", "/subscription", user=user)).body
    assert body["latest"][0]["subscription_id"] == shown["subscription_id"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("from=2026-03-01", 200),
        ("to=2026-03-01", 200),
        ("to=0001-01-01", 200),
        ("to=9999-12-31", 200),
        ("from=2025-03-02&to=2026-04-05", 200),
        ("from=2027-01-01", 200),
        ("from=2025-03-01&to=2026-04-05", 422),
        ("from=0001-01-01", 422),
        ("from=2026-03-02&to=2026-03-01", 422),
        ("from=2026-02-30", 422),
        ("from=20260301", 422),
        ("from=2026-W10-1", 422),
        ("from=", 422),
        ("to=\u0662026-03-01", 422),
        ("to=2026-03-01&to=2026-03-01", 422),
    ],
)
async def test_days_are_bounded(start: Starter, user: UUID, query: str, status: int) -> None:
    service = await start(clock=lambda: NOW)
    answer = await service.ask("GET", f"/usage?{query}", user=user)
    assert answer.status == status
    if status == 200:
        first, last = (date.fromisoformat(answer.body[name]) for name in ("first", "last"))
        assert timedelta(0) <= last - first < timedelta(days=400)


async def test_the_history_tells_each_purchase_and_the_rule_of_its_dates(
    service: Service, user: UUID
) -> None:
    for plan in ("wanderer", "wanderer", "guardian"):
        await service.subscribe(user, plan)
    body = (await service.ask("GET", "/subscription?history=true", user=user)).body
    plain = (await service.ask("GET", "/subscription", user=user)).body
    assert {name: body[name] for name in plain if name != "issued_at"} == {
        name: value for name, value in plain.items() if name != "issued_at"
    }
    assert body["purchases"] == 3
    newest, middle, oldest = body["history"]
    assert [row["carried"]["rule"] for row in body["history"]] == ["converted", "added", "fresh"]
    assert [row["status"] for row in body["history"]] == ["active", "replaced", "replaced"]
    assert middle["carried"]["from_subscription_id"] == oldest["subscription_id"]
    assert (middle["carried"]["messages"], middle["messages_limit"]) == (50, 100)
    assert newest["subscription_id"] == body["subscription_id"]
    assert newest["price"] == {"amount": 12.0, "currency": "USD"}
    orders = (await service.ask("GET", "/invoices", user=user)).body["items"]
    assert [row["order_id"] for row in body["history"]] == [row["order_id"] for row in orders]


async def test_who_bought_nothing_has_an_empty_history(service: Service, user: UUID) -> None:
    body = (await service.ask("GET", "/subscription?history=true", user=user)).body
    assert (body["purchases"], body["history"]) == (0, [])
    assert "history" not in (await service.ask("GET", "/subscription?history=false", user=user)).body
    for wrong in ("1", "TRUE", "", "true&history=true"):
        answer = await service.ask("GET", f"/subscription?history={wrong}", user=user)
        assert (answer.status, answer.fields) == (422, ["history"])

"""What a purchase would do, and what a user has in credit."""

from decimal import Decimal
from uuid import UUID

from kosmo_billing_daemon.contract.paths import API
from tests.web.conftest import Service


async def give(service: Service, user: UUID, amount: str) -> None:
    """Credit, as an operator books it."""
    await service.rows(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES (now(), $1, 'granted', $2, 'USD', 'operator', 'a gift') RETURNING id",
        user,
        Decimal(amount),
    )


async def test_a_quote_says_what_is_to_be_paid_and_what_it_gives(service: Service, user: UUID) -> None:
    answer = await service.ask("POST", "/quotes", user=user, json={"plan_type": "guardian"})
    assert answer.status == 200
    assert (answer.body["price"], answer.body["amount_due"], answer.body["credit_used"]) == (
        {"amount": 12.0, "currency": "USD"},
        12.0,
        0,
    )
    assert (answer.body["rule"], answer.body["messages_limit"], answer.body["refusal"]) == (
        "fresh",
        500,
        None,
    )
    assert await service.rows("SELECT FROM btcpay_invoices") == []


async def test_a_quote_counts_on_what_is_left_and_on_credit(service: Service, user: UUID) -> None:
    await service.subscribe(user, "wanderer")
    await give(service, user, "4.10")
    quoted = (await service.ask("POST", "/quotes", user=user, json={"plan_type": "guardian"})).body
    assert (quoted["rule"], quoted["amount_due"], quoted["messages_limit"]) == ("converted", 7.9, 708)
    invoice = (await service.buy(user, "guardian")).body
    assert (invoice["amount_due"], invoice["credit_used"], invoice["amount"]) == (7.9, 4.1, 12.0)


async def test_a_quote_beyond_the_cap_says_so(service: Service, user: UUID) -> None:
    await service.subscribe(user, "wanderer")
    await service.rows("UPDATE subscriptions SET valid_until = valid_from + interval '395 days' RETURNING id")
    quoted = (await service.ask("POST", "/quotes", user=user, json={"plan_type": "wanderer"})).body
    assert (quoted["refusal"], quoted["valid_until"]) == ("prepaid_cap", None)


async def test_an_unknown_plan_has_no_quote(service: Service, user: UUID) -> None:
    answer = await service.ask("POST", "/quotes", user=user, json={"plan_type": "gold"})
    assert (answer.status, answer.body["code"]) == (422, "unknown_plan")


async def test_credit_is_shown_with_what_is_reserved_and_how_it_came_about(
    service: Service, user: UUID
) -> None:
    assert (await service.ask("GET", "/credit", user=user)).body == {
        "balances": [],
        "refunds": [],
        "entries": [],
    }
    await give(service, user, "4.10")
    await service.buy(user, "guardian")
    account = (await service.ask("GET", "/credit", user=user)).body
    assert account["balances"] == [{"amount": 4.1, "currency": "USD", "reserved": 4.1}]
    ((entry),) = account["entries"]
    assert (entry["kind"], entry["amount"], entry["is_reversal"]) == ("granted", 4.1, False)


async def test_what_credit_pays_whole_is_settled_in_the_answer(service: Service, user: UUID) -> None:
    await give(service, user, "5.00")
    answer = await service.buy(user, "wanderer")
    assert answer.status == 201
    invoice = answer.body
    assert (invoice["status"], invoice["amount_due"], invoice["invoice_id"]) == ("settled", 0, None)
    assert answer.headers["Location"] == f"{API}/invoices/{invoice['order_id']}"
    assert (await service.ask("GET", f"/invoices/{invoice['order_id']}", user=user)).body == invoice
    stranger = await service.ask("GET", f"/invoices/{invoice['order_id']}", user=UUID(int=7))
    assert stranger.status == 404
    assert (await service.ask("GET", "/subscription", user=user)).body["status"] == "active"


async def test_what_credit_pays_whole_under_a_key_is_bought_once(service: Service, user: UUID) -> None:
    await give(service, user, "10.00")
    body, key = {"plan_type": "wanderer"}, {"Idempotency-Key": "from-credit"}
    first = await service.ask("POST", "/invoices", user=user, json=body, headers=key)
    again = await service.ask("POST", "/invoices", user=user, json=body, headers=key)
    assert (first.status, first.body["status"]) == (201, "settled")
    assert (again.status, again.raw) == (first.status, first.raw)
    ((balance),) = (await service.ask("GET", "/credit", user=user)).body["balances"]
    assert balance["amount"] == 5

"""What a user may do now, and what is for sale."""

from datetime import UTC, datetime
from uuid import UUID

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from tests.web.conftest import Service

FIELDS = {
    "version", "user_id", "plan_type", "status", "scope", "allowed_nodes", "features",
    "messages_limit", "messages_used", "quota_state", "subscription_id",
    "valid_from", "valid_until", "grace_until", "issued_at",
}  # fmt: skip


async def test_who_never_bought_anything_has_a_document_of_version_0(service: Service, user: UUID) -> None:
    answer = await service.ask("GET", "/subscription", user=user)
    assert answer.status == 200
    assert set(answer.body) == FIELDS
    assert answer.body["version"] == 0
    assert answer.body["user_id"] == str(user)
    assert (answer.body["status"], answer.body["plan_type"], answer.body["scope"]) == ("none", "free", "none")
    assert (answer.body["messages_limit"], answer.body["quota_state"]) == (0, "ok")
    assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_a_buyer_has_the_document_that_gateways_get(service: Service, user: UUID) -> None:
    await service.subscribe(user, "sanctuary")
    answer = await service.ask("GET", "/subscription", user=user)
    assert set(answer.body) == FIELDS
    document = EntitlementDocument.decode(answer.raw)
    assert document.version >= 1
    assert (document.user_id, document.plan_type, document.status) == (user, "sanctuary", "active")
    assert (document.messages_limit, document.features) == (None, ("api", "webhooks"))
    assert document.valid_from is not None
    assert document.valid_until is not None
    assert (document.valid_until - document.valid_from).days == 30
    assert abs((document.issued_at - datetime.now(UTC)).total_seconds()) < 60


async def test_the_catalogue_is_for_everybody(service: Service) -> None:
    answer = await service.ask("GET", "/plans")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert b'"price":{"amount":5.0,"currency":"USD"}' in answer.raw
    assert answer.body == [
        {
            "plan_type": "wanderer",
            "price": {"amount": 5.0, "currency": "USD"},
            "period_days": 30,
            "messages_limit": 50,
            "scope": "any_node",
            "features": [],
            "packs": [],
        },
        {
            "plan_type": "guardian",
            "price": {"amount": 12.0, "currency": "USD"},
            "period_days": 30,
            "messages_limit": 500,
            "scope": "whitelist",
            "features": [],
            "packs": [],
        },
        {
            "plan_type": "sanctuary",
            "price": {"amount": 50.0, "currency": "USD"},
            "period_days": 30,
            "messages_limit": None,
            "scope": "any_node",
            "features": ["api", "webhooks"],
            "packs": [],
        },
    ]

"""Reads that poll: an ETag, and 304 while nothing changed."""

from uuid import UUID, uuid4

import pytest

from tests.web.conftest import Service

READS = ("/subscription", "/subscription?history=true", "/invoices", "/usage", "/nodes", "/plans")


@pytest.mark.parametrize("path", READS)
async def test_who_has_the_state_gets_no_body(service: Service, user: UUID, path: str) -> None:
    await service.buy(user, "wanderer")
    first = await service.ask("GET", path, user=user)
    tag = first.headers["ETag"]
    for given in (tag, f"W/{tag.removeprefix('W/')}", f'"other", {tag}', "*"):
        again = await service.ask("GET", path, user=user, headers={"If-None-Match": given})
        assert (again.status, again.raw) == (304, b""), given
        assert again.headers["ETag"] == tag
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    other = await service.ask("GET", path, user=user, headers={"If-None-Match": '"other"'})
    assert other.status == 200


async def test_one_invoice_has_a_tag_too(service: Service, user: UUID) -> None:
    opened = (await service.buy(user, "wanderer")).body
    path = f"/invoices/{opened['invoice_id']}"
    tag = (await service.ask("GET", path, user=user)).headers["ETag"]
    assert (await service.ask("GET", path, user=user, headers={"If-None-Match": tag})).status == 304
    foreign = await service.ask("GET", path, user=uuid4(), headers={"If-None-Match": tag})
    assert foreign.status == 404


async def test_a_change_changes_the_tag(service: Service, user: UUID) -> None:
    tags = {path: (await service.ask("GET", path, user=user)).headers["ETag"] for path in READS}
    await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json={})
    await service.subscribe(user, "guardian")
    await service.rows(
        "INSERT INTO usage_days (user_id, day, messages) VALUES ($1, (now() AT TIME ZONE 'UTC')::date, 1)",
        user,
    )
    for path in READS:
        answer = await service.ask("GET", path, user=user, headers={"If-None-Match": tags[path]})
        assert answer.status == (304 if path == "/plans" else 200), path


async def test_tags_of_different_users_differ(service: Service, user: UUID) -> None:
    mine = (await service.ask("GET", "/subscription", user=user)).headers["ETag"]
    theirs = await service.ask("GET", "/subscription", user=uuid4(), headers={"If-None-Match": mine})
    assert theirs.status == 200


@pytest.mark.parametrize("given", ["", "x", '"', "W/", '"\u0661"', ","])
async def test_a_tag_that_is_none_is_ignored(service: Service, user: UUID, given: str) -> None:
    answer = await service.ask("GET", "/nodes", user=user, headers={"If-None-Match": given})
    assert answer.status == 200

"""The user's whitelist."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.web.conftest import Answer, Service, Starter


async def listed(service: Service, user: UUID) -> list[tuple[str, Any]]:
    answer = await service.ask("GET", "/nodes", user=user)
    assert answer.status == 200
    assert answer.body["limit"] == 32
    return [(node["node_id"], node["label"]) for node in answer.body["items"]]


async def allowed(service: Service, user: UUID) -> Any:
    return (await service.ask("GET", "/subscription", user=user)).body["allowed_nodes"]


async def test_a_node_is_listed_relabelled_and_removed(service: Service, user: UUID) -> None:
    added = await service.ask("PUT", "/nodes/!A1B2C3D4", user=user, json={"label": "Hütte ⛺"})
    assert added.status == 201
    assert (added.body["node_id"], added.body["label"]) == ("!a1b2c3d4", "Hütte ⛺")
    assert added.body["added_at"].endswith("Z")
    again = await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json={"label": "Home"})
    assert (again.status, again.body) == (200, {**added.body, "label": "Home"})
    assert await listed(service, user) == [("!a1b2c3d4", "Home")]
    removed = await service.ask("DELETE", "/nodes/!a1b2c3D4", user=user)
    assert (removed.status, removed.raw) == (204, b"")
    assert await listed(service, user) == []
    assert (await service.ask("DELETE", "/nodes/!a1b2c3d4", user=user)).status == 204


@pytest.mark.parametrize("body", [None, b"{}", b'{"label": null}'])
async def test_a_label_is_optional(service: Service, user: UUID, body: bytes | None) -> None:
    answer = await service.ask("PUT", "/nodes/!00c0ffee", user=user, data=body)
    assert (answer.status, answer.body["label"]) == (201, None)


async def test_an_encoded_exclamation_mark_is_the_same(service: Service, user: UUID) -> None:
    assert (await service.ask("PUT", "/nodes/%2100c0ffee", user=user)).body["node_id"] == "!00c0ffee"


@pytest.mark.parametrize(
    "node_id",
    [
        "a1b2c3d4",
        "!a1b2c3d",
        "!a1b2c3d45",
        "!a1b2c3dg",
        "^all",
        "!a1b2c3d4%0A",
        "%00",
        "!\u06601b2c3d4",
        "!ffffffff",
        "!FFFFFFFF",
        "!00000000",
        "x" * 4000,
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_what_is_no_node_id_is_refused(service: Service, user: UUID, method: str, node_id: str) -> None:
    is_no_node = node_id.lower() in {"!ffffffff", "!00000000", "^all"}
    answer = await service.ask(method, f"/nodes/{node_id}", user=user)
    assert (answer.status, answer.code, answer.fields) == (422, "invalid_node_id", ["node_id"])
    assert ("not one node" if is_no_node else "!a1b2c3d4") in answer.body["detail"]


@pytest.mark.parametrize("label", ["", "x" * 65, "a\nb", "a\u0000b", "a\u202eb", "\ud800", "\x1b[31m"])
async def test_what_is_no_label_is_refused(service: Service, user: UUID, label: str) -> None:
    answer = await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json={"label": label})
    assert (answer.status, answer.code, answer.fields) == (422, "invalid_label", ["label"])
    assert await listed(service, user) == []


@pytest.mark.parametrize(("body", "status"), [({"label": 5}, 422), ({"name": "x"}, 422), ([], 400)])
async def test_a_body_that_is_not_understood_lists_nothing(
    service: Service, user: UUID, body: Any, status: int
) -> None:
    assert (await service.ask("PUT", "/nodes/!a1b2c3d4", user=user, json=body)).status == status
    assert await listed(service, user) == []


async def test_the_33rd_node_is_refused_until_one_is_removed(service: Service, user: UUID) -> None:
    for number in range(1, 33):
        assert (await service.ask("PUT", f"/nodes/!{number:08x}", user=user)).status == 201
    full = await service.ask("PUT", "/nodes/!fffffffe", user=user)
    assert (full.status, full.code) == (409, "too_many_nodes")
    assert (await service.ask("PUT", "/nodes/!00000001", user=user, json={"label": "x"})).status == 200
    await service.ask("DELETE", "/nodes/!00000002", user=user)
    assert (await service.ask("PUT", "/nodes/!fffffffe", user=user)).status == 201
    assert len(await listed(service, user)) == 32


async def test_a_race_for_the_last_places_never_lists_more(service: Service, user: UUID) -> None:
    for number in range(1, 31):
        await service.ask("PUT", f"/nodes/!{number:08x}", user=user)
    answers = await asyncio.gather(
        *(service.ask("PUT", f"/nodes/!aaaaaa{number:02x}", user=user) for number in range(10))
    )
    assert sorted(answer.status for answer in answers) == [201] * 2 + [409] * 8
    assert len(await listed(service, user)) == 32


async def test_the_same_node_in_parallel_is_listed_once(service: Service, user: UUID) -> None:
    answers = await asyncio.gather(*(service.ask("PUT", "/nodes/!a1b2c3d4", user=user) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len(await listed(service, user)) == 1


async def test_a_list_does_not_become_any_node_by_rotation(start: Starter, user: UUID) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    service = await start(new_nodes_per_day=3, clock=lambda: now)

    async def put(node: str) -> Answer:
        return await service.ask("PUT", f"/nodes/{node}", user=user)

    for number in range(1, 4):
        assert (await put(f"!0000000{number}")).status == 201
        assert (await service.ask("DELETE", f"/nodes/!0000000{number}", user=user)).status == 204
        now += timedelta(hours=1)
    refused = await put("!00000004")
    assert (refused.status, refused.code) == (429, "too_many_new_nodes")
    assert refused.headers["Retry-After"] == str(21 * 3600)
    assert (await put("!00000002")).status == 201, "it was listed today"
    assert (await service.ask("PUT", "/nodes/!00000002", user=user, json={"label": "x"})).status == 200
    assert (await service.ask("PUT", "/nodes/!00000009", user=uuid4())).status == 201
    now += timedelta(hours=21)
    answers = await asyncio.gather(*(put(f"!0000001{number}") for number in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [429] * 7, "one of three is a day old"


async def test_users_have_lists_of_their_own(service: Service, user: UUID) -> None:
    await service.ask("PUT", "/nodes/!a1b2c3d4", user=user)
    other = uuid4()
    await service.ask("DELETE", "/nodes/!a1b2c3d4", user=other)
    assert await listed(service, other) == []
    assert await listed(service, user) == [("!a1b2c3d4", None)]


async def test_the_list_is_in_the_guardians_document_at_once_with_a_new_version(
    service: Service, user: UUID
) -> None:
    await service.ask("PUT", "/nodes/!00000002", user=user)
    await service.subscribe(user, "guardian")
    assert await allowed(service, user) == ["!00000002"]
    before = (await service.ask("GET", "/subscription", user=user)).body["version"]
    await service.ask("PUT", "/nodes/!00000001", user=user)
    document = (await service.ask("GET", "/subscription", user=user)).body
    assert document["allowed_nodes"] == ["!00000001", "!00000002"]
    assert document["version"] > before
    await service.ask("DELETE", "/nodes/!00000002", user=user)
    assert await allowed(service, user) == ["!00000001"]


async def test_saying_the_same_again_changes_no_document(service: Service, user: UUID) -> None:
    await service.subscribe(user, "guardian")
    await service.ask("PUT", "/nodes/!00000001", user=user, json={"label": "a"})
    before = (await service.ask("GET", "/subscription", user=user)).body["version"]
    await service.ask("PUT", "/nodes/!00000001", user=user, json={"label": "a"})
    await service.ask("DELETE", "/nodes/!00000009", user=user)
    assert (await service.ask("GET", "/subscription", user=user)).body["version"] == before


async def test_the_list_gives_nothing_to_other_plans(service: Service, user: UUID) -> None:
    await service.ask("PUT", "/nodes/!00000001", user=user)
    assert await allowed(service, user) == []
    await service.subscribe(user, "wanderer")
    assert await allowed(service, user) == []

"""Statements put together are one: all of them or none, in one round trip."""

from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.store.combining import Statement, combine, joined
from tests.store.conftest import Rows

_LIST = "INSERT INTO whitelisted_nodes VALUES ($1, $2, NULL, now()) RETURNING node_id"
_LABEL = "UPDATE whitelisted_nodes SET label = $2 WHERE user_id = $1"


def test_arguments_are_numbered_through_and_the_rows_are_those_of_the_first() -> None:
    assert joined((_LABEL,)) == _LABEL
    second = _LABEL.replace("$2", "$4").replace("$1", "$3")
    parts = ["WITH part_0 AS", f"({_LIST}),", "part_1 AS", f"({second})", "SELECT * FROM part_0"]
    assert joined((_LIST, _LABEL)) == " ".join(parts)
    assert joined((_LABEL, _LABEL)).endswith(" SELECT")


async def test_all_parts_are_carried_out_and_the_first_answers(rows: Rows, user: UUID) -> None:
    other = uuid4()
    await rows.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!00000001', NULL, now())", other)
    found = await combine(
        rows.connection,
        [None, Statement(_LIST, [user, "!a1b2c3d4"]), None, Statement(_LABEL, [other, "roof"])],
    )
    assert [row["node_id"] for row in found] == ["!a1b2c3d4"]
    labels = await rows.connection.fetch("SELECT user_id, label FROM whitelisted_nodes")
    assert dict(labels) == {user: None, other: "roof"}


async def test_nothing_is_asked_where_there_is_nothing_to_do(rows: Rows) -> None:
    await rows.connection.close()
    assert await combine(rows.connection, [None, None]) == []


async def test_one_part_that_fails_undoes_the_others(rows: Rows, user: UUID) -> None:
    other = uuid4()
    await rows.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!00000001', NULL, now())", other)
    with pytest.raises(asyncpg.CheckViolationError):
        await combine(
            rows.connection, [Statement(_LABEL, [other, "roof"]), Statement(_LIST, [user, "no id"])]
        )
    labels = await rows.connection.fetch("SELECT user_id, label FROM whitelisted_nodes")
    assert dict(labels) == {other: None}

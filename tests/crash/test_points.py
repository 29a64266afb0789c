"""No effect goes unnoticed: each is a point that a path passes, or has a reason why none has to."""

import pytest

from tests.crash.points import (
    UNPASSED,
    every_publication,
    every_table,
    every_write,
    is_excused,
    load_table,
    written,
    written_to,
)

POINTS = load_table()


EFFECTS = every_write() | every_publication()


def test_every_write_and_publication_is_a_point_or_excused() -> None:
    """Seen to fail with one more ``UPDATE`` in the store."""
    unknown = {effect for effect in EFFECTS if effect not in POINTS and not is_excused(effect)}
    assert not unknown, "no path has these; extend paths.py and record, or say in points.py why not"


def test_every_table_is_written_on_a_path_or_excused() -> None:
    """Whatever builds the statement."""
    unknown = every_table() - {written_to(point) for point in POINTS} - UNPASSED.keys()
    assert not unknown, "no path writes these; extend paths.py and record, or say in points.py why not"


@pytest.mark.parametrize("excused", UNPASSED)
def test_an_excuse_is_needed(excused: str) -> None:
    assert any(excused in (effect, written_to(effect)) for effect in EFFECTS), "nothing does so any more"
    assert not any(is_excused(point) for point in POINTS), "this is passed, so it can be crashed at"


def test_of_a_statement_only_what_it_writes_is_a_point() -> None:
    assert written("SELECT id FROM invoices WHERE user_id = $1 FOR UPDATE SKIP LOCKED") == []
    changes = "WITH part_0 AS (UPDATE a SET b = 1), part_1 AS (DELETE FROM c)"
    upsert = "INSERT INTO d VALUES (1) ON CONFLICT (e) DO UPDATE SET f = 1"
    assert written(f"{changes} {upsert}") == ["update a", "delete c", "insert d"]

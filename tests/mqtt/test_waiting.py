"""Who is due when: rights at once, use once a second, what was refused later; nobody is forgotten."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.mqtt.refusals import REFUSED_WAIT
from kosmo_billing_daemon.mqtt.waiting import COALESCE, NEVER, WaitingUsers
from kosmo_billing_daemon.store.outbox import Kind, OutboxEntry


def entry(kind: Kind, *users: UUID) -> OutboxEntry:
    return OutboxEntry(1, kind, {*users}, len(users))


@pytest.fixture
def user() -> UUID:
    return uuid4()


@pytest.fixture
def waiting() -> WaitingUsers:
    return WaitingUsers()


@pytest.mark.parametrize(
    ("kind", "at"), [(Kind.RIGHTS, 10.5), (Kind.REPEAT, 10.5), (Kind.USAGE, 10 + COALESCE)]
)
def test_only_a_change_of_use_waits_for_its_second(
    waiting: WaitingUsers, user: UUID, kind: Kind, at: float
) -> None:
    waiting.sent[user] = 10.0
    waiting.queue([entry(kind, user)], 10.5)
    assert waiting.next_at() == at


def test_one_publication_answers_all_rows_of_a_user(waiting: WaitingUsers, user: UUID) -> None:
    waiting.sent[user] = 10.0
    rows = [entry(Kind.USAGE, user), entry(Kind.USAGE, user), entry(Kind.RIGHTS, user)]
    waiting.queue(rows, 10.5)
    assert waiting.due(10.5, 5) == [user]
    assert waiting.take(user) == rows
    assert (len(waiting), waiting.next_at()) == (0, NEVER)


def test_what_was_refused_waits_whatever_else_changes(waiting: WaitingUsers, user: UUID) -> None:
    refused = entry(Kind.RIGHTS, user)
    waiting.refuse(user, [refused], 10.0)
    waiting.queue([entry(Kind.RIGHTS, user)], 10.5)
    assert waiting.next_at() == 10.0 + REFUSED_WAIT
    assert waiting.due(13.5, 5) == [user]
    assert refused in waiting.take(user)


def test_who_was_due_while_in_flight_is_passed_over_and_not_forgotten(
    waiting: WaitingUsers, user: UUID
) -> None:
    waiting.queue([entry(Kind.RIGHTS, user)], 10.0)
    assert waiting.due(10.0, 5) == [user]
    assert waiting.is_passed_over(user)
    assert waiting.next_at() == NEVER
    waiting.add(user, (), 11.0)
    assert not waiting.is_passed_over(user)
    assert waiting.due(11.0, 5) == [user]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=40), st.integers(1, 4))
def test_everybody_is_due_once_in_order(added: list[tuple[int, int]], most: int) -> None:
    waiting = WaitingUsers()
    earliest: dict[UUID, int] = {}
    for number, at in added:
        user = UUID(int=number)
        waiting.add(user, (), at)
        earliest[user] = min(at, earliest.get(user, at))
    found: list[UUID] = []
    while users := waiting.due(20, most):
        assert len(users) <= most
        found += users
    assert sorted(found) == sorted(earliest)
    assert [earliest[user] for user in found] == sorted(earliest.values())

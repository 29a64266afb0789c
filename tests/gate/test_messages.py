"""What is a message: ``check`` and ``record`` take the same and refuse the same."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.domain import metering
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.messages import ACCEPTED_LATE
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE

NOBODY = Broker(host="127.0.0.1", port=9, client_id="g")  # nobody listens there
ANYWHERE, LISTED = uuid4(), uuid4()  # users


def prepare(path: Path) -> None:
    state, now = StateFile(path), datetime.now(UTC).timestamp()
    plans = ((ANYWHERE, None), (LISTED, frozenset({NODE})))
    with state.transaction():
        state.save_documents(
            (user.int, UserEntry(1, None, nodes, 50, 0, uuid4().int, now - 600, now + 1e6))
            for user, nodes in plans
        )
        state.save_fact("complete", 1.0)
    state.close()


def refused(call: Any, *arguments: Any, **named: Any) -> str | None:
    """The field that is refused."""
    try:
        call(*arguments, **named)
    except Invalid as error:
        return error.field
    return None


NODES_TAKEN = (NODE, NODE.upper(), "^local", "LongFast", "ü" * 128)
NODES_REFUSED: tuple[Any, ...] = (
    None, "", 2712847316, True, 1.5, [], b"!a1b2c3d4", "a1b2c3d4", "0xa1b2c3d4", "2712847316", "!a1b2c3d",
    "!a1b2c3d4 ", "!a1b2c3d45", "x" * 129, "İ" * 128, "a\0", "\ud800",
    "!ffffffff", "!FFFFFFFF", "!00000000", "^all", "^ALL",
)  # fmt: skip
USERS_REFUSED: tuple[Any, ...] = (
    None,
    "",
    "5",
    5,
    1.0,
    True,
    [],
    b"1" * 32,
    "nobody",
    str(ANYWHERE) + "0",
    "x" * 36,
)
COUNTS_REFUSED: tuple[Any, ...] = (0, -1, -5, True, False, 1.0, 2.5, "1", None, 1_000_001)


async def test_check_hold_and_record_take_the_same_and_refuse_the_same(state: Path) -> None:
    prepare(state)
    async with Gate(NOBODY, state, reporter="g") as edge:
        for user in (ANYWHERE, LISTED):
            for node in NODES_TAKEN:
                assert refused(edge.check, user, node) is refused(edge.record, user, node) is None, node
            for _ in range(2):  # the second time from memory, where 1 and True are one
                for wrong in NODES_REFUSED:
                    assert refused(edge.check, user, wrong) == "node_id", wrong
                    assert refused(edge.record, user, wrong) == "node_id", wrong
                    assert refused(edge.hold, user, wrong) == "node_id", wrong
            for count in COUNTS_REFUSED:
                assert refused(edge.check, user, NODE, count=count) == "count", count
                assert refused(edge.record, user, NODE, count=count) == "count", count
                assert refused(edge.hold, user, NODE, count=count) == "count", count
        for nobody in USERS_REFUSED:
            assert refused(edge.check, nobody, NODE) == "user_id", nobody
            assert refused(edge.record, nobody, NODE) == "user_id", nobody
            assert refused(edge.hold, nobody, NODE) == "user_id", nobody
        for wrong in ("x" * 129, "", "\udcff", "a\0b", 5):
            assert refused(edge.record, ANYWHERE, NODE, wrong) == "message_id", wrong
            assert refused(edge.hold, ANYWHERE, NODE, wrong) == "message_id", wrong
        assert edge.status.unacknowledged == 2 * len(NODES_TAKEN)
        assert edge.check(ANYWHERE, NODE).remaining == 50 - len(NODES_TAKEN)


async def test_a_user_and_a_node_are_the_same_in_every_spelling(state: Path) -> None:
    prepare(state)
    async with Gate(NOBODY, state, reporter="g") as edge:
        text = str(LISTED)
        for name in (LISTED, text, text.upper(), LISTED.hex, f"{{{text}}}", LISTED.urn):
            before = edge.check(name, NODE).remaining
            assert before is not None
            edge.record(name, NODE.upper())
            assert edge.check(name, NODE.upper()).remaining == before - 1
        assert edge.check(LISTED, NODE).remaining == 44
        assert edge.check(LISTED, "LongFast").reason is Reason.NODE_NOT_ALLOWED
        assert edge.check(UUID(int=5), NODE).reason is Reason.UNKNOWN_USER


async def test_a_time_that_is_naive_or_absurd_is_refused_and_the_gate_starts_again(state: Path) -> None:
    prepare(state)
    now = datetime.now(UTC)
    absurd: tuple[Any, ...] = (
        now.replace(tzinfo=None),
        datetime(1970, 1, 1),  # noqa: DTZ001  what must be refused
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-12))),
        now - timedelta(days=7, minutes=1),
        now + timedelta(days=1, minutes=1),
        now.timestamp(),
        now.isoformat(),
        now.date(),
    )
    async with Gate(NOBODY, state, reporter="g") as edge:
        for sent_at in absurd:
            assert refused(edge.record, ANYWHERE, NODE, sent_at=sent_at) == "sent_at", sent_at
        assert edge.check(ANYWHERE, NODE).remaining == 50
        edge.record(ANYWHERE, NODE, sent_at=now.astimezone(timezone(timedelta(hours=5))))
        edge.record(ANYWHERE, NODE, sent_at=now + timedelta(hours=1))
        edge.record(ANYWHERE, NODE, sent_at=now - timedelta(days=6))  # on the plan before
        assert edge.check(ANYWHERE, NODE).remaining == 48
    async with Gate(NOBODY, state, reporter="g") as edge:
        assert edge.status.unacknowledged == 3
        assert edge.check(ANYWHERE, NODE).remaining == 48


async def test_a_clock_before_1970_keeps_no_gate_from_starting(state: Path) -> None:
    prepare(state)

    def before_the_epoch() -> datetime:
        return datetime(1969, 12, 31, tzinfo=UTC)

    for turn in range(2):
        async with Gate(NOBODY, state, reporter="g", clock=before_the_epoch) as edge:
            assert edge.status.unacknowledged == turn
            edge.record(uuid4(), NODE)


def test_the_gate_takes_times_as_old_as_the_daemon_counts() -> None:
    assert ACCEPTED_LATE == metering.ACCEPTED_LATE


async def test_a_gate_without_a_file_decides_and_counts_and_forgets() -> None:
    async with Gate(NOBODY, None, reporter="g") as edge:
        edge.record(ANYWHERE, NODE)
        assert edge.status.unacknowledged == 1
        with pytest.raises(Exception, match="no state file"):
            await edge.durable()
        assert edge.check(ANYWHERE, NODE).reason is Reason.UNKNOWN_USER
    async with Gate(NOBODY, None, reporter="g") as edge:
        assert edge.status.unacknowledged == 0

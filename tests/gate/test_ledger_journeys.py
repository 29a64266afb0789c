"""Whatever comes in whatever order, a gate never takes fewer messages for used than it knows of."""

import random
from collections import deque
from pathlib import Path

import pytest

from kosmo_billing_daemon.gate.ledger import SETTLED
from kosmo_billing_daemon.gate.rows import Row
from tests.gate.test_ledger import USER, Book

STEPS = 150


class World:
    """One user, one gate, and a daemon whose acknowledgements and documents travel in order."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path = path
        self.chance = chance
        self.book = Book(path)
        self.book.document(used=0)
        self.recorded = 0
        self.others = 0
        self.committed: set[str] = set()
        self.reports: deque[list[Row]] = deque()
        self.road: deque[list[Row] | int] = deque()  # to the gate: acknowledged rows, or a document's use
        self.read: int | None = None  # a document's use, read and not sent yet
        self.now = 0.0

    @property
    def used(self) -> int:
        return len(self.committed) + self.others

    def record(self) -> None:
        number = self.chance.randrange(1, 4)
        self.book.record(number)
        self.recorded += number

    def hold(self) -> None:
        self.book.hold()
        self.recorded += 1

    def resolve(self) -> None:
        if held := list(self.book.ledger.held.values()):
            row = self.chance.choice(held)
            if self.chance.random() < 0.3:
                assert self.book.ledger.release(row)
                self.recorded -= 1
            else:
                self.book.ledger.commit(row)

    def send(self) -> None:
        if rows := self.book.send():
            self.reports.append(rows)

    def commit(self) -> None:
        if self.reports:
            rows = self.reports.popleft()
            self.committed |= {row.message_id for row in rows}
            self.road.append(rows)

    def read_document(self) -> None:
        if self.read is None:
            self.read = self.used

    def send_document(self) -> None:
        if self.read is not None:
            self.road.append(self.read)
            self.read = None

    def arrive(self) -> None:
        if self.road:
            what = self.road.popleft()
            if isinstance(what, int):
                self.book.document(used=what)
            else:
                self.book.acknowledge(what, at=self.now)

    def reconnect(self) -> None:
        """What was on the road is lost; the newest document is read again."""
        self.road.clear()
        self.reports.clear()
        self.book.ledger.landed()
        self.read = None
        self.road.append(self.used)

    def restart(self) -> None:
        number = self.book._number
        self.book.state.close()
        self.book = Book(self.path)
        self.book._number = number
        self.reconnect()

    def come_to_rest(self) -> None:
        while self.book.ledger.held:
            self.resolve()
        self.reconnect()
        self.arrive()
        self.send()
        self.commit()
        self.read_document()
        self.send_document()
        self.arrive()
        self.arrive()
        self.book.ledger.settle(self.now + SETTLED, steady_since=self.now)


@pytest.mark.parametrize("seed", range(25))
def test_alone_a_gate_never_undercounts_and_is_exact_at_rest(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    world = World(tmp_path / "gate.db", chance)
    steps = [
        world.record,
        world.hold,
        world.resolve,
        world.send,
        world.commit,
        world.read_document,
        world.send_document,
        world.arrive,
        world.arrive,
    ]
    for _ in range(STEPS):
        chance.choice([*steps, *steps, world.reconnect, world.restart])()
        assert world.book.used >= world.recorded
    world.come_to_rest()
    assert world.book.used == world.recorded == world.used
    world.book.state.close()


@pytest.mark.parametrize("seed", range(25))
def test_among_others_a_gate_is_short_by_no_more_than_the_others_added(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    world = World(tmp_path / "gate.db", chance)

    def others() -> None:
        world.others += 1

    steps = [
        world.record,
        world.hold,
        world.resolve,
        world.send,
        world.commit,
        world.read_document,
        world.send_document,
        world.arrive,
        world.arrive,
        others,
    ]
    for _ in range(STEPS):
        chance.choice([*steps, *steps, world.reconnect, world.restart])()
        assert world.book.used >= world.recorded
        assert world.book.used >= world.book.entries[USER.int].used + world.book.journal.waiting_rows
    world.come_to_rest()
    assert world.book.used == world.used == world.recorded + world.others
    world.book.state.close()

"""Items that arrive while a batch is being written are the next batch."""

import asyncio
from collections.abc import Sequence

import pytest

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.batcher import Batcher, hurries


class Writer:
    """Writes when let; answers each number with its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.allowed.wait()
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        return [item * 2 for item in items]


@pytest.fixture
def writer() -> Writer:
    return Writer()


async def begun(writer: Writer) -> None:
    for _ in range(1000):
        if writer.batches:
            return
        await asyncio.sleep(0)
    pytest.fail("nothing is being written")


async def test_lone_item_is_written_at_once(writer: Writer) -> None:
    assert await Batcher(writer).submit(4) == 8
    assert writer.batches == [[4]]


async def test_one_caller_may_submit_again_as_soon_as_it_is_answered(writer: Writer) -> None:
    """The writer is about to end then, and must not be taken for one that goes on."""
    batches = Batcher(writer)
    async with asyncio.timeout(5):
        assert [await batches.submit(number) for number in range(100)] == [
            2 * number for number in range(100)
        ]


async def test_what_arrives_meanwhile_is_the_next_batch(writer: Writer) -> None:
    batches = Batcher(writer)
    writer.allowed.clear()
    first = asyncio.create_task(batches.submit(0))
    await begun(writer)
    rest = [asyncio.create_task(batches.submit(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    writer.allowed.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert writer.batches == [[0], [1, 2, 3, 4, 5]]


async def test_what_arrives_in_the_same_moment_is_one_batch(writer: Writer) -> None:
    batches = Batcher(writer, turns=5)
    arriving = []
    for number in range(20):
        arriving.append(asyncio.create_task(batches.submit(number)))
        for _ in range(3):
            await asyncio.sleep(0)
    await asyncio.gather(*arriving)
    assert writer.batches == [list(range(20))]
    assert await batches.submit(7) == 14, "one that is alone waits for nobody"


async def test_batches_have_a_greatest_size_and_are_written_one_by_one(writer: Writer) -> None:
    batches = Batcher(writer, most=3)
    assert await asyncio.gather(*(batches.submit(n) for n in range(8))) == [2 * n for n in range(8)]
    assert [len(batch) for batch in writer.batches] == [3, 3, 2]
    assert writer.most_at_once == 1


async def test_error_reaches_every_item_of_its_batch_and_no_other(writer: Writer) -> None:
    batches = Batcher(writer)
    writer.error = Unavailable("the database is away")
    answers = await asyncio.gather(*(batches.submit(n) for n in range(3)), return_exceptions=True)
    assert answers == [writer.error] * 3
    writer.error = None
    assert await batches.submit(5) == 10


async def test_item_that_cannot_be_written_fails_alone() -> None:
    written: list[list[int]] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise ValueError("2 cannot be written")
        written.append(list(items))
        return items

    batches = Batcher(write)
    answers = await asyncio.gather(*(batches.submit(n) for n in range(4)), return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0, 1, 3]
    assert isinstance(answers[2], ValueError)
    assert written == [[0, 1], [3]]


async def test_writer_cancelled_while_it_writes_alone_leaves_nobody_waiting() -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        if len(items) > 1:
            raise ValueError("not together")
        begun.set()
        await never.wait()
        return items

    batches = Batcher(write)
    waiting = [asyncio.create_task(batches.submit(number)) for number in range(3)]
    await begun.wait()
    assert batches._writer is not None
    batches._writer.cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)


async def test_caller_who_leaves_disturbs_nobody(writer: Writer) -> None:
    batches = Batcher(writer)
    writer.allowed.clear()
    leaving, staying = asyncio.create_task(batches.submit(1)), asyncio.create_task(batches.submit(2))
    await begun(writer)
    leaving.cancel()
    writer.allowed.set()
    assert await staying == 4
    assert await batches.submit(3) == 6


async def test_too_many_waiting_are_refused(writer: Writer) -> None:
    batches = Batcher(writer, waiting=2)
    writer.allowed.clear()
    first = asyncio.create_task(batches.submit(0))
    await begun(writer)
    waiting = [asyncio.create_task(batches.submit(number)) for number in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await batches.submit(3)
    assert refused.value.code == "overloaded"
    writer.allowed.set()
    assert await asyncio.gather(first, *waiting) == [0, 2, 4]


async def test_cancelled_writer_leaves_nobody_waiting(writer: Writer) -> None:
    batches = Batcher(writer)
    writer.allowed.clear()
    waiting = [asyncio.create_task(batches.submit(number)) for number in range(3)]
    await begun(writer)
    late = asyncio.create_task(batches.submit(9))
    await asyncio.sleep(0)
    assert batches._writer is not None
    batches._writer.cancel()
    answers = await asyncio.gather(*waiting, late, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)


async def test_writer_that_answers_too_few_is_a_bug_that_everybody_hears_of() -> None:
    async def forgetful(items: Sequence[int]) -> Sequence[int]:
        return items[:-1]

    batches = Batcher(forgetful)
    answers = await asyncio.gather(batches.submit(1), batches.submit(2), return_exceptions=True)
    assert all(isinstance(answer, ValueError) for answer in answers)


async def test_only_who_looks_for_something_stuck_is_in_a_hurry() -> None:
    """The task that writes is begun by one of them and goes on with the items of the others."""
    seen: list[tuple[int, bool]] = []
    allowed = asyncio.Event()

    async def write(items: Sequence[int]) -> Sequence[int]:
        seen.extend((item, hurries.get()) for item in items)
        await allowed.wait()
        return items

    batches = Batcher(write, most=1)
    mine: list[asyncio.Task[int]] = []
    for number, in_a_hurry in enumerate([True, False, True]):
        token = hurries.set(in_a_hurry)
        mine.append(asyncio.create_task(batches.submit(number)))
        hurries.reset(token)
    await asyncio.sleep(0)
    allowed.set()
    await asyncio.gather(*mine)
    assert seen == [(0, True), (1, False), (2, True)]

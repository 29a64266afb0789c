"""Everybody's document at once holds no purchase up."""

from uuid import uuid4

import pytest

from tests.support.observer import TOPICS
from tests.support.world import World, grant, until

ENTITLEMENTS = f"{TOPICS.prefix}/entitlements/"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_a_change_of_rights_overtakes_republished_documents(world: World, count: int) -> None:
    await world.daemon()
    users = [uuid4() for _ in range(count)]
    await grant(world, users)
    took = await until(lambda: len(world.observer.documents) == count, "the documents", 60)
    print(f"\nfirst publication: {count / took:.0f} documents/s")
    await until(lambda: world.observer.watermark["entitlements"] == count, "the watermark", 30)
    begin = len(world.observer.messages)
    await world.execute("SELECT repeat_documents(array_agg(user_id)) FROM entitlements")
    await world.execute("SELECT pg_notify('kosmo_billing', 'entitlements')")
    await until(lambda: len(world.observer.messages) > begin, "the first of them")
    waits = []
    for _ in range(4):
        fresh = uuid4()
        await grant(world, [fresh])
        waits.append(await world.until_published(fresh))
    repeated = sum(message.topic.startswith(ENTITLEMENTS) for message in world.observer.messages[begin:])
    assert repeated < count, "the purchases came after everybody's documents"
    await until(lambda: len(world.observer.messages) - begin >= count, "all of them", 60)
    print(f"commit to document meanwhile: {', '.join(f'{wait * 1000:.0f}' for wait in waits)} ms")
    assert min(waits) < 0.3  # 40 to 80 ms on two quiet cores, which the observer shares

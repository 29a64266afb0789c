"""Reading every retained document from a broker with default limits, which drops what exceeds its queue in
silence.

Mosquitto queues 1,000 messages per client beyond those in flight, so one subscription to everything is cut
short. The shards are subscribed one group after another instead, each group as large as surely fits the
queue, and each only when the one before is through. MQTT has no sign for that, so the retained watermark is
subscribed again at the end of each group: it is sent again, behind the group's documents.
"""

import asyncio
from collections.abc import Sequence

from kosmo_billing_daemon.contract.topics import SHARDS, Topics
from kosmo_billing_daemon.link import Link

FITTING = 300  # expected documents in a group: shards differ, and live changes arrive meanwhile
MOST_SHARDS = 64  # in one packet
UNCOUNTED_SHARDS = 16  # in a group when no watermark tells how many documents there are
PATIENCE = 20.0  # seconds of silence after which a group's watermark must have been dropped
FIRST_PATIENCE = 2.0  # the same for the first look at the watermark: no daemon ever ran
UNMARKED_PATIENCE = 0.5  # and for a group when there is no watermark at all


class ShardReader:
    """``start`` once per connection, then ``read``; who listens tells it what arrives."""

    def __init__(self, topics: Topics, first: Sequence[str]) -> None:
        self._topics = topics
        self._first = tuple(first)
        self._marker = asyncio.Event()
        self._heard = 0.0

    def message(self) -> None:
        """Note that something arrived: the group under way is not through."""
        self._heard = asyncio.get_running_loop().time()

    def marker(self) -> None:
        """Note that the retained watermark arrived."""
        self._marker.set()

    async def start(self, link: Link) -> bool:
        """Subscribe to the first filters and the watermark; false when there is no watermark."""
        return await self._group(link, self._first, FIRST_PATIENCE)

    async def read(self, link: Link, documents: int | None) -> bool:
        """Read all shards, knowing how many documents exist; false when a group may be cut short.

        Changes that come later, or meanwhile, arrive live.
        """
        if documents is None:
            size, patience = UNCOUNTED_SHARDS, UNMARKED_PATIENCE
        else:
            size = min(MOST_SHARDS, max(1, FITTING * len(SHARDS) // max(documents, 1)))
            patience = PATIENCE
        whole = True
        for first in range(0, len(SHARDS), size):
            group = SHARDS[first : first + size]
            whole &= await self._group(link, [self._topics.shard_filter(shard) for shard in group], patience)
        return whole

    async def _group(self, link: Link, filters: Sequence[str], patience: float) -> bool:
        self._marker.clear()
        await link.subscribe([*filters, self._topics.watermark])
        self.message()
        loop = asyncio.get_running_loop()
        while not self._marker.is_set():
            try:
                async with asyncio.timeout_at(self._heard + patience):
                    await self._marker.wait()
            except TimeoutError:
                if loop.time() >= self._heard + patience:
                    return False
        return True

"""Whether all events were heard: marked as published means that the broker had it, and passed it on."""

import json
from dataclasses import dataclass, field

from tests.support.observer import TOPICS
from tests.support.world import World, until


@dataclass
class HeardEvents:
    """What an observer heard. What a broker forgets on its way is lost: no event is ever needed."""

    world: World
    heard: int = 0  # events that were listened for
    _ids: set[int] = field(default_factory=set)
    _read: int = 0
    _up_to: int = 0

    async def listen(self, *, may_miss: bool) -> None:
        """At rest, wait until everything new was heard."""
        async with self.world.sql() as connection:
            rows = await connection.fetch("SELECT id, type FROM events WHERE id > $1", self._up_to)
        new = {row["id"]: row["type"] for row in rows}
        if not may_miss:
            await until(lambda: self._missing(new) == {}, lambda: f"not heard: {self._missing(new)}")
            self.heard += len(new)
        self._up_to = max(new, default=self._up_to)

    def _missing(self, sent: dict[int, str]) -> dict[int, str]:
        messages = self.world.observer.messages
        for message in messages[self._read :]:
            if message.topic.startswith(TOPICS.event("")):
                number = json.loads(message.payload)["id"].rpartition("/")[2].partition("-")[0]
                self._ids.add(int(number))
        self._read = len(messages)
        return {number: kind for number, kind in sent.items() if number not in self._ids}

"""Publications on their way over one link: each is told once how it ended, by the broker or with the link."""

from collections.abc import Callable

from kosmo_billing_daemon.link.errors import LinkLost, PublishRefused
from kosmo_billing_daemon.link.packets import reason

Told = Callable[[Exception | None], None]
"""Called with the broker's answer: nothing for yes, ``PublishRefused``, or ``LinkLost`` if none came."""


class Outbox:
    """What was sent with QoS 1 and not answered. ``next_id`` gives packet ids in turn."""

    def __init__(self, next_id: Callable[[], int], clock: Callable[[], float]) -> None:
        self._next_id = next_id
        self._clock = clock
        self._waiting: dict[int, tuple[str, Told, float]] = {}

    @property
    def oldest_since(self) -> float | None:
        """When the oldest one was sent."""
        for _, _, since in self._waiting.values():
            return since
        return None

    def free_id(self) -> int:
        """One number sequence with paho's subscriptions, as MQTT asks, passing over those still in use."""
        while (packet_id := self._next_id()) in self._waiting:
            if len(self._waiting) >= 65_535:
                raise RuntimeError("65535 publications are in flight")
        return packet_id

    def add(self, packet_id: int, topic: str, told: Told) -> None:
        self._waiting[packet_id] = topic, told, self._clock()

    def answered(self, packet_id: int, code: int) -> None:
        """Pass on an acknowledgement; one for nothing of ours says nothing."""
        waiting = self._waiting.pop(packet_id, None)
        if waiting is None:
            return
        topic, told, _ = waiting
        told(PublishRefused(topic, code, reason(code)) if code >= 0x80 else None)

    def lose(self, why: str) -> None:
        """Tell everybody that no answer will come."""
        waiting, self._waiting = self._waiting, {}
        for _, told, _ in waiting.values():
            told(LinkLost(why))

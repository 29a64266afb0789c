"""What has come over one link, and what of it the caller still owes an acknowledgement."""

from collections import deque

from kosmo_billing_daemon.link.broker import Message


class Inbox:
    """Messages in order of arrival; acknowledgements leave in that order, whatever order they are given in.

    A packet id is free for another message as soon as its acknowledgement has left, so one given twice, or on
    another link, could acknowledge a message nobody has stored: both are errors.
    """

    def __init__(self) -> None:
        self.origin = object()  # marks the messages of this link
        self._waiting: deque[Message] = deque()
        self._owed: deque[Message] = deque()
        self._by_mid: dict[int, Message] = {}
        self._given: set[int] = set()  # acknowledged by the caller, held back by one before

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message) -> None:
        """Append a message; ``ValueError`` when its packet id is still in use."""
        if message.qos:
            if message.mid in self._by_mid:
                raise ValueError(f"packet id {message.mid} used twice")
            self._owed.append(message)
            self._by_mid[message.mid] = message
        self._waiting.append(message)

    def take(self, limit: int) -> list[Message]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def acknowledge(self, message: Message) -> list[Message]:
        """Note one acknowledgement; returns the messages whose turn it is now to be acknowledged."""
        if self._by_mid.get(message.mid) is not message or message.mid in self._given:
            raise ValueError("the message was already acknowledged")
        self._given.add(message.mid)
        leaving: list[Message] = []
        while self._owed and self._owed[0].mid in self._given:
            head = self._owed.popleft()
            self._given.remove(head.mid)
            del self._by_mid[head.mid]
            leaving.append(head)
        return leaving

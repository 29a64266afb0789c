"""What has come over one link, and what of it the caller still owes an acknowledgement."""

from collections import deque

from kosmo_billing_daemon.link.broker import Message


class ReceivedMessages:
    """Messages in order of arrival; acknowledgements leave in that order, whatever order they are given in.

    A packet id is free for another message as soon as its acknowledgement has left, so one given twice, or on
    another link, could acknowledge a message nobody has stored: both are errors.

    Of what was taken no payload is kept, so a caller may drop a message that it will not acknowledge; that
    one comes again over the next link.
    """

    def __init__(self) -> None:
        self.origin = object()  # marks the messages of this link
        self._waiting: deque[Message] = deque()
        self._owed: deque[int] = deque()  # packet ids
        self._by_mid: dict[
            int, int
        ] = {}  # packet id -> id() of its message, by which a caller's own is known
        self._given: set[int] = set()  # acknowledged by the caller, held back by one before

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message) -> None:
        """Append a message; ``ValueError`` when its packet id is still in use."""
        if message.qos:
            if message.mid in self._by_mid:
                raise ValueError(f"packet id {message.mid} used twice")
            self._owed.append(message.mid)
            self._by_mid[message.mid] = id(message)
        self._waiting.append(message)

    def take(self, limit: int) -> list[Message]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def acknowledge(self, message: Message) -> list[int]:
        """Note one acknowledgement; returns the packet ids whose turn it is now to be acknowledged."""
        if self._by_mid.get(message.mid) != id(message) or message.mid in self._given:
            raise ValueError("the message was already acknowledged")
        self._given.add(message.mid)
        leaving: list[int] = []
        while self._owed and self._owed[0] in self._given:
            mid = self._owed.popleft()
            self._given.remove(mid)
            del self._by_mid[mid]
            leaving.append(mid)
        return leaving

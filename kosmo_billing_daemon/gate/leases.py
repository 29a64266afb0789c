"""Leases of a strict gate: it lets a message through only by one that it holds, so that any number of such
gates never exceeds a limit together, also while they are cut off.

A lease is written down before the first message passes by it, and so is the question that it answers: after a
restart the same question gets the same lease. What a lease let through is the sum of its messages in the
journal. The gate asks ahead, for about as much as it used lately, and hands back what nobody used for a
while.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.gate.decisions import NO_LEASE, Decision, Reason, UserEntry, allowed
from kosmo_billing_daemon.gate.lease_rows import LeaseRow, LeaseRows, QuestionRow
from kosmo_billing_daemon.link import Link, PublishRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

LEAST, MOST = 16, 500  # messages asked for at once
AHEAD = 20.0  # seconds for which a lease shall last, by what was used lately
IDLE = 30.0  # seconds without use until a lease is handed back
MARGIN = 5.0  # seconds before its end that a lease is used no more
STRAY = (
    60.0  # seconds that a lease of another subscription than the document's is kept: either may come first
)
REPEAT = 2.0  # seconds until a question is asked again
REFUSED_PAUSE = 30.0  # after a publication that the broker's rights forbid
PAUSES = {LeaseRefusal.LEASED_ELSEWHERE: 0.5}  # seconds until the user's next question after a refusal
LONG_PAUSE = 5.0
MOST_UNANSWERED = 30.0  # seconds without an answer until it is a problem


@dataclass(slots=True)
class OwnLease:
    """A lease in use; times by the clock that cannot be set, but for ``expires_at``."""

    row: LeaseRow
    used: int
    granted: float
    touched: float

    @property
    def left(self) -> int:
        return self.row.messages - self.used


@dataclass(slots=True)
class OpenRequest:
    """A question on its way; ``first`` is when it was asked first."""

    row: QuestionRow
    first: float
    sent: float | None = None


class LeaseBook:
    """The leases of one gate. One ``run`` per connection; the rest is called on the gate's loop, but for
    ``decide``.
    """

    def __init__(
        self,
        rows: LeaseRows,
        entries: dict[int, UserEntry],
        topics: Topics,
        reporter: str,
        *,
        now: Callable[[], float],
        elapsed: Callable[[], float],
    ) -> None:
        self.answers = topics.lease_grant(reporter)
        self.refusal: str | None = None
        self._topic = topics.lease(reporter)
        self._rows = rows
        self._entries = entries
        self._now = now
        self._elapsed = elapsed
        at, used = elapsed(), rows.used()
        self._leases: dict[int, tuple[OwnLease, ...]] = {}  # replaced and never changed: other threads read
        for row in rows.leases():
            self._add(OwnLease(row, used.get(row.lease, 0), at, at))
        self._questions: dict[int, list[OpenRequest]] = {}
        for asked in rows.questions():
            self._questions.setdefault(asked.user, []).append(OpenRequest(asked, at))
        self._openings = rows.open(uuid4().hex)
        self._is_copied = False  # another gate goes on with a copy of this file
        self._not_before: dict[int, float] = {}  # the user's next question, after a refusal
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._throttle = LogThrottle()

    @property
    def left(self) -> int:
        """How many messages all leases have left."""
        return sum(lease.left for lease in self._all())

    def decide(self, user: int, entry: UserEntry, count: int, decision: Decision, now: float) -> Decision:
        """Turn the answer of a document into that of a strict gate; only reads."""
        if decision.remaining is None or decision.reason not in (Reason.OK, Reason.QUOTA_EXHAUSTED):
            return decision
        usable = [lease.left for lease in self._usable(user, entry, now)]
        if usable and max(usable) >= count:
            return allowed(sum(usable))
        return decision if decision.reason is Reason.QUOTA_EXHAUSTED else NO_LEASE

    def take(self, user: int, entry: UserEntry | None, count: int, now: float) -> bytes | None:
        """Let ``count`` messages pass by a lease and return which, the oldest that has room; ask ahead."""
        if entry is None or entry.limit is None:
            return None
        found = None
        left = 0
        for lease in self._usable(user, entry, now):
            if found is None and lease.left >= count:
                found = lease
                lease.used += count
                lease.touched = self._elapsed()
            left += lease.left
        if found is None or left <= found.row.messages // 2:
            self._ask(user, found, count)
        return None if found is None else found.row.lease

    def give_back(self, user: int, lease: bytes | None, count: int) -> None:
        """Undo ``take``: the message did not pass."""
        for one in self._leases.get(user, ()):
            if one.row.lease == lease:
                one.used -= count

    async def available(self, user: int) -> None:
        """Wait until a lease of this user has a message left, or none would help."""
        while True:
            self._changed.clear()
            entry, now = self._entries.get(user), self._now()
            if entry is not None:
                if any(lease.left > 0 for lease in self._usable(user, entry, now)):
                    return
                if entry.limit is None or entry.refusal is not None or now >= entry.ends:
                    return
                if entry.used + entry.own >= entry.limit:
                    return
            self._ask(user, None, 1)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):  # documents come without a sign, and pauses end
                    await self._changed.wait()

    async def run(self, link: Link) -> None:
        """Ask until the link is lost; what has no answer is asked again."""
        for question in self._asked():
            question.sent = None
        while True:
            self._wake.clear()
            at = self._elapsed()
            try:
                for question in list(self._asked()):
                    if question.sent is None or at - question.sent >= REPEAT:
                        question.sent = at
                        request = _request(question.row, self._openings)
                        await link.publish(self._topic, request.encode())
                self.refusal = None
            except PublishRefused as error:
                self.refusal = f"no leases can be asked for: {error}"
                await asyncio.sleep(REFUSED_PAUSE)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(REPEAT if self._questions else None):
                    await self._wake.wait()

    def receive(self, answer: LeaseAnswer) -> None:
        """Write an answer down and use it; one to a question nobody remembers changes nothing."""
        user = answer.user_id.int
        asked = self._questions.get(user, [])
        question = next((one for one in asked if one.row.request_id == answer.request_id), None)
        if question is None:
            return
        self._is_copied = answer.reason is LeaseRefusal.COPIED
        row = None
        if (
            answer.lease_id is not None
            and answer.subscription_id is not None
            and answer.expires_at is not None
        ):
            row = LeaseRow(
                answer.lease_id.bytes,
                user,
                answer.subscription_id.int,
                answer.messages,
                answer.expires_at.timestamp(),
            )
        try:
            with self._rows.transaction():
                self._rows.answered(question.row.request_id)
                if not self._is_copied and len(self._openings) > 1:
                    self._rows.opened()
                if row is not None:
                    self._rows.save(row)
        except sqlite3.Error as error:  # asked again, and answered with the same lease
            if self._throttle.allows("disk"):
                log.error("lease could not be written down and waits: error=%s", error)  # noqa: TRY400  says it all
            return
        if not self._is_copied:
            self._openings = self._openings[-1:]
        asked.remove(question)
        if not asked:
            del self._questions[user]
        at = self._elapsed()
        if row is not None:
            self._add(OwnLease(row, 0, at, at))
            self._not_before.pop(user, None)
        elif question.row.want:
            pause = LONG_PAUSE if answer.reason is None else PAUSES.get(answer.reason, LONG_PAUSE)
            self._not_before[user] = at + pause
        self._changed.set()

    def tidy(self, held: Collection[bytes | None]) -> None:
        """Hand back what is idle and drop what is used up, over, or of a subscription that ended.

        ``held`` are the leases of messages that may still be released. To be called every second or so.
        """
        at, now = self._elapsed(), self._now()
        for lease in list(self._all()):
            entry = self._entries.get(lease.row.user)
            is_stray = entry is not None and entry.subscription != lease.row.subscription
            is_over = now >= lease.row.expires_at or (is_stray and at - lease.granted > STRAY)
            if is_over or (lease.left <= 0 and lease.row.lease not in held):
                with self._rows.transaction():
                    self._rows.remove(lease.row.lease)
                self._remove(lease)
            elif lease.left > 0 and at - lease.touched >= IDLE:
                self._hand_back(lease)
        for user in [user for user, until in self._not_before.items() if until <= at]:
            del self._not_before[user]

    def problem(self) -> str | None:
        """Say that nobody answers; ask only while the daemon is not known to be offline."""
        if self._is_copied:
            return "another gate uses a copy of this file, so its leases are not used: give each its own file"
        if self.refusal is not None:
            return self.refusal
        first = min((question.first for question in self._asked()), default=None)
        if first is None or self._elapsed() - first < MOST_UNANSWERED:
            return None
        return (
            f"no lease is answered: the daemon is older than this gate, or the broker's ACL has no lines for"
            f" {self._topic} and {self.answers}"
        )

    def _hand_back(self, lease: OwnLease) -> None:
        row = lease.row._replace(messages=lease.used)
        question = QuestionRow(uuid4().hex, row.user, 0, row.lease, lease.used)
        with self._rows.transaction():
            self._rows.save(row)
            self._rows.ask(question)
        lease.row = row
        self._questions.setdefault(row.user, []).append(OpenRequest(question, self._elapsed()))
        self._wake.set()

    def _ask(self, user: int, found: OwnLease | None, count: int) -> None:
        """Ask for more, unless that was asked already or refused a moment ago."""
        at = self._elapsed()
        if any(question.row.want for question in self._questions.get(user, ())):
            return
        if self._not_before.get(user, 0.0) > at:
            return
        want = LEAST
        if found is not None:
            want = int(found.used / max(at - found.granted, 1.0) * AHEAD)
        want = max(count, min(max(want, LEAST), MOST))
        question = QuestionRow(uuid4().hex, user, want, None, 0)
        try:
            with self._rows.transaction():
                self._rows.ask(question)
        except sqlite3.Error:  # in the status; a lease could not be written down either
            self._not_before[user] = at + LONG_PAUSE
            return
        self._questions.setdefault(user, []).append(OpenRequest(question, at))
        self._wake.set()

    def _usable(self, user: int, entry: UserEntry, now: float) -> Iterator[OwnLease]:
        for lease in () if self._is_copied else self._leases.get(user, ()):
            if lease.row.subscription == entry.subscription and now + MARGIN < lease.row.expires_at:
                yield lease

    def _all(self) -> Iterator[OwnLease]:
        return (lease for leases in self._leases.values() for lease in leases)

    def _asked(self) -> Iterator[OpenRequest]:
        return (question for asked in self._questions.values() for question in asked)

    def _add(self, lease: OwnLease) -> None:
        self._leases[lease.row.user] = (*self._leases.get(lease.row.user, ()), lease)

    def _remove(self, lease: OwnLease) -> None:
        left = tuple(one for one in self._leases[lease.row.user] if one is not lease)
        if left:
            self._leases[lease.row.user] = left
        else:
            del self._leases[lease.row.user]


def _request(row: QuestionRow, openings: tuple[str, ...]) -> LeaseRequest:
    held = () if row.lease is None else (HeldLease(UUID(bytes=row.lease), row.kept),)
    return LeaseRequest(
        request_id=row.request_id,
        user_id=UUID(int=row.user),
        want=row.want,
        leases=held,
        openings=openings,
    )

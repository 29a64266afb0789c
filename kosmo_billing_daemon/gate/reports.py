"""Usage reports: what is in the journal goes to the daemon until a usage-ack says that it is committed.

A report is whatever waits when there is room for one: at once when nothing is under way, up to 500 messages
when the link is slow. Repeats are harmless, since the daemon counts each message id once; so after a lost
connection, a daemon coming back or a missing acknowledgement, everything that waits is simply sent again.
"""

import asyncio
import itertools
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.payloads import MAX_EVENTS_PER_REPORT, UsageAck, UsageEvent, UsageReport
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.rows import Row
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.link import Link, PublishRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

UNDER_WAY = 4  # reports: enough to fill a slow link, few enough that what waits gathers into batches
LONGEST_TIMEOUT = 300.0  # between repeats while the daemon is away, for its reports queue at the broker
# Below max_packet_size as shipped (131,072), topic and header included. A usage-ack that names every message
# is smaller than its report.
MOST_BYTES = 120_000
# Seconds the daemon gets to say what time it is before the first report: a machine without a clock that was
# off for a week noted times that are too old to be counted.
PROOF_PATIENCE = 2.0
REFUSED_PAUSE = 60.0  # after a publication that the broker's rights forbid


class Reporter:
    """Sends what waits in the journal to ``topic`` and is answered on ``answers``; one per gate, one ``run``
    per connection.
    """

    def __init__(
        self,
        journal: Journal,
        ledger: UsageLedger,
        timekeeper: Timekeeper,
        topic: str,
        answers: str,
        *,
        ack_timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answers = answers
        self.refusal: str | None = None
        self.duplicates = 0
        self._journal = journal
        self._ledger = ledger
        self._time = timekeeper
        self._topic = topic
        self._ack_timeout = ack_timeout
        self._monotonic = monotonic
        self._timeout = ack_timeout
        self._wake = asyncio.Event()
        self._cursor = 0
        self._late: list[int] = []  # rows up to the cursor that began to wait after it had passed them
        self._sent_up_to = journal.last()  # rows up to here may have been sent before, in another life
        self._repeated: dict[str, int] = {}  # by report id: messages that were sent before
        self._sent: dict[str, list[Row]] = {}  # by report id, newest last; late acknowledgements count too
        self._asked: dict[str, float] = {}  # when reports of this connection left, by the timekeeper
        self._under_way: set[str] = set()
        self._repeats = 0  # since the last usage-ack
        self._unapplied: list[tuple[list[Row], UsageAck]] = []  # could not be written down yet
        self._last_sent = 0.0
        self._throttle = LogThrottle()

    def wake(self) -> None:
        """Say that there is something to report."""
        self._wake.set()

    def start_again(self) -> None:
        """Send everything that waits once more."""
        self._timeout = self._ack_timeout
        self._rewind()

    async def run(self, link: Link) -> None:
        """Report until the link is lost."""
        self._rewind()
        with suppress(TimeoutError):
            async with asyncio.timeout(PROOF_PATIENCE):
                await self._time.proven.wait()
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            with suppress(sqlite3.Error):  # it is in the status; what is sent has the right times even so
                self._time.correct(self._ledger.correct)
            if self._unapplied:  # what is sent now might be acknowledged already
                await self._wake.wait()
                continue
            if len(self._under_way) < UNDER_WAY and (rows := self._waiting()):
                await self._send(link, rows)
                continue
            if not self._under_way:
                await self._wake.wait()
                continue
            deadline = self._last_sent + self._timeout
            handle = loop.call_at(deadline, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                handle.cancel()
            if self._under_way and loop.time() >= self._last_sent + self._timeout:
                log.info("usage reports were not acknowledged in time: seconds=%.0f", self._timeout)
                self._timeout = min(self._timeout * 2, LONGEST_TIMEOUT)
                self._repeats += 1
                self._rewind()

    def problem(self) -> str | None:
        """Say that reports are taken by the broker and never acknowledged by the daemon; ask only while it is
        not known to be offline.
        """
        if not self._repeats or not self._journal.waiting_rows:
            return None
        return (
            f"reports were sent {self._repeats + 1} times and no usage-ack came: the broker's ACL does not"
            f" let us read {self.answers} or the daemon {self._topic}, or the daemon cannot count"
            " (see its log)"
        )

    def receive(self, ack: UsageAck) -> None:
        """Apply a usage-ack; one for a report nobody remembers changes nothing, for that is sent again.

        One that cannot be written down waits for ``apply_again``, and so does everything to be reported.
        """
        rows = self._sent.pop(ack.report_id, None)
        if rows is None:
            return
        self._repeats = 0
        asked = self._asked.pop(ack.report_id, None)
        if ack.at is not None and asked is not None:
            self._time.prove(ack.at.timestamp(), asked)
        for rejection in ack.rejected:
            log.warning(
                "message was refused by the daemon and will not be counted: message=%s reason=%s",
                rejection.message_id,
                rejection.reason,
            )
        self._notice_duplicates(ack)
        self._under_way.discard(ack.report_id)
        self._timeout = self._ack_timeout
        self._last_sent = asyncio.get_running_loop().time()
        self._unapplied.append((rows, ack))
        try:
            self.apply_again()
        except sqlite3.Error as error:
            if self._throttle.allows("disk"):
                log.error("acknowledgement could not be written down; reports wait: error=%s", error)  # noqa: TRY400  says it all
        self._wake.set()

    def apply_again(self) -> None:
        """Apply the usage-acks that wait for the disk; raises ``sqlite3.Error`` when it still cannot."""
        while self._unapplied:
            rows, ack = self._unapplied[0]
            reasons = {rejection.message_id: rejection.reason for rejection in ack.rejected}
            self._ledger.acknowledged(rows, reasons, self._monotonic())
            del self._unapplied[0]
        self._wake.set()

    def _notice_duplicates(self, ack: UsageAck) -> None:
        """Count messages that the daemon knew although they were sent for the first time."""
        repeated = self._repeated.pop(ack.report_id, 0)
        if ack.duplicates <= repeated:
            return
        self.duplicates += ack.duplicates - repeated
        if self._throttle.allows("duplicates"):
            log.warning(
                "messages were not counted, for the daemon knows their ids; are ids used again, as packet ids"
                " after a reboot of the radio? messages=%d",
                ack.duplicates - repeated,
            )

    def _waiting(self) -> list[Row]:
        """The next rows to send: those that were passed over while they were held, and then the newest."""
        self._late += [seq for seq in self._ledger.late if seq <= self._cursor]
        self._ledger.late.clear()
        while self._late:
            if rows := self._journal.waiting_among(self._late[:MAX_EVENTS_PER_REPORT]):
                return rows
            del self._late[:MAX_EVENTS_PER_REPORT]
        return self._journal.waiting(self._cursor, MAX_EVENTS_PER_REPORT)

    def _rewind(self) -> None:
        self._cursor = 0
        self._late.clear()
        self._ledger.late.clear()
        self._asked.clear()
        self._under_way.clear()
        self._ledger.landed()
        while len(self._sent) > 8 * UNDER_WAY:
            oldest = next(iter(self._sent))
            del self._sent[oldest]
            self._repeated.pop(oldest, None)
        self._wake.set()

    async def _send(self, link: Link, rows: list[Row]) -> None:
        report_id = uuid4().hex
        rows, payload = self._fitting(report_id, rows)
        late = set(self._late)
        self._late = [seq for seq in self._late if seq not in {row.seq for row in rows}]
        self._cursor = max(self._cursor, rows[-1].seq)
        self._sent[report_id] = rows
        self._asked[report_id] = self._time.elapsed()
        self._repeated[report_id] = sum(row.seq <= self._sent_up_to and row.seq not in late for row in rows)
        self._sent_up_to = max(self._sent_up_to, self._cursor)
        self._under_way.add(report_id)
        self._ledger.sent(rows)
        self._last_sent = asyncio.get_running_loop().time()
        try:
            await link.publish(self._topic, payload)
        except PublishRefused as error:
            self.refusal = str(error)
            if self._throttle.allows("refused"):
                log.error("usage report was refused by the broker: %s", error)  # noqa: TRY400  nothing more in the traceback
            del self._sent[report_id]
            await asyncio.sleep(REFUSED_PAUSE)
            self._rewind()
        else:
            self.refusal = None

    def _fitting(self, report_id: str, rows: list[Row]) -> tuple[list[Row], bytes]:
        """Encode as many of the first rows as one packet takes; message ids may be long."""
        while True:
            payload = UsageReport(report_id=report_id, events=tuple(map(self._event, rows))).encode()
            if len(payload) <= MOST_BYTES or len(rows) == 1:
                return rows, payload
            rows = rows[: len(rows) // 2]

    def _event(self, row: Row) -> UsageEvent:
        return UsageEvent(
            message_id=row.message_id,
            user_id=UUID(int=row.user),
            node_id=row.node,
            sent_at=datetime.fromtimestamp(self._time.corrected(row.sent_at), UTC),
            count=row.number,
            lease_id=None if row.lease is None else UUID(bytes=row.lease),
        )


class MessageIds:
    """Unique ids that sort by time, which the daemon's index likes: UUID version 7 with a counter."""

    def __init__(self) -> None:
        self._last = 0
        self._number = itertools.count()

    def next(self, now: float) -> str:
        self._last = max(self._last, int(now * 1000))
        counter = next(self._number) & 0xFFF
        tail = uuid4().int & ((1 << 62) - 1)
        return str(UUID(int=(self._last << 80) | (7 << 76) | (counter << 64) | (2 << 62) | tail))

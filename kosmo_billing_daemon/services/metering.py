"""Usage reports into counts: many reports, one transaction, and an answer for each after COMMIT.

A report that cannot be read, exceeds what its reporter may count in a minute, or alone breaks the transaction
it is in, is quarantined; one that needs a row which somebody else has locked is parked in a table and counted
later. The others are counted as if it had not been there, and none of them waits for it.
"""

import logging
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import Any, Final
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import CANONICAL_UUID, Malformed
from kosmo_billing_daemon.contract.payloads import Rejection, UsageAck
from kosmo_billing_daemon.contract.usage_columns import Row, UsageColumns
from kosmo_billing_daemon.domain.metering import TOO_OLD, USER_ERASED, counts_as_sent
from kosmo_billing_daemon.errors import Locked, Unavailable
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.batcher import write_each
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.ceilings import Ceilings
from kosmo_billing_daemon.store import erasures, parking, usage
from kosmo_billing_daemon.store.postgres import Connection, Pool
from kosmo_billing_daemon.store.usage import Quarantined, UsageRows

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20  # of a report; those of 500 events have about 90,000
KEPT_BYTES = 4096  # of a report that could not be read
REPORTER_LENGTH = 128
MOST_PARKED_AT_ONCE = 200
_IDS: Final = re.compile(CANONICAL_UUID.pattern.encode(), re.IGNORECASE)


@record
class Report:
    """A readable report and its sender; ``payload`` is kept in case that it cannot be counted."""

    reporter: str
    columns: UsageColumns
    payload: bytes


@dataclass(slots=True)
class Tally:
    """What became of usage since the start, for metrics."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    malformed: int = 0

    def metrics(self) -> dict[str, float]:
        return {
            "accepted": self.accepted,
            "duplicate": self.duplicates,
            "rejected": self.rejected,
            "malformed": self.malformed,
        }


@record(kw_only=True)
class Metering:
    """Counts usage. ``changed`` is called after each commit that counted something.

    Without ``ceilings`` a reporter may count as much as it likes.
    """

    pool: Pool
    clock: Clock
    changed: Callable[[], None]
    ceilings: Ceilings | None = None
    tally: Tally = field(default_factory=Tally)
    throttle: LogThrottle = field(default_factory=LogThrottle)

    def read(self, reporter: str, payload: bytes) -> Report | Quarantined:
        """Read a report; what is wrong with it as a whole quarantines it."""
        try:
            check_reporter(reporter)
            if len(payload) > MOST_BYTES:
                raise Malformed(f"larger than {MOST_BYTES} bytes")
            columns = UsageColumns.decode(payload)
        except Malformed as error:
            self.tally.malformed += 1
            return _quarantined(reporter, str(error), payload)
        if self.ceilings is not None and (why := self.ceilings.refusal(reporter, columns, self.clock())):
            self.tally.malformed += 1
            return _quarantined(reporter, why, payload, is_too_much=True)
        return Report(reporter, columns, payload)

    async def count(
        self, reports: Sequence[Report], quarantined: Sequence[Quarantined] = ()
    ) -> list[UsageAck | None]:
        """Commit reports and return the answer to each.

        ``None`` answers a report that is not counted yet, because somebody else's transaction holds a row it
        needs (it is parked), or cannot be for a reason that is ours (it is quarantined): its sender keeps it.
        Raises ``Unavailable`` when nothing was committed.
        """
        try:
            return list(await self._count(reports, quarantined))
        except Locked:
            log.info("usage of some user is locked; the other reports are counted without it")
        except Unavailable:
            raise
        except Exception:
            if not reports:
                raise
            log.exception("a batch of usage reports failed; parts of it are counted alone")
        if quarantined:
            await self._count((), quarantined)
        results = await write_each(reports, self._count)
        return await self._left(reports, results)

    async def count_parked(self, after: int = 0) -> tuple[list[tuple[str, UsageAck]], int]:
        """Count some of what is parked beyond id ``after``, as far as it can be counted now.

        Returns the answers, each with its reporter, and the id to go on after (0 when there is no more), so
        that those which stay locked hold up no other.
        """
        async with self.pool.connection() as connection:
            parked = await parking.load_parked(connection, MOST_PARKED_AT_ONCE, after)
        if not parked:
            return [], 0
        read: list[Report] = []
        for one in parked:
            try:
                read.append(Report(one.reporter, UsageColumns.decode(one.payload), one.payload))
            except Malformed as error:  # parked by a version that read it
                self.tally.malformed += 1
                await self._count((), [_quarantined(one.reporter, str(error), one.payload)], [one.id])
                return await self.count_parked(after)

        async def write(part: Sequence[int]) -> Sequence[UsageAck]:
            return await self._count(
                [read[place] for place in part], (), [parked[place].id for place in part]
            )

        answers: list[tuple[str, UsageAck]] = []
        results = await write_each(range(len(parked)), write)
        for one, report, result in zip(parked, read, results, strict=True):
            if isinstance(result, UsageAck):
                answers.append((one.reporter, result))
            elif not isinstance(result, Locked):
                await self._left([report], [result], [one.id])
        return answers, parked[-1].id if len(parked) == MOST_PARKED_AT_ONCE else 0

    async def _left(
        self, reports: Sequence[Report], results: Sequence[UsageAck | Exception], parked: Sequence[int] = ()
    ) -> list[UsageAck | None]:
        """Keep what could not be counted, and return the answers to all."""
        locked: list[Report] = []
        for report, result in zip(reports, results, strict=True):
            if isinstance(result, Locked):
                locked.append(report)
                if self.throttle.allows(report.reporter):
                    log.warning("usage report parked: %s", result, extra=fields(reporter=report.reporter))
            elif isinstance(result, Exception):
                log.error(
                    "usage report could not be counted",
                    extra=fields(reporter=report.reporter),
                    exc_info=result,
                )
                self.tally.malformed += 1
                broken = _quarantined(report.reporter, "could not be counted", report.payload)
                await self._count((), [broken], parked)
        if locked:
            async with self.pool.transaction(erasures.COUNTING) as connection:
                named = {UUID(user) for report in locked for user in report.columns.user_id}
                erased = sorted(await erasures.load_erased(connection, named))
                rows = [
                    (each.reporter, each.columns.report_id, erasures.redacted(each.payload, erased))
                    for each in locked
                ]
                await parking.park(connection, rows, self.clock())
        return [result if isinstance(result, UsageAck) else None for result in results]

    async def _count(
        self, reports: Sequence[Report], quarantined: Sequence[Quarantined] = (), parked: Sequence[int] = ()
    ) -> list[UsageAck]:
        """Count in one transaction, and forget with it what was ``parked``."""

        async def work(connection: Connection) -> list[UsageAck]:
            now = self.clock()
            read = [_in_time(report.columns, now) for report in reports]
            accepted = [0] * len(reports)
            if any(map(len, read)):
                batch = _joined(read, [report.reporter for report in reports])
                if erased := await usage.lock_counters(connection, set(batch.user_id)):
                    read = [_without(columns, erased) for columns in read]
                    batch = _joined(read, [report.reporter for report in reports])
                if batch.user_id:
                    accepted = await usage.count(connection, batch, now)
            await usage.append_quarantine(connection, await _redacted(connection, quarantined), now)
            if parked:
                await parking.unpark(connection, parked)
            return [
                UsageAck(
                    report_id=columns.report_id,
                    accepted=counted,
                    duplicates=len(columns) - counted,
                    rejected=tuple(columns.rejected),
                    at=now,
                )
                for columns, counted in zip(read, accepted, strict=True)
            ]

        answers = await self.pool.retrying(work, erasures.COUNTING)
        self._note(answers)
        return answers

    def _note(self, answers: Sequence[UsageAck]) -> None:
        accepted = sum(answer.accepted for answer in answers)
        self.tally.accepted += accepted
        self.tally.duplicates += sum(answer.duplicates for answer in answers)
        self.tally.rejected += sum(len(answer.rejected) for answer in answers)
        if accepted:
            self.changed()


def check_reporter(reporter: str) -> None:
    """Raise ``Malformed`` for a name no MQTT user of ours has."""
    if not 1 <= len(reporter) <= REPORTER_LENGTH or not reporter.isprintable():
        raise Malformed(f"reporter: a printable name of 1 to {REPORTER_LENGTH} characters")


def _in_time(columns: UsageColumns, now: datetime) -> UsageColumns:
    """Clamp future times and reject what is too old; the usual report is in time as it is."""
    if not columns or (counts_as_sent(min(columns.sent_at), now) is not None and max(columns.sent_at) <= now):
        return columns
    kept: list[Row] = []
    rejected = list(columns.rejected)
    for row in columns.rows():
        sent_at = counts_as_sent(row[4], now)
        if sent_at is None:
            rejected.append(Rejection(row[1], TOO_OLD))
        else:
            kept.append((*row[:4], sent_at, row[5]))
    return UsageColumns.of(columns.report_id, kept, rejected)


def _without(columns: UsageColumns, erased: Container[str]) -> UsageColumns:
    """Reject messages of users who were erased: their ids must not be kept."""
    rows = list(columns.rows())
    rejected = [Rejection(row[1], USER_ERASED) for row in rows if row[0] in erased]
    if not rejected:
        return columns
    kept = [row for row in rows if row[0] not in erased]
    return UsageColumns.of(columns.report_id, kept, [*columns.rejected, *rejected])


async def _redacted(connection: Connection, quarantined: Sequence[Quarantined]) -> Sequence[Quarantined]:
    """Take the ids of erased users out of what is put into quarantine."""
    named = {
        UUID(found.decode())
        for report in quarantined
        for found in _IDS.findall(report.payload + b" " + report.reason.encode())
    }
    erased = sorted(await erasures.load_erased(connection, named)) if named else []
    if not erased:
        return quarantined
    return [
        replace(
            report,
            payload=erasures.redacted(report.payload, erased),
            reason=erasures.redacted(report.reason.encode(), erased).decode(),
        )
        for report in quarantined
    ]


def _joined(read: Sequence[UsageColumns], reporters: Sequence[str]) -> UsageRows:
    """Write reports one below the other."""

    def column(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(columns, name) for columns in read))

    return UsageRows(
        user_id=column("user_id"),
        message_id=column("message_id"),
        node_id=column("node_id"),
        count=column("count"),
        sent_at=column("sent_at"),
        lease_id=column("lease_id"),
        report=[place for place, columns in enumerate(read) for _ in range(len(columns))],
        reporters=reporters,
    )


def _quarantined(reporter: str, reason: str, payload: bytes, *, is_too_much: bool = False) -> Quarantined:
    name = reporter.encode("utf-8", "replace").decode()[:REPORTER_LENGTH].replace("\0", "")
    return Quarantined(
        reporter=name,
        reason=reason[:1000],
        payload=payload[:KEPT_BYTES],
        size=len(payload),
        is_too_much=is_too_much,
    )

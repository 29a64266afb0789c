"""Usage reports into counts: many reports, one transaction, and an answer for each after COMMIT.

A report that cannot be read, or that alone breaks the transaction it is in, is quarantined; the others
are counted as if it had not been there.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import Rejection, UsageAck
from kosmo_billing_daemon.contract.usage_columns import Row, UsageColumns
from kosmo_billing_daemon.domain.metering import TOO_OLD, counts_as_sent
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.records import record
from kosmo_billing_daemon.store import usage
from kosmo_billing_daemon.store.postgres import Connection, Pool
from kosmo_billing_daemon.store.usage import Columns, Quarantined

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20  # of a report; those of 500 events have about 90,000
KEPT_BYTES = 4096  # of a report that could not be read
REPORTER_LENGTH = 128


@record
class Report:
    """A readable report and its sender; ``payload`` is kept in case that it cannot be counted."""

    reporter: str
    columns: UsageColumns
    payload: bytes


@dataclass(slots=True)
class Tally:
    """What became of usage since the start, for metrics."""

    reports: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    malformed: int = 0


@record(kw_only=True)
class Metering:
    """Counts usage. ``changed`` is called after each commit that counted something."""

    pool: Pool
    clock: Clock
    changed: Callable[[], None]
    tally: Tally = field(default_factory=Tally)

    def read(self, reporter: str, payload: bytes) -> Report | Quarantined:
        """Read a report; what is wrong with it as a whole quarantines it."""
        try:
            check_reporter(reporter)
            if len(payload) > MOST_BYTES:
                raise Malformed(f"larger than {MOST_BYTES} bytes")
            return Report(reporter, UsageColumns.decode(payload), payload)
        except Malformed as error:
            self.tally.malformed += 1
            return _quarantined(reporter, str(error), payload)

    async def count(
        self, reports: Sequence[Report], quarantined: Sequence[Quarantined] = ()
    ) -> list[UsageAck | None]:
        """Commit reports and return the answer to each.

        ``None`` answers a report that could not be counted for a reason that is ours: it is quarantined
        without an answer, so its sender keeps it. Raises ``Unavailable`` when nothing was committed.
        """
        try:
            return await self._count(reports, quarantined)
        except Unavailable:
            raise
        except Exception:
            if len(reports) + len(quarantined) == 0:
                raise
            log.exception("a batch of usage reports failed; each is tried alone")
        return await self._count_alone(reports, quarantined)

    async def _count_alone(
        self, reports: Sequence[Report], quarantined: Sequence[Quarantined]
    ) -> list[UsageAck | None]:
        answers: list[UsageAck | None] = []
        await self._count((), quarantined)
        for report in reports:
            try:
                answers += await self._count([report], ())
            except Unavailable:
                raise
            except Exception:
                log.exception("a usage report of %s could not be counted", report.reporter)
                self.tally.malformed += 1
                await self._count((), [_quarantined(report.reporter, "could not be counted", report.payload)])
                answers.append(None)
        return answers

    async def _count(
        self, reports: Sequence[Report], quarantined: Sequence[Quarantined]
    ) -> list[UsageAck | None]:
        async def work(connection: Connection) -> list[UsageAck]:
            now = self.clock()
            read = [_in_time(report.columns, now) for report in reports]
            accepted = [0] * len(reports)
            if any(map(len, read)):
                batch = _joined(read, [report.reporter for report in reports])
                await usage.lock_counters(connection, set(batch.user_id))
                accepted = await usage.count(connection, batch, now)
            await usage.append_quarantine(connection, quarantined, now)
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

        answers = await self.pool.retrying(work)
        self._note(answers)
        return list(answers)

    def _note(self, answers: Sequence[UsageAck]) -> None:
        self.tally.reports += len(answers)
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
            kept.append((*row[:4], sent_at))
    return UsageColumns.of(columns.report_id, kept, rejected)


def _joined(read: Sequence[UsageColumns], reporters: Sequence[str]) -> Columns:
    """Write reports one below the other."""

    def column(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(columns, name) for columns in read))

    return Columns(
        user_id=column("user_id"),
        message_id=column("message_id"),
        node_id=column("node_id"),
        count=column("count"),
        sent_at=column("sent_at"),
        report=[place for place, columns in enumerate(read) for _ in range(len(columns))],
        reporters=reporters,
    )


def _quarantined(reporter: str, reason: str, payload: bytes) -> Quarantined:
    name = reporter.encode("utf-8", "replace").decode()[:REPORTER_LENGTH].replace("\0", "")
    return Quarantined(reporter=name, reason=reason[:1000], payload=payload[:KEPT_BYTES], size=len(payload))

"""One connection after another to the broker: what arrives goes to documents and reports, in order of
arrival.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kosmo_billing_daemon.contract.encoding import Malformed, loads
from kosmo_billing_daemon.contract.lease_payloads import LeaseAnswer
from kosmo_billing_daemon.contract.payloads import TimeAnswer, UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Refused, Unavailable
from kosmo_billing_daemon.gate.documents import Arrival, Documents
from kosmo_billing_daemon.gate.leases import LeaseBook
from kosmo_billing_daemon.gate.replay import ShardReader
from kosmo_billing_daemon.gate.reports import Reporter
from kosmo_billing_daemon.gate.time_requests import TimeRequests
from kosmo_billing_daemon.link import Broker, ConnectRefused, Link, LinkLost, Message, connect
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle

log = logging.getLogger(__name__)

# Mosquitto keeps this many messages in flight beside the 1,000 it queues by default, so even all documents
# in one shard are complete up to here: ids that begin with a time share their first digits.
RECEIVE_MAXIMUM = 10_000
# Seconds: on a slow link an answer waits behind the documents of a group, which show that the link lives.
SLOWEST_ANSWER = 60.0
BATCH = 100  # messages per transaction: a few milliseconds in which nothing else happens
FIRST_RETRY, LONGEST_RETRY = 0.2, 15.0  # seconds between attempts to connect
STABLE = 10.0  # seconds until a connection counts as good: one that always ends at once is no success
REFUSED_RETRY = 30.0  # and after a refusal, which only the operator can fix
FIRST_REREAD = 30.0  # seconds until documents are read again while some are missing; doubled each time


class Connection:
    """Keeps one connection; ``run`` never ends by itself before ``close``."""

    def __init__(
        self,
        broker: Broker,
        topics: Topics,
        *,
        documents: Documents,
        times: TimeRequests | None,
        reporter: Reporter | None,
        leases: LeaseBook | None,
        refresh: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.connected = False
        self.error: str | None = None
        self.daemon_online: bool | None = None
        self._broker = replace(
            broker,
            clean=True,
            receive_maximum=RECEIVE_MAXIMUM,
            publish_timeout=max(broker.publish_timeout, SLOWEST_ANSWER),
        )
        self._topics = topics
        self._documents = documents
        self._times, self._reporter, self._leases = times, reporter, leases
        self._askers = tuple(asker for asker in (reporter, times, leases) if asker is not None)
        self._refresh = refresh
        self._monotonic = monotonic
        first = (asker.answers for asker in (reporter, leases) if asker is not None)
        self._replay = ShardReader(topics, [topics.status, *first])
        self._steady_since: float | None = None
        self._looked = False  # what is retained outside the documents is here by now
        self._heard_status = False
        self._closing = False
        self._throttle = LogThrottle()

    @property
    def steady_since(self) -> float | None:
        """Since when (monotonic) every document was read, the daemon is not offline and the connection
        stands.
        """
        return None if self.daemon_online is False else self._steady_since

    def problems(self) -> Iterator[str]:
        """Say what is wrong while connected; a broker that denies something may grant it and keep silent."""
        if not self._looked:
            return
        silent = [
            topic
            for topic, heard in (
                (self._topics.status, self._heard_status),
                (self._topics.watermark, self._documents.expected is not None),
            )
            if not heard
        ]
        if silent:
            yield (
                f"nothing came from {' and '.join(silent)}: no daemon ever published to this broker,"
                f" or its ACL does not let {self._broker.username or 'anonymous'} read it"
            )
        if (problem := self._documents.problem()) is not None:
            yield problem
        if self.daemon_online is False:
            return
        for asker in self._askers:
            if (problem := asker.problem()) is not None:
                yield problem

    async def run(self) -> None:
        """Connect, listen and report, until this is cancelled."""
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        while not self._closing:
            try:
                async with connect(self._broker) as link:
                    await self._use(link, backoff)
            except Exception as error:  # noqa: BLE001  a gateway goes on deciding, whatever happens here
                pause = self._failed(_first(error), backoff)
            else:
                raise AssertionError("a connection ends by an exception only")
            finally:
                self.connected = False
                self._steady_since = None
                self.daemon_online = None
                self._looked = self._heard_status = False
            if not self._closing:
                await asyncio.sleep(pause)

    def close(self) -> None:
        """Connect no more; called before ``run`` is cancelled, since a TaskGroup drops the cancellation when
        a child fails at that moment.
        """
        self._closing = True

    def _failed(self, error: BaseException, backoff: Backoff) -> float:
        """Tell about the end of a connection and return the pause before the next."""
        self.error = str(error) or repr(error)
        if self.connected and backoff.failures and isinstance(error, LinkLost):
            self.error += (
                f"; the last {backoff.failures + 1} connections did not stand for {STABLE:.0f} s: does"
                f" another client connect with the client id {self._broker.client_id}, as a copied card does?"
            )
        pause = backoff.failed()
        if isinstance(error, ConnectRefused | Refused):
            pause = max(pause, REFUSED_RETRY)
        if self._throttle.allows(type(error).__name__):
            if isinstance(error, Unavailable | Refused | sqlite3.Error):
                log.warning("connection to the broker ended or failed: error=%s", self.error)
            else:
                log.error("connection to the broker failed by a defect", exc_info=error)
        return pause

    async def _use(self, link: Link, backoff: Backoff) -> None:
        self.connected = True
        log.info("connected to the broker: host=%s port=%d", self._broker.host, self._broker.port)
        self._documents.begin(connection=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link))
            tasks.create_task(self._read(link))
            tasks.create_task(self._prove(backoff))
            for asker in self._askers:
                tasks.create_task(asker.run(link))

    async def _prove(self, backoff: Backoff) -> None:
        await asyncio.sleep(STABLE)
        backoff.succeeded()
        self.error = None

    def _has_all(self) -> bool:
        """Ask anew each time: it changes while others run."""
        return self._documents.complete

    async def _listen(self, link: Link) -> None:
        while True:
            batch = await link.receive(BATCH)
            self._take(batch)
            for message in batch:
                link.acknowledge(message)
            await asyncio.sleep(0)  # receive() does not wait while there is something

    async def _read(self, link: Link) -> None:
        """Read all documents; again while some are missing, and now and then: a slow link loses changes."""
        retry = FIRST_REREAD
        marked = await self._replay.start(link)
        self._looked = True
        while True:
            whole = await self._replay.read(link, self._documents.expected if marked else None)
            self._documents.finish(whole=whole)
            if self._steady_since is None:
                self._steady_since = self._monotonic()
            if not self._has_all():
                await asyncio.sleep(retry)  # the rest may arrive live
            if self._has_all():
                retry = FIRST_REREAD
                await asyncio.sleep(self._refresh)
            else:
                retry = min(retry * 2, self._refresh)
            self._documents.begin(connection=False)
            marked = self._documents.expected is not None

    def _take(self, batch: Sequence[Message]) -> None:
        self._replay.message()
        arrivals: list[Arrival] = []

        def apply() -> None:
            if arrivals:
                self._documents.apply(arrivals)
                arrivals.clear()

        for message in batch:
            if (user_id := self._topics.entitlement_user(message.topic)) is not None:
                arrivals.append((user_id, message.payload))
                continue
            apply()  # the ledger goes by the order of arrival
            try:
                self._heed(message)
            except Malformed as error:
                self._documents.reject(message.topic, error)
        apply()

    def _heed(self, message: Message) -> None:
        """Take what is no document; raises ``Malformed``."""
        times, reporter, leases = self._times, self._reporter, self._leases
        if message.topic == self._topics.watermark:
            self._documents.watermark(message.payload)
            if message.retain:
                self._replay.marker()
        elif message.topic == self._topics.status:
            self._heed_status(message)
        elif reporter is not None and message.topic == reporter.answers:
            reporter.receive(UsageAck.decode(message.payload))
        elif leases is not None and message.topic == leases.answers:
            leases.receive(LeaseAnswer.decode(message.payload))
        elif times is not None and message.topic == times.answers:
            times.receive(TimeAnswer.decode(message.payload))
        else:
            raise Malformed("not a topic of the contract")

    def _heed_status(self, message: Message) -> None:
        self._heard_status |= bool(message.payload)
        online = loads(message.payload).get("state") == "online" if message.payload else None
        if online and not message.retain:
            # Started anew, or a new leader: what it had not committed comes from us again.
            if self._steady_since is not None:
                self._steady_since = self._monotonic()
            if self._reporter is not None and not self.daemon_online:
                self._reporter.start_again()
            if self._times is not None:
                self._times.ask_again()
        self.daemon_online = online


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

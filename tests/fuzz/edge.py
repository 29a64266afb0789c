"""The target of what a gate reads: documents, watermarks, states and usage-acks, over its own routing.

The gate holds one good document and one message on its way to the daemon; whatever comes, it goes on
deciding, allows nothing that a readable document does not, and a restart changes no answer.
"""

import asyncio
import atexit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import Malformed, loads
from kosmo_billing_daemon.contract.payloads import (
    EntitlementDocument,
    QuotaState,
    Scope,
    Standing,
    TimeAnswer,
    UsageAck,
    Watermark,
)
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.gate.connection import Connection
from kosmo_billing_daemon.gate.decisions import UNKNOWN_USER, Decision, UserEntry, entry_of
from kosmo_billing_daemon.gate.documents import Documents
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.reports import Reporter
from kosmo_billing_daemon.gate.rows import Row
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.gate.time_requests import TimeRequests
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.link import Broker, Message

USER = UUID("ab111111-1111-1111-1111-111111111111")
NODE = "!00000001"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOPICS = Topics()
ACK_TOPIC = TOPICS.usage_ack("gateway")
REPORT = "r1"
_T = TypeVar("_T")
_HELD = EntitlementDocument(
    version=5,
    user_id=USER,
    plan_type="wanderer",
    status=Standing.ACTIVE,
    scope=Scope.ANY_NODE,
    allowed_nodes=(),
    features=(),
    messages_limit=50,
    messages_used=0,
    quota_state=QuotaState.OK,
    subscription_id=USER,
    valid_from=NOW - timedelta(days=1),
    valid_until=NOW + timedelta(days=29),
    grace_until=None,
    issued_at=NOW,
)


class _Edge:
    """The parts of a gate that read, on a state file but without a broker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = StateFile(path)
        self.time = Timekeeper(self.state.loaded.mark, lambda: NOW, lambda: 0.0)
        self.journal = Journal(self.state)
        self.ledger = UsageLedger(self.journal, self.state.loaded.entries, 1000)
        self.documents = Documents(self.state, self.ledger, self.time)
        self.reporter = Reporter(
            self.journal, self.ledger, self.time, "", ACK_TOPIC, ack_timeout=1.0, monotonic=lambda: 0.0
        )
        self.times = TimeRequests(self.time, TOPICS, "gateway")
        self.connection = Connection(
            Broker(host="nowhere", client_id="gateway"),
            TOPICS,
            documents=self.documents,
            times=self.times,
            reporter=self.reporter,
            leases=None,
            refresh=1.0,
            monotonic=lambda: 0.0,
        )
        self.documents.begin(connection=True)

    def report(self) -> None:
        """Have everything that waits under way."""
        rows = self.journal.waiting(0, 500)
        self.reporter._sent[REPORT] = rows
        self.ledger.sent(rows)

    def receive(self, topic: str, payload: bytes) -> None:
        message = Message(topic, payload, retain=False, qos=1, duplicate=False, mid=1, origin=self)
        self.connection._take([message])

    def decide(self) -> Decision:
        entry = self.documents.entries.get(USER.int)
        return UNKNOWN_USER if entry is None else entry.decide(NODE, 1, self.time.now())

    @property
    def answer(self) -> tuple[Decision, dict[int, int]]:
        """What a restart must not change: the decision and the own messages of each user."""
        return self.decide(), {user: entry.own for user, entry in self.documents.entries.items()}


class _Bench:
    """Where the gate stands that is tried: taken up anew once an input was read, kept while none is."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")  # noqa: S108  a disk would be most of the time
        self._directory = TemporaryDirectory(prefix="kosmo-fuzz-", dir=memory if memory.is_dir() else None)
        self._path = Path(self._directory.name, "gate.db")
        edge = _Edge(self._path)
        edge.documents.apply([(USER, _HELD.encode())])
        edge.ledger.record(Row(0, USER.int, "m1", NODE, 1, NOW.timestamp()))
        edge.state.close()  # folds the log into the file
        self._prepared = self._path.read_bytes()
        self.edge = self._start()
        atexit.register(self._end)

    def restart(self) -> _Edge:
        """End the gate as it is and start one on the same file."""
        self.edge.state.close()
        self.edge = _Edge(self._path)
        return self.edge

    def start_again(self) -> None:
        self.edge.state.close()
        self.edge = self._start()

    def _start(self) -> _Edge:
        self._path.write_bytes(self._prepared)
        edge = _Edge(self._path)
        edge.report()
        return edge

    def _end(self) -> None:
        self.edge.state.close()
        self._directory.cleanup()


_bench = cache(_Bench)


def gate(data: bytes) -> None:
    """Any payload on any topic a gate listens to."""
    asyncio.run(_gate(data, _bench()))


async def _gate(data: bytes, bench: _Bench) -> None:
    edge = bench.edge
    answer, malformed = edge.answer, edge.documents.malformed
    try:
        _documents(edge, data)
        _acknowledgements(edge, data)
        _watermark_and_status(edge, data)
        if edge.documents.malformed == malformed + 5:  # as document, acknowledgement, watermark, state, time
            assert edge.answer == answer
            return
        answer, time = edge.answer, edge.time
        edge = bench.restart()
        edge.time = time
        assert edge.answer == answer
    except BaseException:
        bench.start_again()
        raise
    bench.start_again()


def _documents(edge: _Edge, data: bytes) -> None:
    """A readable document that is not older counts whole; anything else changes nothing."""
    held, malformed = edge.documents.entries[USER.int], edge.documents.malformed
    edge.receive(TOPICS.entitlement(USER), data)
    decision = edge.decide()
    if not data:
        assert decision is UNKNOWN_USER
        return
    document = _readable(lambda: EntitlementDocument.decode(data))
    entry = edge.documents.entries[USER.int]
    if document is None or document.user_id != USER or _readable(lambda: entry_of(document)) is None:
        assert edge.documents.malformed == malformed + 1
        assert entry is held
    elif document.version <= _HELD.version:
        assert entry is held
    else:
        assert entry.version == document.version
        assert not decision or _allows(document, entry, edge.time.now())
        assert decision.remaining is None or decision.remaining >= 0


def _allows(document: EntitlementDocument, entry: UserEntry, now: float) -> bool:
    """The rule in the words of the contract, for one message to NODE."""
    end = document.grace_until or document.valid_until
    is_reached = document.scope is Scope.ANY_NODE or (
        document.scope is Scope.WHITELIST and NODE in map(str.lower, document.allowed_nodes)
    )
    is_left = document.messages_limit is None or document.messages_used + entry.own < document.messages_limit
    is_current = end is not None and now < end.timestamp()
    return document.status in {Standing.ACTIVE, Standing.GRACE} and is_reached and is_left and is_current


def _acknowledgements(edge: _Edge, data: bytes) -> None:
    """Only the acknowledgement of our report ends its waiting: its message is counted or refused."""
    ack = _readable(lambda: UsageAck.decode(data))
    is_ours = ack is not None and ack.report_id == REPORT
    edge.receive(TOPICS.usage_ack("gateway"), data)
    assert edge.journal.waiting_rows == (0 if is_ours else 1)
    refused = ack is not None and is_ours and any(one.message_id == "m1" for one in ack.rejected)
    assert edge.journal.rejected() == refused


def _watermark_and_status(edge: _Edge, data: bytes) -> None:
    """The watermark and the daemon's state are read or counted as malformed."""
    malformed = edge.documents.malformed
    edge.receive(TOPICS.watermark, data)
    is_readable = not data or _readable(lambda: Watermark.decode(data)) is not None
    assert edge.documents.malformed == malformed + (not is_readable)
    edge.receive(TOPICS.status, data)
    said = _readable(lambda: loads(data)) if data else None
    assert edge.connection.daemon_online is (None if said is None else said.get("state") == "online")
    malformed, time = edge.documents.malformed, edge.time.now()
    edge.receive(TOPICS.time_answer("gateway"), data)
    assert edge.documents.malformed == malformed + (_readable(lambda: TimeAnswer.decode(data)) is None)
    assert edge.time.now() == time, "nobody asked"


def _readable(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except Malformed:
        return None

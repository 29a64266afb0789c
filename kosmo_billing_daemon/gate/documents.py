"""The newest document of every user, as the broker tells them and the file remembers.

The greatest version of a user is kept, the rest dropped; the daemon raises versions above all that were
ever published when its database was restored, so that rule needs no exception. An empty payload is sent for
a user who was erased or lapsed long ago: whoever it names is unknown from then on. That a document is
*absent* on the broker says nothing by itself, for a broker that crashed may have lost it; it is forgotten
only after everything was read, as many documents were there as the watermark counts, and the watermark is
not older than one seen before.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import EntitlementDocument, Watermark
from kosmo_billing_daemon.gate.decisions import UserEntry, entry_of
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

Arrival = tuple[UUID, bytes]
"""User of the topic, and payload."""

LAG = 10.0  # seconds the watermark gets to count a document that is new


class Documents:
    """Applies what arrives; ``expected`` is how many documents exist, as far as the watermark said."""

    def __init__(self, state: StateFile, ledger: UsageLedger, timekeeper: Timekeeper) -> None:
        self.entries = state.loaded.entries
        self.complete = state.loaded.complete
        self.ready = asyncio.Event()
        if self.complete:
            self.ready.set()
        self.expected: int | None = None
        self.malformed = 0
        self._state = state
        self._ledger = ledger
        self._time = timekeeper
        self._reading = 0  # the number of the reading that `seen` belongs to
        self._seen = 0
        self._through = False
        self._sequence = state.loaded.sequence
        self._rolled_back = False
        self._excess_since: float | None = None  # more documents are seen than the watermark counts
        self._unsaved: set[int] = set()
        self._throttle = LogThrottle()

    def begin(self, *, connection: bool) -> None:
        """Start counting what is seen: a new reading, perhaps on a new connection."""
        self._reading += 1
        self._seen = 0
        self._through = False
        if connection:
            self.expected = None

    def watermark(self, payload: bytes) -> None:
        """Learn how many documents exist."""
        if not payload:
            self.expected = None
            return
        try:
            watermark = Watermark.decode(payload)
        except Malformed as error:
            self.reject("watermark", error)
            return
        self.expected = watermark.entitlements
        self._rolled_back = watermark.sequence < self._sequence
        self._sequence = max(self._sequence, watermark.sequence)
        self._judge()

    def finish(self, *, whole: bool) -> None:
        """End a reading; ``whole`` if nothing was cut short."""
        self._through = True
        if whole and not self._rolled_back and self.expected is not None and self._seen >= self.expected:
            self._forget([user for user, entry in self.entries.items() if entry.seen != self._reading])
        self._judge()

    def apply(self, arrivals: Sequence[Arrival]) -> None:
        """Take documents in the order of arrival, in one transaction.

        With a full or broken disk they count in memory alone and are written down later.
        """
        newer: dict[int, UserEntry | None] = {}
        for user_id, payload in arrivals:
            user = user_id.int
            held = newer[user] if user in newer else self.entries.get(user)
            if not payload:
                if held is not None and held.seen == self._reading:
                    self._seen -= 1
                newer[user] = None
                continue
            try:
                document = EntitlementDocument.decode(payload)
                if document.user_id != user_id:
                    raise Malformed("user_id: the user of the topic")
                entry = entry_of(document)
            except Malformed as error:
                self.reject(str(user_id), error)
                continue
            if held is not None and held.version > entry.version:
                continue
            self._time.witness(document.issued_at.timestamp())
            if held is not None and held.version == entry.version:
                self._see(held)
                continue
            entry.seen = held.seen if held is not None else 0
            self._see(entry)
            newer[user] = entry
        if newer:
            self._save(newer)
        self._judge()

    def reject(self, subject: str, error: Malformed) -> None:
        """Count a message that is not what the contract says."""
        self.malformed += 1
        if self._throttle.allows("malformed"):
            log.warning("message was malformed and ignored: subject=%s error=%s", subject, error)

    def _see(self, entry: UserEntry) -> None:
        if entry.seen != self._reading:
            entry.seen = self._reading
            self._seen += 1

    def _save(self, newer: dict[int, UserEntry | None]) -> None:
        fresh = {user: entry for user, entry in newer.items() if entry is not None}
        replaced = {user: self.entries.get(user) for user in fresh}
        grown: dict[int, int] = {}
        try:
            with self._state.transaction():
                for user, entry in fresh.items():
                    grown[user] = self._ledger.pay(user, replaced[user], entry)
                self._state.save_documents(fresh.items())
                self._state.remove_documents(newer.keys() - fresh.keys())
                self._save_facts()
        except sqlite3.Error:
            grown.clear()  # what it paid for was not written either
            self._unsaved.update(newer)
            self._disk_failed()
        else:
            self._unsaved -= newer.keys()
        for user in newer.keys() - fresh.keys():
            self.entries.pop(user, None)
        for user, entry in fresh.items():
            held = replaced[user]
            entry.own = held.own if held is not None else 0  # until the ledger says better
            self.entries[user] = entry
            try:
                self._ledger.replaced(user, held, entry, grown.get(user, 0))
            except sqlite3.Error as error:
                self._state.failed(error)
                self._disk_failed()

    def save_again(self) -> None:
        """Write down what could not be written before; raises ``sqlite3.Error`` when it still cannot."""
        with self._state.transaction():
            kept = self._unsaved & self.entries.keys()
            self._state.save_documents((user, self.entries[user]) for user in kept)
            self._state.remove_documents(self._unsaved - kept)
            self._state.save_fact("complete", float(self.complete))
            self._save_facts()
        self._unsaved.clear()

    def _save_facts(self) -> None:
        self._state.save_fact("mark", self._time.mark)
        self._state.save_fact("sequence", self._sequence)

    def _forget(self, users: list[int]) -> None:
        if users:
            log.info("documents no longer exist and were forgotten: number=%d", len(users))
            self._save(dict.fromkeys(users))

    def problem(self) -> str | None:
        """Say what is wrong with the number of documents, once everything was read."""
        if self._excess_since is not None and self._time.elapsed() - self._excess_since > LAG:
            return (
                f"the broker holds {self._seen} documents, the daemon's watermark counts {self.expected}:"
                " some belong to users the daemon does not know; each ends at its time"
            )
        if self._through and self.expected is not None and not self.complete:
            return (
                f"{self._seen} of {self.expected} documents arrived: the broker lost some,"
                " or its ACL does not let us read entitlements/#"
            )
        return None

    def _judge(self) -> None:
        if not self._through or self.expected is None:
            self._excess_since = None
            return
        complete = self._seen >= self.expected
        if self._seen <= self.expected:
            self._excess_since = None
        elif self._excess_since is None:
            self._excess_since = self._time.elapsed()
        if complete and not self.complete:
            try:
                with self._state.transaction():
                    self._state.save_fact("complete", 1.0)
            except sqlite3.Error:
                self._disk_failed()
        self.complete = complete
        if complete:
            self.ready.set()

    def _disk_failed(self) -> None:
        if self._throttle.allows("disk"):
            log.error("documents could not be saved; going on in memory: error=%s", self._state.error)

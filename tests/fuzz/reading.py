"""Targets of what the daemon reads: each takes any bytes and raises only where a promise is broken."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from kosmo_billing_daemon.btcpay import administration, answers, payloads
from kosmo_billing_daemon.btcpay.addresses import Links
from kosmo_billing_daemon.btcpay.errors import Garbled
from kosmo_billing_daemon.btcpay.errors import InvalidResponse as MalformedBody
from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import MAX_COUNT, Rejection, UsageAck
from kosmo_billing_daemon.domain.invoices import Observation
from kosmo_billing_daemon.domain.metering import ACCEPTED_LATE, counts_as_sent
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.mqtt.usage_intake import MOST_ACK, encoded
from kosmo_billing_daemon.services.metering import KEPT_BYTES, Metering
from kosmo_billing_daemon.settings import load
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.store.usage import Quarantined
from kosmo_billing_daemon.web.webhooks import Intake
from tests.settings.setting import COMPLETE
from tests.support.usage_reports import judged_report

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = b"secret-of-the-webhook"
SIGNED = Intake(secrets=(b"another", SECRET), keep_claims=False)
OPEN = Intake(secrets=(), keep_claims=True)
LINKS = Links.of("http://btcpay:23000/sub", "https://pay.kosmo.example")
METERING = Metering(  # never opened: reading asks no database
    pool=Pool(Database(url="postgresql://nobody@localhost/none")), clock=lambda: NOW, changed=lambda: None
)


def storable(texts: Iterable[str | None], most: int) -> None:
    """PostgreSQL holds these texts, and a log line too."""
    for text in texts:
        if text is not None:
            assert 1 <= len(text) <= most, len(text)
            assert "\0" not in text
            text.encode()


def printable(message: str) -> None:
    """A terminal and the journal show it as it is."""
    assert message.isprintable(), message


def webhook(data: bytes) -> None:
    """Any body: signed it becomes a row, unsigned a row or a refusal; only the secret makes a signature."""
    assert not SIGNED.is_authentic(data, [data.decode("latin-1")])
    assert SIGNED.is_authentic(data, [sign(data, SECRET)])
    signed = SIGNED.delivery(data, NOW)
    assert signed.claimed_status is None
    try:
        taken = OPEN.delivery(data, NOW)
    except MalformedBody as error:
        printable(error.message)
        taken = SIGNED.delivery(data, NOW)
        assert taken.type == "malformed"
        assert taken == signed  # whoever repeats it, it is recorded once
    assert (taken.type, taken.order_id, taken.store_id) == (signed.type, signed.order_id, signed.store_id)
    for one in (signed, taken):
        texts = (one.delivery_id, one.type, one.btcpay_invoice_id, one.order_id, one.store_id)
        storable((*texts, one.claimed_status), 128)
        printable("".join(text or "" for text in texts))


def usage(data: bytes) -> None:
    """Any report: counted as the reference reads it, or quarantined; its answer fits a packet."""
    read = METERING.read("gateway", data)
    try:
        reference, rejected = judged_report(data)
    except Malformed as error:
        _kept(read, error.message, data)
        return
    assert not isinstance(read, Quarantined), read.reason
    assert tuple(read.columns.rejected) == rejected
    rows = list(read.columns.rows())
    assert rows == [
        (str(e.user_id), e.message_id, e.node_id, e.count, e.sent_at, e.lease_id and str(e.lease_id))
        for e in reference.events
    ]
    for user_id, message_id, node_id, count, sent_at, _ in rows:
        storable((user_id, message_id, node_id), 128)
        assert 1 <= count <= MAX_COUNT
        counted_at = counts_as_sent(sent_at, NOW)
        assert counted_at is None or timedelta(0) <= NOW - counted_at <= ACCEPTED_LATE
    refused = tuple(Rejection(row[1], "too_old") for row in rows) + rejected
    answer = encoded(
        UsageAck(report_id=reference.report_id, accepted=len(rows), duplicates=0, rejected=refused)
    )
    assert len(answer) <= MOST_ACK
    said = UsageAck.decode(answer)
    assert said.report_id == reference.report_id
    assert said.rejected == refused[: len(said.rejected)]


def _kept(read: object, reason: str, data: bytes) -> None:
    """A report that was malformed is a row of the quarantine, whatever was in it."""
    assert isinstance(read, Quarantined)
    assert (read.reporter, read.reason) == ("gateway", reason[:1000])
    assert (read.payload, read.size) == (data[:KEPT_BYTES], len(data))
    storable([read.reason], 1000)


def btcpay(data: bytes) -> None:
    """Any answer: a value the database can hold or one of our errors, whichever question it answers."""
    for status in (302, 400, 401, 403, 404, 422, 429, 500):
        header = data[:200].decode("latin-1")
        headers = {"retry-after": header, "location": header}
        error = answers.problem(status, headers, data, NOW)
        printable(error.message)
        assert 0 <= getattr(error, "retry_after", 0) <= 300
    try:
        document = answers.document(200, data[:40].decode("latin-1"), data)
    except Garbled as error:
        printable(error.message)
        return
    for read in _READERS:
        try:
            value = read(document)
        except Garbled as error:
            printable(error.message)
            value = list(error.readable)
            storable(error.order_ids, 128)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Observation):
                _sound(one)
            else:
                repr(one)


def _confirmed(document: Any) -> Observation:
    """Payments of an invoice whose own money is known."""
    return payloads.confirmed(_LATE, document, NOW)


_LATE = payloads.observation(
    {
        "id": "i", "storeId": "s", "amount": "5", "currency": "USD", "status": "Expired",
        "additionalStatus": "PaidLate", "expirationTime": 1_770_000_000, "checkoutLink": "http://x/i/i",
    }
)  # fmt: skip
_READERS: tuple[Callable[[Any], Any], ...] = (
    lambda document: payloads.observation(document, links=LINKS),
    lambda document: payloads.observations(document, links=LINKS),
    _confirmed,
    administration.server,
    administration.permissions,
    administration.store,
    administration.webhooks,
    administration.webhook,
    administration.delivery_attempts,
)


def _sound(seen: Observation) -> None:
    storable((seen.btcpay_invoice_id, seen.store_id, seen.order_id, seen.currency), 128)
    link = urlsplit(seen.checkout_url)
    assert link.scheme in {"http", "https"}
    assert link.hostname
    seen.checkout_url.encode()
    for amount in (seen.amount, seen.paid_amount, seen.confirmed_amount):
        assert amount is None or amount.is_finite()
    assert seen.amount >= 0
    for time in (seen.expires_at, seen.last_received_at):
        assert time is None or time + timedelta(days=400) > time  # our own spans never overflow


def settings(data: bytes) -> None:
    """Any environment file: settings, or every problem in printable sentences without the secrets."""
    marker = "hidden-" * 3
    with TemporaryDirectory(prefix="kosmo-fuzz-") as directory:
        path = Path(directory, "env")
        path.write_bytes(data + f"\nWEBHOOK_SECRET={marker}\nBTCPAY_API_KEY={marker}\n".encode())
        try:
            loaded = load(COMPLETE, path)
        except Misconfigured as error:
            said = error.problems
        else:
            said = (repr(loaded),)
    assert said
    for problem in said:
        assert marker not in problem
        problem.encode()

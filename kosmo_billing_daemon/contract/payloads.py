"""The JSON payloads of the MQTT contract: UTF-8, RFC 3339 UTC times, unknown fields ignored.

Decoding raises ``Malformed``, which says which field is wrong and what would be right. Plain
dataclasses, not pydantic: the gate runs where only aiomqtt is installed.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import (
    Fields,
    Malformed,
    dumps,
    dumps_record,
    encoded,
    json_text,
    json_texts,
    loads,
    rfc3339,
)
from kosmo_billing_daemon.runtime.records import record

MAX_EVENTS_PER_REPORT = 500
MAX_COUNT = 1_000_000
VERSIONS_PER_SECOND = 1_000_000  # more than any database gives


class Standing(StrEnum):
    """``status`` of an entitlement; NONE never bought anything."""

    ACTIVE = "active"
    GRACE = "grace"
    EXPIRED = "expired"
    REVOKED = "revoked"
    NONE = "none"


class Scope(StrEnum):
    """``scope`` of an entitlement: which nodes the user may write to."""

    ANY_NODE = "any_node"
    WHITELIST = "whitelist"
    NONE = "none"


class QuotaState(StrEnum):
    """``quota_state`` of an entitlement: WARNING from 80 %, EXHAUSTED from 100 %."""

    OK = "ok"
    WARNING = "warning"
    EXHAUSTED = "exhausted"


def _quoted(value: object) -> str:
    """Write an id or a time, in which nothing needs an escape."""
    return "null" if value is None else f'"{value!s}"'


_issued = lru_cache(1)(rfc3339)  # of many documents at once


@record(kw_only=True)
class EntitlementContent:
    """What a user may do: made by the rules of the domain, carried by ``EntitlementDocument``."""

    user_id: UUID
    plan_type: str
    status: Standing
    scope: Scope
    allowed_nodes: tuple[str, ...]
    features: tuple[str, ...]
    messages_limit: int | None
    messages_used: int
    quota_state: QuotaState
    subscription_id: UUID | None
    valid_from: datetime | None
    valid_until: datetime | None
    grace_until: datetime | None


def encode_document(content: EntitlementContent, version: int, issued_at: datetime) -> bytes:
    """Encode the document of one version; a broker that lost its memory gets all of them."""
    # A third of the time of a dict and ``dumps``; "!s", or each value is asked for a format first.
    limit = "null" if content.messages_limit is None else content.messages_limit
    return encoded(
        f'{{"version":{version},"user_id":"{content.user_id!s}","plan_type":{json_text(content.plan_type)}'
        f',"status":"{content.status!s}","scope":"{content.scope!s}"'
        f',"allowed_nodes":{json_texts(content.allowed_nodes)},"features":{json_texts(content.features)}'
        f',"messages_limit":{limit},"messages_used":{content.messages_used}'
        f',"quota_state":"{content.quota_state!s}","subscription_id":{_quoted(content.subscription_id)}'
        f',"valid_from":{_quoted(rfc3339(content.valid_from))}'
        f',"valid_until":{_quoted(rfc3339(content.valid_until))}'
        f',"grace_until":{_quoted(rfc3339(content.grace_until))},"issued_at":"{_issued(issued_at)}"}}'
    )


@record(kw_only=True)
class EntitlementDocument(EntitlementContent):
    """The whole truth about one user. Keep the greatest ``version``, drop the rest.

    ``messages_limit`` ``None`` is unlimited; ``grace_until``, where set, is the end instead of
    ``valid_until``.
    """

    version: int
    issued_at: datetime

    def encode(self) -> bytes:
        return encode_document(self, self.version, self.issued_at)

    @classmethod
    def decode(cls, payload: bytes) -> "EntitlementDocument":
        fields = Fields(loads(payload))
        return cls(
            version=fields.whole("version", least=1),
            user_id=fields.uuid("user_id"),
            plan_type=fields.text("plan_type"),
            status=fields.one_of("status", Standing),
            scope=fields.one_of("scope", Scope),
            allowed_nodes=fields.texts("allowed_nodes"),
            features=fields.texts("features"),
            messages_limit=fields.whole_or_null("messages_limit"),
            messages_used=fields.whole("messages_used"),
            quota_state=fields.one_of("quota_state", QuotaState),
            subscription_id=None if fields.is_null("subscription_id") else fields.uuid("subscription_id"),
            valid_from=fields.optional_time("valid_from"),
            valid_until=fields.optional_time("valid_until"),
            grace_until=fields.optional_time("grace_until"),
            issued_at=fields.time("issued_at"),
        )


@record(kw_only=True)
class UsageEvent:
    """One message that a gateway let through; ``message_id`` is unique per user, for ever.

    ``lease_id`` names the lease that it was let through by.
    """

    message_id: str
    user_id: UUID
    node_id: str | None
    sent_at: datetime
    count: int = 1
    lease_id: UUID | None = None


@record
class Rejection:
    """One event that was not counted, and why."""

    message_id: str
    reason: str


@record(kw_only=True)
class UsageReport:
    """What a reporter sends on ``usage/{reporter}``: 1 to 500 events. ``UsageColumns`` reads it."""

    report_id: str
    events: tuple[UsageEvent, ...]

    def encode(self) -> bytes:
        return dumps(
            {
                "report_id": self.report_id,
                "events": [
                    {
                        "message_id": event.message_id,
                        "user_id": str(event.user_id),
                        "node_id": event.node_id,
                        "count": event.count,
                        "sent_at": rfc3339(event.sent_at),
                        **({} if event.lease_id is None else {"lease_id": str(event.lease_id)}),
                    }
                    for event in self.events
                ],
            }
        )


def usage_event(message_id: str, fields: Fields) -> UsageEvent:
    """Read one event of a report; raises ``Malformed``."""
    return UsageEvent(
        message_id=message_id,
        user_id=fields.uuid("user_id"),
        node_id=fields.text("node_id") if fields.has("node_id") and not fields.is_null("node_id") else None,
        sent_at=fields.time("sent_at"),
        count=fields.whole("count", least=1, most=MAX_COUNT) if fields.has("count") else 1,
        lease_id=fields.optional_uuid("lease_id"),
    )


@record(kw_only=True)
class UsageAck:
    """What became of a report; published after COMMIT on ``usage-acks/{reporter}``.

    ``at`` is the daemon's time when it counted the report; older daemons say none.
    """

    report_id: str
    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...] = ()
    at: datetime | None = None

    def encode(self) -> bytes:
        return dumps(
            {
                "report_id": self.report_id,
                "accepted": self.accepted,
                "duplicates": self.duplicates,
                "rejected": [{"message_id": r.message_id, "reason": r.reason} for r in self.rejected],
                **({} if self.at is None else {"at": rfc3339(self.at)}),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "UsageAck":
        document = loads(payload)
        fields = Fields(document)
        rejected = document.get("rejected", [])
        if not isinstance(rejected, list) or not all(isinstance(item, Mapping) for item in rejected):
            raise Malformed("rejected: a list of objects")
        each = [Fields(item, f"rejected[{number}].") for number, item in enumerate(rejected)]
        return cls(
            report_id=fields.text("report_id"),
            accepted=fields.whole("accepted"),
            duplicates=fields.whole("duplicates"),
            rejected=tuple(Rejection(e.text("message_id"), e.text("reason", most=1000)) for e in each),
            at=fields.time("at") if fields.has("at") else None,
        )


@record
class TimeRequest:
    """Asks on ``time-requests/{name}`` what time it is; ``nonce`` is never used twice."""

    nonce: str

    def encode(self) -> bytes:
        return dumps_record(self)

    @classmethod
    def decode(cls, payload: bytes) -> "TimeRequest":
        return cls(Fields(loads(payload)).text("nonce"))


@record
class TimeAnswer:
    """The daemon's time when it read the request with this nonce; on ``time-answers/{name}``."""

    nonce: str
    at: datetime

    def encode(self) -> bytes:
        return dumps_record(self)

    @classmethod
    def decode(cls, payload: bytes) -> "TimeAnswer":
        fields = Fields(loads(payload))
        return cls(fields.text("nonce"), fields.time("at"))


@record(kw_only=True)
class StatusDocument:
    """Whether a daemon speaks: ``state`` online or offline (the will says offline)."""

    state: str
    instance: str
    version: str
    since: datetime

    def encode(self) -> bytes:
        return dumps_record(self)


@record(kw_only=True)
class Watermark:
    """Every publication up to ``sequence`` was acknowledged; ``entitlements`` documents exist.

    No version above ``version_ceiling`` was published before this was acknowledged. ``database`` names the
    database whose truth this is, so that an exchanged database is noticed.
    """

    sequence: int
    entitlements: int
    version_ceiling: int
    database: str

    def encode(self) -> bytes:
        return dumps_record(self)

    @classmethod
    def decode(cls, payload: bytes) -> "Watermark":
        fields = Fields(loads(payload))
        ceiling = 0
        if fields.has("version_ceiling"):
            ceiling = fields.whole("version_ceiling")
        elif fields.has("greatest_version"):  # of a release that wrote once a second what it had published
            ceiling = fields.whole("greatest_version") + VERSIONS_PER_SECOND
        return cls(
            sequence=fields.whole("sequence"),
            entitlements=fields.whole("entitlements"),
            version_ceiling=ceiling,
            database=fields.text("database") if fields.has("database") else "",
        )

"""Payloads of every kind: one example of each, and any that the code may write."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as some

from kosmo_billing_daemon.contract.lease_payloads import HeldLease, LeaseAnswer, LeaseRefusal, LeaseRequest
from kosmo_billing_daemon.contract.payloads import (
    MAX_COUNT,
    EntitlementDocument,
    QuotaState,
    Rejection,
    Scope,
    Standing,
    TimeAnswer,
    TimeRequest,
    UsageAck,
    UsageEvent,
    UsageReport,
    Watermark,
)
from tests.support.usage_reports import read_report

USER = UUID("ab111111-1111-1111-1111-111111111111")
NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

ENTITLEMENT = json.loads(
    EntitlementDocument(
        version=7,
        user_id=USER,
        plan_type="guardian",
        status=Standing.ACTIVE,
        scope=Scope.WHITELIST,
        allowed_nodes=("!00000001",),
        features=(),
        messages_limit=500,
        messages_used=3,
        quota_state=QuotaState.OK,
        subscription_id=USER,
        valid_from=NOW,
        valid_until=NOW + timedelta(days=30),
        grace_until=None,
        issued_at=NOW,
    ).encode()
)
EVENT = {
    "message_id": "m1",
    "user_id": str(USER),
    "node_id": "!00000001",
    "count": 2,
    "sent_at": "2026-03-01T12:00:00Z",
}
REPORT = {"report_id": "r1", "events": [EVENT]}
ACK = {
    "report_id": "r1",
    "accepted": 1,
    "duplicates": 0,
    "rejected": [{"message_id": "m1", "reason": "too old"}],
}
WATERMARK = {"sequence": 9, "entitlements": 3, "version_ceiling": 12, "database": "d"}

ids = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128)
whole = some.integers(0, 2**53 - 1)
times = some.datetimes(timezones=some.just(UTC))
nodes = some.from_regex(r"![0-9a-f]{8}", fullmatch=True)

entitlements = some.builds(
    EntitlementDocument,
    version=some.integers(1, 2**53 - 1),
    user_id=some.uuids(),
    plan_type=ids,
    status=some.sampled_from(Standing),
    scope=some.sampled_from(Scope),
    allowed_nodes=some.lists(nodes, max_size=32).map(tuple),
    features=some.lists(ids, max_size=3).map(tuple),
    messages_limit=some.none() | whole,
    messages_used=whole,
    quota_state=some.sampled_from(QuotaState),
    subscription_id=some.none() | some.uuids(),
    valid_from=some.none() | times,
    valid_until=some.none() | times,
    grace_until=some.none() | times,
    issued_at=times,
)
usage_events = some.builds(
    UsageEvent,
    message_id=ids,
    user_id=some.uuids(),
    node_id=some.none() | ids,
    sent_at=times,
    count=some.integers(1, MAX_COUNT),
    lease_id=some.none() | some.uuids(),
)
reports = some.builds(
    UsageReport,
    report_id=ids,
    events=some.lists(usage_events, min_size=1, max_size=5).map(tuple),
)
rejections = some.builds(Rejection, ids, ids)
acks = some.builds(
    UsageAck,
    report_id=ids,
    accepted=whole,
    duplicates=whole,
    rejected=some.lists(rejections, max_size=3).map(tuple),
    at=some.none() | times,
)
watermarks = some.builds(Watermark, sequence=whole, entitlements=whole, version_ceiling=whole, database=ids)

MESSAGES = {
    "Entitlement": entitlements,
    "UsageReport": reports,
    "UsageAck": acks,
    "Watermark": watermarks,
    "TimeRequest": some.builds(TimeRequest, ids),
    "TimeAnswer": some.builds(TimeAnswer, ids, times),
    "LeaseRequest": some.builds(
        LeaseRequest,
        request_id=ids,
        user_id=some.uuids(),
        want=some.integers(0, MAX_COUNT),
        leases=some.lists(some.builds(HeldLease, some.uuids(), some.integers(0, MAX_COUNT)), max_size=3).map(
            tuple
        ),
        openings=some.lists(ids, max_size=3).map(tuple),
    ),
    "LeaseAnswer": some.builds(
        LeaseAnswer,
        request_id=ids,
        user_id=some.uuids(),
        at=times,
        lease_id=some.none() | some.uuids(),
        subscription_id=some.none() | some.uuids(),
        messages=some.integers(0, MAX_COUNT),
        expires_at=some.none() | times,
        reason=some.none() | some.sampled_from(LeaseRefusal),
    ),
}
DECODERS: dict[str, Callable[[bytes], object]] = {
    "Entitlement": EntitlementDocument.decode,
    "UsageReport": lambda payload: read_report(payload)[0],
    "UsageAck": UsageAck.decode,
    "Watermark": Watermark.decode,
    "TimeRequest": TimeRequest.decode,
    "TimeAnswer": TimeAnswer.decode,
    "LeaseRequest": LeaseRequest.decode,
    "LeaseAnswer": LeaseAnswer.decode,
}

"""Where fuzzing starts: the payloads of the other tests, one list for each target."""

import json
from typing import Any

from tests.btcpay.test_payloads import INVOICE, LATE, methods, payment
from tests.contract.builders import ACK, ENTITLEMENT, EVENT, REPORT, WATERMARK
from tests.settings.setting import COMPLETE
from tests.web.test_webhooks import event


def _json(*documents: Any) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


_PAID = methods(payment("Settled", "0.00002", LATE.expires_at), payment("Processing", "1", LATE.expires_at))
_HOOK = {
    "id": "h1",
    "url": "https://kosmo.example/hook",
    "enabled": True,
    "automaticRedelivery": True,
    "authorizedEvents": {"everything": False, "specificEvents": ["InvoiceSettled"]},
    "secret": "s",
}
_DELIVERY = {
    "id": "d1",
    "timestamp": 1_770_000_000,
    "httpCode": 200,
    "errorMessage": None,
    "status": "HttpSuccess",
}
_STORE = {
    "id": "store",
    "name": "Kosmo",
    "defaultCurrency": "USD",
    "paymentTolerance": 0,
    "speedPolicy": "HighSpeed",
}

CORPORA: dict[str, list[bytes]] = {
    "webhook": [
        *_json(event(), event(status="Settled", manualRedelivery=True), event(metadata=None), {"type": "x"}),
        b"sha256=" + b"0" * 64,
    ],
    "usage": _json(
        REPORT,
        {"report_id": "r2", "events": [EVENT | {"message_id": f"m{n}", "node_id": None} for n in range(3)]},
        {"report_id": "r3", "events": [EVENT | {"sent_at": "2026-02-28T12:00:00.5+02:00"}]},
    ),
    "btcpay": [
        *_json(
            dict(INVOICE),
            [dict(INVOICE), {**INVOICE, "status": "Paid"}],
            _PAID,
            {"version": "2.4.1", "fullySynched": True},
            {"permissions": ["btcpay.store.canviewinvoices"]},
            _STORE,
            _HOOK,
            [_HOOK],
            [_DELIVERY],
            {"code": "missing-permission", "message": "no", "missingPermission": "btcpay.store.canmodify"},
            [{"path": "amount", "message": "too little"}],
        ),
        b"7",
        b"Thu, 01 Jan 2026 00:00:00 +0100",
    ],
    "gate": [
        *_json(
            ENTITLEMENT,
            ENTITLEMENT | {"scope": "any_node", "messages_limit": None},
            ENTITLEMENT | {"valid_until": "2026-02-28T12:00:00Z"},
            ENTITLEMENT | {"status": "grace", "grace_until": "2026-03-02T12:00:00Z"},
            ENTITLEMENT | {"status": "revoked"},
            ENTITLEMENT | {"messages_used": 499, "valid_from": "2026-02-01T12:00:00Z"},
            ENTITLEMENT | {"user_id": "ab111111-1111-1111-1111-111111111112"},
            ENTITLEMENT | {"allowed_nodes": ["!0000000A"]},
            ACK,
            WATERMARK,
            {"state": "online", "instance": "one", "version": "1", "since": "2026-03-01T12:00:00Z"},
        ),
        b"",
    ],
    "settings": [
        "\n".join(f"{name}={value}" for name, value in COMPLETE.items()).encode(),
        b"MQTT_USERNAME='joined'\"up\"\n# no\n; no\nPORT=1\r\nWEBHOOK_SECRET=one, two\n",
        b'MQTT_URL="mqtts://user:p\\"w@broker:8883/?x=1"\nTRUSTED_PROXIES=10.0.0.0/8,::1\nPROT=1\n',
        b"AUTH_MODE=jwt\nJWT_JWKS_URL=https://issuer.example/keys\nJWT_ALGORITHMS=RS256,ES256\n",
        b"CORS_ORIGINS=https://a.example\nREDIRECT_HOSTS=a.example\nALLOWED_HOSTS=a.example\nMQTT_PREFIX=a/b\nJWT_LEEWAY=5\n",
    ],
}

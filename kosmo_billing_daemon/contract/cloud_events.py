"""Events on MQTT: CloudEvents 1.0 in structured JSON."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kosmo_billing_daemon.contract.encoding import dumps, rfc3339


def cloud_event(
    *, event_id: str, event_type: str, subject: str | None, time: datetime, data: Mapping[str, Any] | str
) -> bytes:
    """Encode an event as CloudEvents 1.0 structured JSON; ``data`` as a text is JSON already.

    The same event keeps its id on repeats.
    """
    head = dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "kosmo-billing",
            "type": event_type,
            **({} if subject is None else {"subject": subject}),
            "time": rfc3339(time),
            "datacontenttype": "application/json",
        }
    )
    return b'%b,"data":%b}' % (head[:-1], data.encode() if isinstance(data, str) else dumps(data))

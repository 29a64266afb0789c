"""Events on MQTT: CloudEvents 1.0 in structured JSON."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kosmo_billing_daemon.contract.encoding import dumps, encoded, json_text, rfc3339


def cloud_event(
    *, event_id: str, event_type: str, subject: str | None, time: datetime, data: Mapping[str, Any] | str
) -> bytes:
    """Encode an event as CloudEvents 1.0 structured JSON; ``data`` as a text is JSON already.

    The same event keeps its id on repeats.
    """
    body = data.encode() if isinstance(data, str) else dumps(data)
    about = "" if subject is None else f',"subject":{json_text(subject)}'
    head = encoded(
        f'{{"specversion":"1.0","id":{json_text(event_id)},"source":"kosmo-billing"'
        f',"type":{json_text(event_type)}{about},"time":"{rfc3339(time)}"'
        ',"datacontenttype":"application/json","data":'
    )
    return b"%b%b}" % (head, body)

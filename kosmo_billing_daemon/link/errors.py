"""What can go wrong on a link, by what the caller should do: reconnect, or tell the operator."""

from kosmo_billing_daemon.errors import Refused, Unavailable


class LinkLost(Unavailable):
    """The connection to the broker has gone or never came; open another."""

    code = "link_lost"


class ConnectRefused(Unavailable):
    """The broker answered and said no: credentials, rights or client id (``reason_code`` as in MQTT 5)."""

    code = "connect_refused"

    def __init__(self, reason_code: int, reason: str) -> None:
        super().__init__(f"the broker refused the connection: {reason} ({reason_code})")
        self.reason_code = reason_code
        self.reason = reason


class PublishRefused(Refused):
    """The broker did not take a publication; repeating it changes nothing until its rights or limits do."""

    code = "publish_refused"

    def __init__(self, topic: str, reason_code: int, reason: str) -> None:
        super().__init__(f"the broker refused a publication to {topic}: {reason} ({reason_code})")
        self.topic = topic
        self.reason_code = reason_code
        self.reason = reason


class SubscribeRefused(Refused):
    """The broker did not grant a subscription; ``topic`` is the filter."""

    code = "subscribe_refused"

    def __init__(self, topic: str, reason_code: int, reason: str) -> None:
        super().__init__(f"the broker refused a subscription to {topic}: {reason} ({reason_code})")
        self.topic = topic
        self.reason_code = reason_code
        self.reason = reason

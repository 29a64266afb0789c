"""Every topic, built and parsed here and nowhere else."""

from uuid import UUID

from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH
from kosmo_billing_daemon.runtime.records import record

DEFAULT_PREFIX = "kosmo/billing/v1"

SHARDS = tuple(f"{number:02x}" for number in range(256))
"""First two hex digits of a user id. A subscription to all entitlements at once is cut short by a
broker with default limits (Mosquitto: 1,000 queued messages); one shard after another is complete."""


_UNFIT = frozenset("/+#\x00")
"""Never inside one level of a topic: a name with one of them could not be answered."""


def is_name(name: str) -> bool:
    """Say whether a reporter or gateway of that name can have topics of its own."""
    return 1 <= len(name) <= MAX_ID_LENGTH and not _UNFIT.intersection(name)


@record
class Topics:
    """The topic tree below ``prefix``."""

    prefix: str = DEFAULT_PREFIX

    @property
    def status(self) -> str:
        return f"{self.prefix}/status"

    @property
    def watermark(self) -> str:
        return f"{self.prefix}/watermark"

    @property
    def usage_filter(self) -> str:
        return f"{self.prefix}/usage/+"

    @property
    def entitlements_filter(self) -> str:
        return f"{self.prefix}/entitlements/#"

    def shard_filter(self, shard: str) -> str:
        return f"{self.prefix}/entitlements/{shard}/+"

    def entitlement(self, user_id: UUID) -> str:
        return f"{self.prefix}/entitlements/{user_id.hex[:2]}/{user_id}"

    def event(self, event_type: str) -> str:
        return f"{self.prefix}/events/{event_type}"

    def usage(self, reporter: str) -> str:
        return f"{self.prefix}/usage/{reporter}"

    def usage_ack(self, reporter: str) -> str:
        return f"{self.prefix}/usage-acks/{reporter}"

    @property
    def leases_filter(self) -> str:
        return f"{self.prefix}/leases/+"

    def lease(self, reporter: str) -> str:
        return f"{self.prefix}/leases/{reporter}"

    def lease_grant(self, reporter: str) -> str:
        return f"{self.prefix}/lease-grants/{reporter}"

    @property
    def time_requests_filter(self) -> str:
        return f"{self.prefix}/time-requests/+"

    def time_request(self, name: str) -> str:
        return f"{self.prefix}/time-requests/{name}"

    def time_answer(self, name: str) -> str:
        return f"{self.prefix}/time-answers/{name}"

    def entitlement_user(self, topic: str) -> UUID | None:
        """Return the user of a well-formed entitlement topic; the shard must be the user's own."""
        head = f"{self.prefix}/entitlements/"
        if not topic.startswith(head):
            return None
        shard, _, text = topic[len(head) :].partition("/")
        try:
            user_id = UUID(text)
        except ValueError:
            return None
        return user_id if str(user_id) == text and user_id.hex[:2] == shard else None

    def usage_reporter(self, topic: str) -> str | None:
        """Return the reporter of a usage topic."""
        return self._name(f"{self.prefix}/usage/", topic)

    def leasing_reporter(self, topic: str) -> str | None:
        """Return who asks for a lease."""
        return self._name(f"{self.prefix}/leases/", topic)

    def time_requester(self, topic: str) -> str | None:
        """Return the name of the gateway that asks for the time."""
        return self._name(f"{self.prefix}/time-requests/", topic)

    @staticmethod
    def _name(head: str, topic: str) -> str | None:
        name = topic.removeprefix(head) if topic.startswith(head) else ""
        return name if name and not _UNFIT.intersection(name) else None

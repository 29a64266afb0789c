"""The alarm that the broker does not let us publish: its ACL is wrong, and somebody must fix it.

A refusal is an error in the log and makes the daemon unready by name; what was refused stays unpublished
and is tried again, so the alarm ends by itself.
"""

import logging

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import PublishRefused
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

REFUSED_WAIT = 3.0
"""Seconds after which a refused topic is tried again: its ACL may be fixed."""


class Refusals:
    """Keeps the oldest refusal that still stands; others raise the alarm again when they are tried."""

    def __init__(self, topics: Topics) -> None:
        self.current: PublishRefused | None = None
        self._topics = topics
        self._throttle = LogThrottle()

    @property
    def problem(self) -> str | None:
        """What the broker refuses, and what to do about it."""
        if self.current is None:
            return None
        return f"the broker refuses {self.current.topic}: {self.current.reason}; fix its ACL"

    def refused(self, error: PublishRefused) -> None:
        """Raise the alarm; the log is told once a minute for each branch of the topic tree."""
        self.current = self.current or error
        branch = error.topic.removeprefix(self._topics.prefix + "/").partition("/")[0]
        if self._throttle.allows(branch):
            log.error(
                "the broker refuses our publication to %s (%s): fix its ACL (see config/mosquitto/acl)",
                error.topic,
                error.reason,
            )

    def accepted(self, topic: str) -> None:
        """End the alarm if it was about this topic."""
        if self.current is not None and self.current.topic == topic:
            log.info("the broker takes publications to %s again", topic)
            self.forget()

    def forget(self) -> None:
        """Drop the alarm: the connection it was about is over, or the rights were fixed."""
        self.current = None
        self._throttle = LogThrottle()

"""Links in events about a short quota, by which a user buys more messages without a login.

Triggers write these events, whoever counts. A link follows from a secret that no database knows, so it is
added when an event is sent; the event keeps its id.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

from kosmo_billing_daemon.contract.encoding import loads
from kosmo_billing_daemon.domain.plans import Catalogue, Plan
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.store.events import StoredEvent

SHORTAGES: Final = ("quota.warning", "quota.exhausted")

MOST_CHARACTERS: Final = 80
"""Of a link that names its pack; with a longer one the page lets its reader choose."""

E = TypeVar("E", bound=StoredEvent)


@record(kw_only=True)
class TopUps:
    """Knows which pack fits which plan."""

    links: RenewalLinks
    catalogue: Catalogue

    async def add(self, events: Sequence[E]) -> list[E]:
        """Return the events, those about a short quota with a link to the first pack that fits."""
        packs: dict[int, Plan] = {}
        users: dict[int, UserId] = {}
        for event in events if self.links.public_url is not None else ():
            pack = self._pack(event)
            if pack is not None and event.user_id is not None:
                packs[event.id], users[event.id] = pack, UserId(event.user_id)
        if not packs:
            return list(events)
        try:
            async with self.links.pool.connection() as connection:
                urls = await self.links.issue(connection, sorted(set(users.values())))
        except Unavailable:  # a database that takes no writes, say: the event matters more than its link
            return list(events)
        return [
            replace(event, topup_url=_url(urls[users[event.id]], packs[event.id]))
            if event.id in packs
            else event
            for event in events
        ]

    def _pack(self, event: StoredEvent) -> Plan | None:
        if event.type not in SHORTAGES or not self.catalogue.packs:
            return None
        facts = loads(event.data.encode())
        return next((pack for pack in self.catalogue.packs if facts.get("plan_type") in pack.fits), None)


def _url(link: str, pack: Plan) -> str:
    named = f"{link}?pack={pack.plan_type}"
    return named if len(named) <= MOST_CHARACTERS else link

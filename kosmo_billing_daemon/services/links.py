"""Renewal links: one per user, that pays without a login, for a plan or (with a query) for a pack.

Whoever may renew for a user may as well buy a pack, so another token for each purpose would protect nothing,
and a user has one link to revoke.

A token has 128 bits and is computed, so a user is shown the same link each time although only its hash is
kept: who reads the database alone can use none. Another secret gives other tokens, and links given out before
stay valid until they are revoked: a changed API key ends no link.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.contract.paths import RENEWAL
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import NotFound, Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import links
from kosmo_billing_daemon.store.postgres import Connection, Pool

TOKEN_BYTES: Final = 16
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


@record(kw_only=True)
class RenewalLinks:
    """``public_url`` is where people reach us; without one no links are given out."""

    pool: Pool
    clock: Clock
    key: bytes
    public_url: str | None = None

    def __repr__(self) -> str:
        return "RenewalLinks()"  # the key stays out of logs

    def url(self, token: str) -> str | None:
        return None if self.public_url is None else f"{self.public_url}{RENEWAL}/{token}"

    async def show(self, user_id: UserId) -> str | None:
        """Return the user's link; ``None`` where none are given out."""
        if self.public_url is None:
            return None
        try:
            async with self.pool.connection() as connection:
                return (await self.issue(connection, [user_id])).get(user_id)
        except Unavailable:  # a database that takes no writes, say: what else is asked can be shown
            return None

    async def issue(self, connection: Connection, users: Sequence[UserId]) -> dict[UserId, str]:
        """Return each user's link, made valid where it is new; empty where none are given out."""
        if self.public_url is None or not users:
            return {}
        shown: dict[UserId, str] = {}
        new: list[tuple[bytes, UUID, int]] = []
        for issued in await links.load(connection, users):
            token = self._token(issued.user_id, issued.generation)
            if (hashed := _hash(token)) not in issued.hashes:
                new.append((hashed, issued.user_id, issued.generation))
            shown[UserId(issued.user_id)] = f"{self.public_url}{RENEWAL}/{token}"
        await links.issue(connection, new, self.clock())
        return shown

    async def find(self, token: str) -> UserId:
        """Return whose link this is; raises ``NotFound`` alike for revoked and for invented ones."""
        if not _TOKEN.fullmatch(token):
            raise NotFound("there is no such link", code="link_not_found")
        async with self.pool.connection() as connection:
            user_id = await links.find_user(connection, _hash(token))
        if user_id is None:
            raise NotFound("there is no such link", code="link_not_found")
        return UserId(user_id)

    def _token(self, user_id: UUID, generation: int) -> str:
        said = b"renew/%b/%d" % (user_id.bytes, generation)
        digest = hmac.digest(self.key, said, "sha256")[:TOKEN_BYTES]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()

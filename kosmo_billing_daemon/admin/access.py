"""Who may use the console: an operator is let in once by a link, and stays for a session.

The rules it keeps: a session lasts eight hours at most, and ends after half an hour without a request. Its
token is new at each login, so nobody can have planted it. Tokens are random, and only their hashes are kept.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.errors import Invalid, NotFound, Unavailable
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.rate_limit import RateLimit
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import console
from kosmo_billing_daemon.store.postgres import Pool

log = logging.getLogger(__name__)

LINK_LASTS: Final = timedelta(minutes=5)
SESSION_LASTS: Final = timedelta(hours=8)
IDLE_LASTS: Final = timedelta(minutes=30)
SEEN_EVERY: Final = timedelta(seconds=15)  # so that reading page after page writes little
LOGINS_PER_MINUTE: Final = 10

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_LONGEST_NAME: Final = 64
_EVERYBODY: Final = UUID(int=0)  # all come through one socket, so they are counted together


@record
class Operator:
    """Somebody at the console; ``token`` is the session's, and must be shown to nobody else."""

    who: str
    token: str

    def __repr__(self) -> str:
        return f"Operator({self.who!r})"  # the token stays out of logs

    def sign(self, text: str) -> str:
        """Return what only this session can make of a text: proof that a form was its own."""
        return hmac.new(self.token.encode(), text.encode(), "sha256").hexdigest()

    def signed(self, text: str, signature: str) -> bool:
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))


class ConsoleAccess:
    """Makes login links, spends them, and knows the sessions."""

    def __init__(
        self, *, pool: Pool, clock: Clock, token: Callable[[], str] = lambda: secrets.token_urlsafe(32)
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._token = token
        self._limit = RateLimit(
            LOGINS_PER_MINUTE, code="too_many_logins", told="too many logins were tried; wait a minute"
        )

    async def invite(self, who: str, lasts: timedelta = LINK_LASTS) -> str:
        """Return the token of a link that lets an operator in, once."""
        name = who.strip()
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise Invalid(f"an operator's name is one line of at most {_LONGEST_NAME} characters", field="as")
        token, now = self._token(), self._clock()
        async with self._pool.transaction() as connection:
            await console.delete_ended(connection, now, now - SESSION_LASTS, now - IDLE_LASTS)
            await console.append_login(connection, _hash(token), name, now + lasts)
        return token

    async def log_in(self, token: str) -> Operator:
        """Spend a link; raises ``NotFound`` alike for spent, old and invented ones, and ``TooMany``."""
        self._limit.take(_EVERYBODY)
        if not _TOKEN.fullmatch(token):
            log.warning("a login at the console was refused: the link is malformed")
            raise NotFound("this login link is not valid", code="login_not_found")
        operator_token, now = self._token(), self._clock()
        async with self._pool.transaction() as connection:
            who = await console.spend_login(connection, _hash(token), now)
            if who is not None:
                await console.append_session(connection, _hash(operator_token), who, now)
        if who is None:
            log.warning("a login at the console was refused: the link is unknown, spent or too old")
            raise NotFound("this login link was used before, or is too old", code="login_not_found")
        log.info("an operator logged in at the console", extra=fields(who=who))
        return Operator(who, operator_token)

    async def find(self, token: str) -> Operator | None:
        """Return whose session this is, and note that it is in use; ``None`` if it is over or never was."""
        if not _TOKEN.fullmatch(token):
            return None
        now, hashed = self._clock(), _hash(token)
        session = await self._pool.read(console.load_session, hashed, now - SESSION_LASTS, now - IDLE_LASTS)
        if session is None:
            return None
        if now - session.seen_at >= SEEN_EVERY:
            with suppress(Unavailable):  # a database that takes no writes, say, can still be read
                async with self._pool.connection() as connection:
                    await console.save_seen(connection, hashed, now)
        return Operator(session.who, token)

    async def lasts(self, operator: Operator) -> bool:
        """Say whether a session goes on; asking does not keep it from ending."""
        now = self._clock()
        session = await self._pool.read(
            console.load_session, _hash(operator.token), now - SESSION_LASTS, now - IDLE_LASTS
        )
        return session is not None

    async def log_out(self, operator: Operator) -> None:
        """End a session at once."""
        async with self._pool.transaction() as connection:
            await console.delete_session(connection, _hash(operator.token))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()

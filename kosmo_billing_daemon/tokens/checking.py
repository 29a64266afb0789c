"""Whose a bearer token is. The rule it keeps: every doubt is the same refusal, and the token itself has
no say in how it is checked.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

import jwt

from kosmo_billing_daemon.contract.encoding import ANY_UUID
from kosmo_billing_daemon.errors import Misconfigured, Refused
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.settings import Jwt
from kosmo_billing_daemon.tokens.keys import FileKey, JwksKeys, Keys


class Untrusted(Refused):
    """The token does not say in a way that is trusted who asks."""

    code = "untrusted_token"


@record(kw_only=True)
class Checker:
    """Checks signature, issuer, audience, times and the claim that names the user."""

    keys: Keys
    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    claim: str = "sub"
    leeway: timedelta = timedelta(seconds=30)

    async def user(self, token: str) -> UUID:
        """Return the user; raises ``Untrusted``, or ``Unavailable`` while the issuer's keys are away."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Untrusted("the token cannot be read") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self.algorithms:
            raise Untrusted("the token's algorithm is not among JWT_ALGORITHMS")
        # Extensions that must be understood (crit) are not: RFC 7515, 4.1.11.
        if "crit" in header or not isinstance(key_id, str | None):
            raise Untrusted("the token's header has crit, or a kid that is not a text")
        key = await self.keys.find(key_id, algorithm)
        if key is None:
            raise Untrusted("the token is signed with a key that the issuer does not publish")
        return self._named(self._claims(token, key, algorithm))

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.issuer,
                audience=self.audience,
                leeway=self.leeway,
                # sub may be anything where another claim names the user.
                options={"require": ["exp", "iss", "aud", self.claim], "verify_sub": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Untrusted(f"the token is not valid: {type(error).__name__}: {error}") from error
        return claims

    def _named(self, claims: dict[str, Any]) -> UUID:
        named = claims.get(self.claim)
        if not isinstance(named, str) or not ANY_UUID.fullmatch(named):
            raise Untrusted(f"the token's claim {self.claim} is not a UUID")
        return UUID(named)


def checker(settings: Jwt) -> Checker:
    """Build the checker; raises ``Misconfigured`` for a key file that does not fit."""
    keys: Keys
    if settings.jwks_url is not None:
        keys = JwksKeys(settings.jwks_url)
    elif settings.key_file is not None:
        keys = FileKey.read(settings.key_file, settings.algorithms)
    else:
        raise Misconfigured(["AUTH_MODE=jwt not configured: set JWT_JWKS_URL or JWT_KEY_FILE"])
    return Checker(
        keys=keys,
        algorithms=settings.algorithms,
        issuer=settings.issuer,
        audience=settings.audience,
        claim=settings.claim,
        leeway=settings.leeway,
    )

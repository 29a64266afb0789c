"""The keys that tokens are signed with: from a file, or from the issuer's JWKS address.

The rule it keeps: the issuer is asked seldom, whatever tokens come in, and an issuer that is away costs
nobody who signed in before: keys once seen hold on for a day.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kosmo_billing_daemon.errors import Misconfigured, Unavailable
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.records import record

log = logging.getLogger(__name__)

FRESH: Final = 600.0  # seconds after which keys are looked at again
STALE: Final = 86_400.0  # seconds that they hold on while the issuer is away
BETWEEN: Final = 30.0  # seconds at least between two requests: unknown key ids are free to invent
ANSWER_WITHIN: Final = 5.0
MAX_BYTES: Final = 256 * 1024
MIN_SECRET_BYTES: Final = 32  # RFC 7518, 3.2: no shorter than the hash

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "secp256k1": "ES256K"}
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class KeysAway(Unavailable):
    """The issuer's keys were never seen, and cannot be fetched now."""

    code = "keys_unavailable"


@record
class FileKey:
    """One key from a file, whatever id a token names."""

    key: Any
    algorithms: frozenset[str]

    @classmethod
    def read(cls, path: Path, algorithms: tuple[str, ...]) -> "FileKey":
        """Read a public key or certificate in PEM, or a shared secret; raises ``Misconfigured``."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise Misconfigured([f"JWT_KEY_FILE: the file cannot be read: {error.strerror}"]) from error
        if algorithms[0].startswith("HS"):
            secret = raw.rstrip(b"\r\n")
            if len(secret) < MIN_SECRET_BYTES:
                raise Misconfigured([f"JWT_KEY_FILE: a shared secret has at least {MIN_SECRET_BYTES} bytes"])
            return cls(secret, frozenset(algorithms))
        try:
            key: Any
            if b"BEGIN CERTIFICATE" in raw:
                key = x509.load_pem_x509_certificate(raw).public_key()
            else:
                key = load_pem_public_key(raw)
        except (ValueError, TypeError) as error:
            raise Misconfigured(["JWT_KEY_FILE: it holds no public key or certificate in PEM"]) from error
        fit = _algorithms_of(key) & frozenset(algorithms)
        if not fit:
            raise Misconfigured(["JWT_KEY_FILE: its key is not of the kind that JWT_ALGORITHMS names"])
        return cls(key, fit)

    async def find(self, key_id: str | None, algorithm: str) -> Any | None:  # noqa: ARG002 - there is only one
        return self.key if algorithm in self.algorithms else None


def _algorithms_of(key: object) -> frozenset[str]:
    match key:
        case rsa.RSAPublicKey():
            return _RSA
        case ec.EllipticCurvePublicKey():
            return frozenset({_EC[key.curve.name]} if key.curve.name in _EC else ())
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()


class JwksKeys:
    """The keys at an address, kept ``fresh`` seconds and ``stale`` ones at need."""

    def __init__(
        self,
        url: str,
        *,
        fresh: float = FRESH,
        stale: float = STALE,
        between: float = BETWEEN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._fresh = fresh
        self._stale = stale
        self._between = between
        self._monotonic = monotonic
        self._keys: tuple[Mapping[str, Any], ...] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._throttle = LogThrottle()

    async def find(self, key_id: str | None, algorithm: str) -> Any | None:
        """Return the key; raises ``KeysAway`` when none were seen for too long.

        Only who brings a key that is not known waits for the issuer.
        """
        refreshing = None
        if self._monotonic() - self._fetched_at > self._fresh:
            refreshing = self._refresh()
        found = self._among(key_id, algorithm)
        if found is None and key_id is not None:
            refreshing = self._refresh()  # the issuer may have changed its key a moment ago
        if found is None and refreshing is not None:
            await asyncio.shield(refreshing)
            found = self._among(key_id, algorithm)
        if found is None and self._monotonic() - self._fetched_at > self._stale:
            raise KeysAway("the issuer's keys cannot be fetched", retry_after=self._between)
        return found

    def _refresh(self) -> "asyncio.Task[None] | None":
        """Begin to fetch, once for all who wait, unless that was tried a moment ago."""
        if self._fetching is None and self._monotonic() - self._tried_at >= self._between:
            self._tried_at = self._monotonic()
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, _done: "asyncio.Task[None]") -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            async with (
                asyncio.timeout(ANSWER_WITHIN),
                httpx.AsyncClient(timeout=ANSWER_WITHIN, trust_env=False) as client,
                client.stream("GET", self._url, headers={"Accept": "application/json"}) as answer,
            ):
                answer.raise_for_status()
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ValueError("the answer is too large for keys")
            self._keys = _parsed(bytes(body))
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            TimeoutError,
            OSError,
            ValueError,
            RecursionError,
        ) as error:
            if self._throttle.allows("jwks"):
                log.warning(
                    "the keys of JWT_JWKS_URL cannot be fetched: %s", str(error) or type(error).__name__
                )
            return
        self._throttle.forget("jwks")
        self._fetched_at = self._monotonic()

    def _among(self, key_id: str | None, algorithm: str) -> Any | None:
        if self._monotonic() - self._fetched_at > self._stale:
            return None
        fit = [
            key
            for key in self._keys
            if _is_for(key, algorithm) and (key_id is None or key.get("kid") == key_id)
        ]
        if len(fit) != 1:  # none, or no way to tell which one is meant
            return None
        try:
            return jwt.PyJWK(dict(fit[0]), algorithm=algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            return None


Keys = FileKey | JwksKeys
"""Where keys come from."""


def _parsed(body: bytes) -> tuple[Mapping[str, Any], ...]:
    document = json.loads(body.decode())
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("the answer holds no keys")  # noqa: TRY004 - bad data, no programming error
    return tuple(key for key in keys if isinstance(key, dict))


def _is_for(key: Mapping[str, Any], algorithm: str) -> bool:
    """Say whether a key is meant for such signatures; shared secrets never are."""
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    match key.get("kty"):
        case "RSA":
            return algorithm in _RSA
        case "EC":
            return _CURVES.get(str(key.get("crv"))) == algorithm
        case "OKP":
            return algorithm == "EdDSA"
        case _:
            return False

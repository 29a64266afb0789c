"""An issuer of tokens: a small server with keys that can be changed, counted and taken away."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://id.example.org"
AUDIENCE = "kosmo-billing"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwk(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, key_id: str | None, **more: Any
) -> dict[str, Any]:
    kind: Any = (
        jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    )
    described: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return described | ({} if key_id is None else {"kid": key_id}) | more


def claims(user: object, **changed: Any) -> dict[str, Any]:
    """What a good token says; a claim changed to None is left out."""
    now = int(time.time())
    said = {"sub": str(user), "iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "iat": now} | changed
    return {name: value for name, value in said.items() if value is not None}


def signed(said: dict[str, Any], key: Any = RSA_KEY, algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(said, key, algorithm=algorithm, headers={"kid": "one", **header})


def by_hand(said: dict[str, Any], header: dict[str, Any], secret: bytes | None = None) -> str:
    """A token no library would make: unsigned, or signed with a public key as if it were a secret."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, said)]
    signature = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@dataclass
class Issuer:
    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    answer: web.Response | None = None


@asynccontextmanager
async def issuing(*keys: dict[str, Any]) -> AsyncIterator[Issuer]:
    issuer = Issuer(keys=list(keys))

    async def jwks(_: web.Request) -> web.Response:
        issuer.asked += 1
        return issuer.answer or web.json_response({"keys": issuer.keys})

    app = web.Application()
    app.router.add_get("/jwks", jwks)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
        yield issuer
    finally:
        await runner.cleanup()

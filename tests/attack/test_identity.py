"""Who claims to be somebody else, by header, by token, and by the places where identities are kept."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from multidict import CIMultiDict

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.settings import AuthMode, Jwt
from tests.attack.raw_http import exchange, statuses
from tests.web.conftest import Service, Starter
from tests.web.issuer import (
    AUDIENCE,
    EC_KEY,
    ISSUER,
    OTHER_RSA_KEY,
    RSA_KEY,
    Issuer,
    by_hand,
    claims,
    issuing,
    jwk,
    public_pem,
    signed,
)

SUBSCRIPTION = f"GET {API}/subscription HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


async def test_a_header_that_is_only_like_it_names_nobody(start: Starter, user: UUID) -> None:
    """What a proxy may let through because it looks for another spelling."""
    service = await start(keepalive_seconds=0.15)
    other = uuid4()
    for said in (
        f"X_User_ID: {user}",
        f"X-User-Id\x00: {user}",
        f"X-User-ID : {user}",
        f"X-User-ID:\r\n {user}",
        f"x-user-id: {user}\r\nX-USER-ID: {other}",
        f"X-User-ID: {user}\r\nX-User-ID:",
        f"X-User-ID: {user},{other}",
        f"X-User-ID: {user};",
        f"X-User-ID: {user}\x0b",
        f"X-User-ID: {user}\xa0",
        f"X-User-ID: {user}\r\r\n",
        f"X-User-ID: {user}%00",
        f"Cookie: X-User-ID={user}",
        f"X-Forwarded-User: {user}",
        f"Transfer-Encoding: chunked\r\nTrailer: X-User-ID\r\n\r\n0\r\nX-User-ID: {user}",
    ):
        answers = await exchange(service, f"{SUBSCRIPTION}{said}\r\n\r\n".encode("latin-1"))
        assert statuses(answers) in ([401], [400]), said
        assert str(user).encode() not in answers.partition(b"\r\n\r\n")[2] or statuses(answers) == [400]
    named = await exchange(service, f"{SUBSCRIPTION}X-User-ID: {user}\r\n\r\n".encode())
    assert statuses(named) == [200]


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing(jwk(RSA_KEY, "one"), jwk(EC_KEY, "two")) as running:
        yield running


@pytest.fixture
async def evil() -> AsyncIterator[Issuer]:
    """The attacker's own address, with his key under our id."""
    async with issuing(jwk(OTHER_RSA_KEY, "one")) as running:
        yield running


@pytest.fixture
async def guarded(start: Starter, issuer: Issuer) -> Service:
    algorithms = ("RS256", "ES256")
    told = Jwt(issuer=ISSUER, audience=AUDIENCE, algorithms=algorithms, jwks_url=issuer.url)
    return await start(auth_mode=AuthMode.JWT, jwt=told)


TWICE = b'{"alg":"none","alg":"RS256","kid":"one"}'


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(user: UUID, issuer: Issuer, evil: Issuer) -> dict[str, str]:
    """Beyond what tests/web/test_tokens.py tries."""
    good, now = claims(user), int(time.time())
    head, body, signature = signed(good).split(".")
    secret = json.dumps({"keys": issuer.keys}).encode()
    kids = (
        "../../../../dev/null",
        "/proc/self/environ",
        "one' OR '1'='1",
        "one\x00",
        "ONE",
        "",
        "|id",
        evil.url,
    )
    return {f"kid {kid!r}": by_hand(good, {"alg": "RS256", "kid": kid}, b"") for kid in kids} | {
        "kid by the attacker's key": signed(good, OTHER_RSA_KEY, kid=evil.url),
        "jku": signed(good, OTHER_RSA_KEY, jku=evil.url),
        "x5u": signed(good, OTHER_RSA_KEY, x5u=evil.url),
        "x5c": signed(good, OTHER_RSA_KEY, x5c=[part(public_pem(OTHER_RSA_KEY))]),
        "HS256 with the key set": by_hand(good, {"alg": "HS256", "kid": "one"}, secret),
        "HS256 with nothing": by_hand(good, {"alg": "HS256", "kid": "one"}, b""),
        "HS512 with the public key": jwt.encode(good, "k" * 64, "HS512", headers={"kid": "one"}),
        "alg in small letters": by_hand(good, {"alg": "rs256", "kid": "one"}),
        "alg twice": f"{part(TWICE)}.{body}.{signature}",
        "the EC key's id over RSA": signed(good, kid="two"),
        "an EC signature of zeros": f"{part({'alg': 'ES256', 'kid': 'two'})}.{body}.{part(bytes(64))}",
        "an EC signature of nothing": f"{part({'alg': 'ES256', 'kid': 'two'})}.{body}.",
        "a body that is not encoded": signed(good, b64=False, crit=["b64"]),
        "encrypted": f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{part(b'iv')}.{body}.{signature}",
        "a blank in the signature": f"{head}.{body}.{signature[:9]} {signature[9:]}",
        "a body that is another's": f"{head}.{part(claims(uuid4()))}.{signature}",
        "nested for ever": f"{part(b'[' * 5000)}.{body}.{signature}",
        "expired for ever": signed(claims(user, exp=0)),
        "expiry below nothing": signed(claims(user, exp=-1)),
        "expiry true": signed(claims(user, exp=True)),
        "expiry in a list": signed(claims(user, exp=[now + 300])),
        "expiry that is no number": f"{head}.{part(good | {'exp': float('nan')})}.{signature}",
        "not before tomorrow": signed(claims(user, nbf=now + 86_400)),
        "issued tomorrow": signed(claims(user, iat=now + 86_400)),
        "issuers in a list": jwt.api_jws.encode(
            json.dumps(claims(user, iss=[ISSUER])).encode(), RSA_KEY, "RS256", headers={"kid": "one"}
        ),
        "part of the audience": signed(claims(user, aud=AUDIENCE[:-1])),
        "more than the audience": signed(claims(user, aud=AUDIENCE + "x")),
        "audience in an object": signed(claims(user, aud={AUDIENCE: True})),
        "a subject and more": signed(claims(f"{user}\n")),
        "a subject and another": signed(claims(f"{user} {uuid4()}")),
    }


async def test_no_forged_token_names_anybody(
    guarded: Service, issuer: Issuer, evil: Issuer, user: UUID
) -> None:
    """And no token leads the daemon to an address of its choice, or to ask the issuer for each."""
    said = {name: {"Authorization": f"Bearer {token}"} for name, token in forged(user, issuer, evil).items()}
    good = signed(claims(user))
    elsewhere: dict[str, dict[str, Any]] = {
        "in the query": {"params": {"access_token": good}},
        "in a cookie": {"cookies": {"access_token": good, "Authorization": f"Bearer {good}"}},
        "for the proxy": {"headers": {"Proxy-Authorization": f"Bearer {good}"}},
        "two in one": {"headers": {"Authorization": f"Bearer {good}, Bearer {good}"}},
        "and a bad one": {
            "headers": CIMultiDict([("Authorization", f"Bearer {good}"), ("Authorization", "Bearer x")])
        },
        "the user beside it": {"headers": {"Authorization": "Bearer x", "X-User-ID": str(user)}},
    }
    asked = {name: {"headers": CIMultiDict(headers)} for name, headers in said.items()} | elsewhere
    seen = set()
    for name, request in asked.items():
        answer = await guarded.ask("GET", "/subscription", **request)
        assert (answer.status, answer.code) == (401, "unauthenticated"), name
        seen.add((answer.headers["WWW-Authenticate"], answer.body["detail"]))
    assert len(seen) == 1  # nothing tells which doubt it was
    assert evil.asked == 0
    assert issuer.asked <= 2
    answer = await guarded.ask("GET", "/subscription", headers={"Authorization": f"Bearer {good}"})
    assert (answer.status, answer.body["user_id"]) == (200, str(user))


async def test_what_is_anothers_is_as_if_it_were_not_there(service: Service, user: UUID) -> None:
    """Reading, cursors, idempotency keys and live streams: nothing of one user leads to another's."""
    victim = uuid4()
    key = {"Idempotency-Key": "the-same-key-of-both"}
    opened = await service.ask("POST", "/invoices", user=victim, headers=key, json={"plan_type": "guardian"})
    await service.buy(victim, "wanderer")
    invoice = opened.body["invoice_id"]
    cursor = (await service.ask("GET", "/invoices?limit=1", user=victim)).body["next_cursor"]
    mine = await service.ask("POST", "/invoices", user=user, headers=key, json={"plan_type": "guardian"})
    assert mine.body["invoice_id"] != invoice
    for path in (f"/invoices/{invoice}", f"/invoices/{opened.body['order_id']}"):
        theirs = await service.ask("GET", path, user=user)
        nobodys = await service.ask("GET", "/invoices/none", user=user)
        assert (theirs.status, theirs.code) == (nobodys.status, nobodys.code) == (404, "invoice_not_found")
    for query in (f"cursor={cursor}", f"user_id={victim}", f"user={victim}&X-User-ID={victim}"):
        answer = await service.ask("GET", f"/invoices?{query}", user=user)
        assert invoice not in answer.raw.decode()
        assert answer.status in {200, 422}
    tag = (await service.ask("GET", "/invoices", user=victim)).headers["ETag"]
    unseen = await service.ask("GET", "/invoices", user=user, headers={"If-None-Match": tag})
    assert unseen.status == 200

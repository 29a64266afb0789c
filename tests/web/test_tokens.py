"""Bearer tokens: whose they are, and that all doubts get one answer."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from aiohttp import web
from multidict import CIMultiDict

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import AuthMode, Jwt
from kosmo_billing_daemon.tokens.checking import Untrusted, checker
from kosmo_billing_daemon.tokens.keys import FileKey, JwksKeys, KeysAway
from tests.web.conftest import Answer, Service, Starter
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


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing(jwk(RSA_KEY, "one"), jwk(EC_KEY, "two", use="sig")) as running:
        yield running


def settings(issuer: Issuer | None = None, **more: Any) -> Jwt:
    told: dict[str, Any] = {"algorithms": ("RS256", "ES256"), "issuer": ISSUER, "audience": AUDIENCE}
    return Jwt(**told | ({} if issuer is None else {"jwks_url": issuer.url}) | more)


@pytest.fixture
async def guarded(start: Starter, issuer: Issuer) -> Service:
    return await start(auth_mode=AuthMode.JWT, jwt=settings(issuer))


async def ask(service: Service, token: str, **headers: str) -> Answer:
    return await service.ask("GET", "/subscription", headers={"Authorization": f"Bearer {token}", **headers})


async def test_a_token_names_its_user(guarded: Service, issuer: Issuer, user: UUID) -> None:
    for token in (signed(claims(user)), signed(claims(user), EC_KEY, "ES256", kid="two")):
        answer = await ask(guarded, token)
        assert (answer.status, answer.body["user_id"]) == (200, str(user))
    assert issuer.asked == 1


async def test_who_sends_both_is_whom_the_token_names(guarded: Service, user: UUID) -> None:
    answer = await ask(guarded, signed(claims(user)), **{"X-User-ID": str(uuid4())})
    assert answer.body["user_id"] == str(user)


async def test_the_header_alone_names_nobody(guarded: Service, user: UUID) -> None:
    assert (await guarded.ask("GET", "/subscription", user=user)).status == 401


async def test_by_header_tokens_are_ignored(service: Service, user: UUID) -> None:
    assert (await ask(service, signed(claims(user)))).status == 401
    answer = await ask(service, signed(claims(uuid4())), **{"X-User-ID": str(user)})
    assert answer.body["user_id"] == str(user)


def wrong_tokens(user: UUID) -> dict[str, str]:
    now = int(time.time())
    good = claims(user)
    head, body, signature = signed(good).split(".")
    pem = public_pem(RSA_KEY)
    return {
        "alg none": by_hand(good, {"alg": "none", "kid": "one"}),
        "alg None": by_hand(good, {"alg": "None", "kid": "one"}),
        "no alg": by_hand(good, {"kid": "one"}),
        "alg that is no text": by_hand(good, {"alg": ["RS256"], "kid": "one"}),
        "HS256 with the public key": by_hand(good, {"alg": "HS256", "kid": "one"}, pem),
        "RS256 that is HMAC": by_hand(good, {"alg": "RS256", "kid": "one"}, pem),
        "an algorithm that is not listed": signed(good, algorithm="RS384"),
        "a key of another kind": by_hand(good, {"alg": "ES256", "kid": "one"}, pem),
        "a foreign key under our id": signed(good, OTHER_RSA_KEY),
        "a foreign key id": signed(good, OTHER_RSA_KEY, kid="three"),
        "a key id that is no text": by_hand(good, {"alg": "RS256", "kid": 1}),
        "no key id where there are two keys": jwt.encode(good, OTHER_RSA_KEY, algorithm="RS256"),
        "a key it brings itself": signed(good, OTHER_RSA_KEY, jwk=jwk(OTHER_RSA_KEY, "one")),
        "an extension that must be understood": signed(good, crit=["exp"]),
        "wrong audience": signed(claims(user, aud="another")),
        "no audience": signed(claims(user, aud=None)),
        "wrong issuer": signed(claims(user, iss="https://evil.example")),
        "issuer and a slash": signed(claims(user, iss=ISSUER + "/")),
        "no issuer": signed(claims(user, iss=None)),
        "expired": signed(claims(user, exp=now - 31)),
        "no expiry": signed(claims(user, exp=None)),
        "expiry that is no number": signed(claims(user, exp="tomorrow")),
        "expiry beyond time": by_hand(claims(user, exp=10**400), {"alg": "RS256", "kid": "one"}),
        "not yet valid": signed(claims(user, nbf=now + 60)),
        "no subject": signed(claims(user, sub=None)),
        "a subject that is no UUID": signed(claims("root")),
        "a subject in braces": signed(claims(f"{{{user}}}")),
        "a subject that is a list": signed(claims(user) | {"sub": [str(user)]}),
        "another body": ".".join((head, signed(claims(uuid4())).split(".")[1], signature)),
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{head}.{body}.{signature}.{signature}",
        "nothing": "",
        "no token": "x",
        "no base64": "\u00e4.\u00e4.\u00e4",
        "a body that is no object": jwt.api_jws.encode(b"[1]", RSA_KEY, "RS256", headers={"kid": "one"}),
        "a body that is no JSON": jwt.api_jws.encode(b"\xff", RSA_KEY, "RS256", headers={"kid": "one"}),
    }


async def test_the_log_says_why_a_token_was_refused_and_never_what_it_was(
    guarded: Service, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kosmo_billing_daemon.web")
    tokens = wrong_tokens(user)
    for name, why in {
        "alg none": "JWT_ALGORITHMS",
        "a foreign key": "does not publish",
        "a foreign key under our id": "Signature verification failed",
        "wrong audience": "Audience doesn't match",
        "wrong issuer": "Invalid issuer",
        "expired": "Signature has expired",
        "a subject that is no UUID": "claim sub is not a UUID",
        "nothing": "cannot be read",
    }.items():
        token = signed(claims(user), kid="three") if name == "a foreign key" else tokens[name]
        answer = await ask(guarded, token, **{"X-Request-ID": name.replace(" ", "-")})
        line = caplog.records[-1].__dict__["fields"]
        assert (answer.status, line["request_id"]) == (401, name.replace(" ", "-"))
        assert why in line["reason"], name
        assert not token or token not in caplog.text


async def test_every_doubt_gets_the_same_answer(guarded: Service, user: UUID) -> None:
    answers = {name: await ask(guarded, token) for name, token in wrong_tokens(user).items()}
    answers["no header"] = await guarded.ask("GET", "/subscription")
    for scheme in ("Basic", "bearer:", "Token"):
        given = {"Authorization": f"{scheme} {signed(claims(user))}"}
        answers[scheme] = await guarded.ask("GET", "/subscription", headers=given)
    twice = CIMultiDict([("Authorization", f"Bearer {signed(claims(user))}")] * 2)
    answers["twice"] = await guarded.ask("GET", "/subscription", headers=twice)
    seen = {}
    for name, answer in answers.items():
        assert answer.status == 401, name
        said = {key: value for key, value in answer.body.items() if key != "request_id"}
        seen[name] = (str(said), answer.headers["WWW-Authenticate"])
    assert set(seen.values()) == {next(iter(seen.values()))}


async def test_clocks_may_differ_a_little(guarded: Service, user: UUID) -> None:
    now = int(time.time())
    for said in (claims(user, exp=now - 20), claims(user, nbf=now + 20), claims(user, aud=["x", AUDIENCE])):
        assert (await ask(guarded, signed(said))).status == 200


async def test_another_claim_may_name_the_user(start: Starter, issuer: Issuer, user: UUID) -> None:
    service = await start(auth_mode=AuthMode.JWT, jwt=settings(issuer, claim="kosmo_user"))
    said = claims("google|1234", kosmo_user=str(user))
    assert (await ask(service, signed(said))).body["user_id"] == str(user)
    assert (await ask(service, signed(claims(user)))).status == 401


async def test_a_changed_key_is_found_but_the_issuer_is_not_asked_for_each_invention(
    issuer: Issuer,
) -> None:
    now = [0.0]
    keys = JwksKeys(issuer.url, monotonic=lambda: now[0])
    assert await keys.find("one", "RS256") is not None
    for _ in range(50):
        assert await keys.find("invented", "RS256") is None
    assert issuer.asked == 1
    issuer.keys = [jwk(OTHER_RSA_KEY, "next")]
    now[0] += 31
    found = await asyncio.gather(*(keys.find("next", "RS256") for _ in range(20)))
    assert None not in found
    assert issuer.asked == 2
    assert await keys.find("one", "RS256") is None  # withdrawn


async def test_keys_hold_on_while_the_issuer_is_away_but_not_for_ever(issuer: Issuer) -> None:
    now = [0.0]
    keys = JwksKeys(issuer.url, monotonic=lambda: now[0])
    assert await keys.find("one", "RS256") is not None
    for broken in (
        web.Response(status=500),
        web.Response(text="<html>"),
        web.json_response([]),
        web.Response(body=b" " * 300_000),
        web.Response(status=302, headers={"Location": "/elsewhere"}),
    ):
        now[0] += 3600
        issuer.answer = broken
        assert await keys.find("unknown", "RS256") is None  # who waits for the issuer
        assert await keys.find("one", "RS256") is not None
    assert issuer.asked == 6
    issuer.answer = web.Response(status=503)  # aiohttp sends none twice: it would be waited for
    now[0] += 86_400
    with pytest.raises(KeysAway):
        await keys.find("one", "RS256")
    issuer.answer = None
    now[0] += 31
    assert await keys.find("one", "RS256") is not None


async def test_nobody_whose_key_is_known_waits_for_the_issuer(issuer: Issuer) -> None:
    now = [0.0]
    keys = JwksKeys(issuer.url, monotonic=lambda: now[0])
    await keys.find("one", "RS256")
    issuer.keys = [jwk(RSA_KEY, "next")]
    now[0] += 601
    assert await keys.find("one", "RS256") is not None  # answered before the issuer was
    assert issuer.asked == 1
    assert await keys.find("next", "RS256") is not None
    assert await keys.find("one", "RS256") is None
    assert issuer.asked == 2


async def test_without_any_key_seen_the_request_may_be_repeated(start: Starter, user: UUID) -> None:
    service = await start(auth_mode=AuthMode.JWT, jwt=settings(jwks_url="http://127.0.0.1:1/jwks"))
    answer = await ask(service, signed(claims(user)))
    assert (answer.status, answer.code) == (503, "keys_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_keys_that_cannot_sign_are_not_taken() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "one"}
    broken = {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "two"}
    unfit = [jwk(RSA_KEY, "three", use="enc"), jwk(RSA_KEY, "four", alg="RS512"), jwk(EC_KEY, "five")]
    async with issuing(secret, broken, *unfit) as issuer:
        keys = JwksKeys(issuer.url)
        for key_id in ("one", "two", "three", "four", "five", None):
            assert await keys.find(key_id, "RS256") is None
        assert await keys.find("one", "HS256") is None


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (RSA_KEY, "PS256"), (EC_KEY, "ES256")])
async def test_a_key_may_come_from_a_file(tmp_path: Path, user: UUID, key: Any, algorithm: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(key))
    tokens = checker(settings(key_file=file, algorithms=(algorithm,)))
    assert await tokens.user(signed(claims(user), key, algorithm)) == user
    with pytest.raises(Untrusted):
        await tokens.user(by_hand(claims(user), {"alg": "HS256"}, public_pem(key)))


async def test_a_shared_secret_may_come_from_a_file(tmp_path: Path, user: UUID) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 32 + b"\n")
    tokens = checker(settings(key_file=file, algorithms=("HS256",), leeway=timedelta(0)))
    assert await tokens.user(signed(claims(user), b"s" * 32, "HS256")) == user
    with pytest.raises(Untrusted):
        await tokens.user(signed(claims(user), b"t" * 32, "HS256"))


@pytest.mark.parametrize(
    ("content", "algorithms", "told"),
    [
        (b"short", ("HS256",), "32 bytes"),
        (b"no key", ("RS256",), "PEM"),
        (public_pem(EC_KEY), ("RS256",), "kind"),
    ],
)
def test_a_file_that_is_no_key_is_told_at_start(
    tmp_path: Path, content: bytes, algorithms: tuple[str, ...], told: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match=told):
        FileKey.read(file, algorithms)

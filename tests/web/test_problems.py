"""Errors as problems, headers on every answer, and requests that are no requests."""

import asyncio
import logging
import time
from datetime import datetime
from uuid import UUID

import pytest
from pydantic import SecretStr

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.recent import LASTS
from tests.web.conftest import HOOK, Service, Starter, told


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "//", 404, "not_found"),
        ("GET", "/invoices/", 404, "not_found"),
        ("POST", "/invoices/", 404, "not_found"),
        ("GET", "/plans/", 404, "not_found"),
        ("GET", "//api/v1/billing", 404, "not_found"),
        ("OPTIONS", "/nothing", 404, "not_found"),
        ("DELETE", "/invoices", 405, "method_not_allowed"),
        ("POST", "/plans", 405, "method_not_allowed"),
        ("GET", HOOK, 405, "method_not_allowed"),
        ("TRACE", "/plans", 405, "method_not_allowed"),
        ("PROPFIND", "/plans", 405, "method_not_allowed"),
        ("POST", "//health/live", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    answer = await service.ask(method, path)
    assert (answer.status, answer.code) == (status, code)
    assert set(answer.body) == {"type", "title", "status", "detail", "code", "request_id"}
    assert ("Allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/invoices", "GET, HEAD, OPTIONS, POST"),
        ("/plans", "GET, HEAD, OPTIONS"),
        ("/nodes/!a1b2c3d4", "DELETE, OPTIONS, PUT"),
        (HOOK, "OPTIONS, POST"),
    ],
)
async def test_options_tells_the_methods(service: Service, path: str, methods: str) -> None:
    answer = await service.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"], answer.raw) == (204, methods, b"")


async def test_head_is_get_without_a_body(service: Service, user: UUID) -> None:
    for path, status in (("/plans", 200), ("/subscription", 200), ("/invoices/unknown", 404)):
        answer = await service.ask("HEAD", path, user=user)
        assert (answer.status, answer.raw) == (status, b"")


async def test_every_answer_carries_the_headers_it_must(service: Service, user: UUID) -> None:
    for path, status in (("/plans", 200), ("/subscription", 200), ("/nodes/x", 405), ("/nothing", 404)):
        answer = await service.ask("GET", path, user=user)
        assert answer.status == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "kosmo-billing"
        assert answer.headers["X-Request-ID"]
        assert (answer.headers["Cache-Control"] == "no-store") is (status != 200)


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 64])
async def test_a_sane_request_id_is_kept(service: Service, given: str) -> None:
    answer = await service.ask("GET", "/nothing", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == answer.body["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<script>", "ä"])
async def test_other_request_ids_are_replaced(service: Service, given: str) -> None:
    answer = await service.ask("GET", "/nothing", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == answer.body["request_id"]
    assert answer.headers["X-Request-ID"] not in ("", given)
    assert len(answer.headers["X-Request-ID"]) == 32


async def test_a_bug_is_a_500_that_tells_nothing_but_is_logged(
    start: Starter, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> datetime:
        raise ZeroDivisionError("a secret within")

    service = await start(document_clock=broken)
    answer = await service.ask("GET", "/subscription", user=user, headers={"X-Request-ID": "look-here"})
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "secret" not in answer.raw.decode()
    assert "ZeroDivision" not in answer.raw.decode()
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "a secret within" in caplog.text
    assert record.__dict__["fields"]["request_id"] == "look-here"


async def test_a_database_that_is_away_is_told_once_a_minute(
    start: Starter, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(database_url="postgresql://nobody@127.0.0.1:1/none")
    for path in ("/subscription", "/invoices", "/nodes", "/invoices/abc"):
        answer = await service.ask("GET", path, user=user)
        assert (answer.status, answer.code) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "127.0.0.1" not in answer.raw.decode()
    assert (await service.ask("GET", "/plans")).status == 200
    assert len([record for record in caplog.records if "unreachable" in record.getMessage()]) == 1


async def test_requests_are_noted_at_debug_without_their_query(
    service: Service, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="kosmo_billing_daemon.web"):
        await service.ask("GET", "/invoices/abc?token=hidden", user=user)
    [noted] = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "request answered"]
    assert (noted["method"], noted["status"]) == ("GET", 404)
    assert noted["path"] == f"{API}/invoices/{{invoice_id}}"
    assert "hidden" not in str(noted)


async def test_an_api_body_over_64_kib_is_refused(service: Service, user: UUID) -> None:
    answer = await service.ask("POST", "/invoices", user=user, data=b" " * (64 * 1024 + 1))
    assert (answer.status, answer.code) == (413, "body_too_large")


async def test_a_compressed_api_body_is_refused(service: Service, user: UUID) -> None:
    answer = await service.ask(
        "POST", "/invoices", user=user, data=b"x", headers={"Content-Encoding": "gzip"}
    )
    assert (answer.status, answer.code) == (415, "unsupported_encoding")


async def raw(service: Service, request: bytes) -> bytes:
    """Send bytes and return everything until the server hangs up."""
    port = int(service.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_a_body_that_does_not_come_is_given_up(start: Starter, user: UUID) -> None:
    service = await start(body_seconds=0.05)
    head = f"POST {API}/invoices HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\nContent-Length: 99\r\n\r\n{{"
    answer = await raw(service, head.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_too_slow"' in answer


async def test_a_body_that_breaks_off_leaves_the_service_well(
    service: Service, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(service.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {API}/invoices HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\nContent-Length: 99\r\n\r\n{{"
    writer.write(head.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await service.ask("GET", "/plans")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9",
        b"GET /\x00 HTTP/1.1",
        b"nonsense",
        b"GET " + b"/x" * 9000 + b" HTTP/1.1",
    ],
)
async def test_what_is_no_http_is_a_400_and_fills_no_log(
    service: Service, request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await raw(service, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_two_lengths_or_a_length_beside_chunks_are_no_http(service: Service, user: UUID) -> None:
    head = f"POST {API}/invoices HTTP/1.1\r\nHost: x\r\nX-User-ID: {user}\r\n".encode()
    for tail in (
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    ):
        answer = await raw(service, head + tail)
        assert b" 400 " in answer.split(b"\r\n", 1)[0]


@pytest.mark.parametrize(
    ("readiness", "status", "word"),
    [
        (Readiness(ok=True, checks={"database": Check(ok=True, detail="answers")}), 200, "ready"),
        (Readiness(ok=True, checks={"broker": Check(ok=False, detail="away for 3 s")}), 200, "degraded"),
        (Readiness(ok=False, checks={"database": Check(ok=False, detail="does not answer")}), 503, "unready"),
    ],
)
async def test_readiness_is_what_the_daemon_says(
    start: Starter, readiness: Readiness, status: int, word: str
) -> None:
    service = await start(readiness=told(readiness))
    answer = await service.ask("GET", "//health/ready")
    assert (answer.status, answer.body["status"]) == (status, word)
    [(name, check)] = readiness.checks.items()
    assert answer.body["checks"] == {name: {"ok": check.ok, "detail": check.detail}}
    live = await service.ask("GET", "//health/live")
    assert (live.status, live.headers["Cache-Control"]) == (200, "no-store")


async def test_readiness_names_no_user_and_is_read_once_a_second(start: Starter, user: UUID) -> None:
    reads = 0

    async def read() -> Readiness:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        refused = f"the broker refuses kosmo/billing/v1/entitlements/{str(user)[:2]}/{user}: not authorized"
        return Readiness(ok=True, checks={"publishing": Check(ok=False, detail=refused)})

    service = await start(readiness=read)
    answers = await asyncio.gather(*(service.ask("GET", "//health/ready") for _ in range(50)))
    assert reads == 1
    assert not any(str(user) in answer.raw.decode() for answer in answers)
    assert answers[0].body["checks"]["publishing"]["detail"].endswith("/…: not authorized")
    async with asyncio.timeout(10):  # a second later it is read again
        while reads == 1:
            await service.ask("GET", "//health/ready")


async def test_who_waits_for_a_start_is_told_within_a_fraction_of_a_second(start: Starter) -> None:
    reads: list[float] = []

    async def read() -> Readiness:
        reads.append(time.monotonic())
        return Readiness(ok=len(reads) > 1)

    service = await start(readiness=read)
    assert (await service.ask("GET", "//health/ready")).status == 503
    while (await service.ask("GET", "//health/ready")).status == 503:
        pass
    assert len(reads) == 2
    assert reads[1] - reads[0] < LASTS


async def test_a_reading_that_failed_is_not_kept(start: Starter) -> None:
    reads = 0

    async def read() -> Readiness:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise ZeroDivisionError
        return Readiness(ok=True)

    service = await start(readiness=read)
    assert [(await service.ask("GET", "//health/ready")).status for _ in range(2)] == [500, 200]


async def test_metrics_may_ask_for_a_token(start: Starter, service: Service) -> None:
    assert (await service.ask("GET", "//metrics")).status == 200
    guarded = await start(metrics_token=SecretStr("let me see"))
    for given in ({}, {"Authorization": "Bearer let me"}, {"Authorization": "let me see"}):
        answer = await guarded.ask("GET", "//metrics", headers=given)
        assert (answer.status, answer.code) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    right = {"Authorization": "Bearer let me see"}
    assert (await guarded.ask("GET", "//metrics", headers=right)).status == 200


async def test_every_refusal_leaves_a_line_with_its_request_id(
    service: Service, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kosmo_billing_daemon.web")
    asked = [
        ("GET", "/subscription", None, 401, "unauthenticated", "X-User-ID is missing"),
        ("GET", "/subscription", "me", 401, "unauthenticated", "X-User-ID is not a UUID"),
        ("GET", "/nothing", user, 404, "not_found", None),
        ("GET", "/invoices/abc", user, 404, "invoice_not_found", None),
        ("GET", "/usage?from=1&to=2", user, 422, "invalid", "wrong: from, to"),
    ]
    for number, (method, path, who, status, code, _) in enumerate(asked):
        answer = await service.ask(method, path, user=who, headers={"X-Request-ID": f"request-{number}"})
        assert (answer.status, answer.code) == (status, code)
    lines = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "request refused"]
    assert [(line["request_id"], line["code"], line.get("reason")) for line in lines] == [
        (f"request-{number}", code, reason) for number, (*_, code, reason) in enumerate(asked)
    ]
    assert str(user) not in caplog.text


async def test_a_flood_of_refusals_fills_no_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kosmo_billing_daemon.web")
    for _ in range(100):
        await service.ask("GET", "/nothing")
    assert len([r for r in caplog.records if r.getMessage() == "request refused"]) == 30


async def test_all_wrong_fields_are_told_at_once(service: Service, user: UUID) -> None:
    listed = await service.ask("GET", "/invoices?limit=0&status=lost&cursor=x", user=user)
    assert (listed.status, listed.code, listed.fields) == (422, "invalid", ["limit", "status", "cursor"])
    wrong = {"plan_type": "", "redirect_url": "ftp://x"}
    key = {"Idempotency-Key": "a b"}
    bought = await service.ask("POST", "/invoices", user=user, json=wrong, headers=key)
    assert (bought.status, bought.fields) == (422, ["plan_type", "redirect_url", "Idempotency-Key"])
    alone = await service.ask("GET", "/invoices?cursor=x", user=user)
    assert (alone.code, alone.fields) == ("invalid_cursor", ["cursor"])

"""Every error as RFC 9457 problem JSON with a stable ``code`` and the request's id.

The rule it keeps: what went wrong on our side is in the log under that id, never in the answer.
"""

import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.btcpay.errors import BtcpayRefused
from kosmo_billing_daemon.errors import Conflict, Erased, Forbidden, Invalid, NotFound, Refused, Unavailable
from kosmo_billing_daemon.runtime.backoff import LogBudget, LogThrottle
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.rate_limit import TooMany
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.rendering import encode, json_bytes

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVER = "kosmo-billing"  # without versions, which would only help an attacker

_REQUEST_ID_HEADER = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
PROBLEM_CODE: web.RequestKey[str] = web.RequestKey("problem_code", str)
_REASON: web.RequestKey[str | None] = web.RequestKey("refusal_reason")
_THROTTLE: web.AppKey[LogThrottle] = web.AppKey("quiet", LogThrottle)
_REFUSALS: web.AppKey[LogBudget] = web.AppKey("refusals", LogBudget)


@record
class FieldProblem:
    """One wrong field of the request, and what would be right."""

    field: str
    message: str


@record(kw_only=True)
class Problem:
    """RFC 9457. Match on ``code``; show ``detail`` to a developer; tell the operator the ``request_id``."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: Annotated[str, Field(examples=["unknown_plan"])]
    request_id: str
    errors: Annotated[
        tuple[FieldProblem, ...], Field(description="There only where single fields are wrong")
    ] = ()


class InvalidFields(Invalid):
    """Several fields of a request are wrong."""

    def __init__(self, errors: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = tuple(errors)


class HttpRefused(Refused):
    """A refusal that only HTTP knows. ``reason`` is for the log alone: the caller is not told why."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.headers = dict(headers or {})
        self.reason = reason


_STATUSES: tuple[tuple[type[Refused], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (Invalid, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (Erased, HTTPStatus.GONE),
    (TooMany, HTTPStatus.TOO_MANY_REQUESTS),
)

_HTTP_CODES = {
    HTTPStatus.NOT_FOUND: ("not_found", "there is nothing at this address"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "this address does not take that method"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("body_too_large", "the body is larger than allowed"),
    HTTPStatus.EXPECTATION_FAILED: ("expectation_failed", "only 100-continue can be expected"),
}
_UNREADABLE = ("malformed_request", "the request cannot be read")

_PAYMENT_SERVER = "the payment server cannot be asked at the moment; try again"
_AWAY = {
    "database_unavailable": "the database cannot be asked at the moment; try again",
    "database_conflict": "too many changes at the same time; try again",
    "locked": "another program holds this user's data at the moment; try again",
    "overloaded": "too much is waiting at the moment; try again",
    "keys_unavailable": "tokens cannot be checked at the moment; try again",
    "stopping": "this server is stopping; connect again",
}
"""What callers are told; our own messages name hosts and drivers and are for the log."""


def request_id(request: web.BaseRequest) -> str:
    """Return the id under which the request is logged: the caller's own if it is sane."""
    known = request.get(_REQUEST_ID)
    if known is None:
        given = request.headers.get(_REQUEST_ID_HEADER, "")
        known = given if given and _SANE_ID.fullmatch(given) else os.urandom(16).hex()
        request[_REQUEST_ID] = known
    return known


async def dress(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give every answer, errors and streams included, the headers it must carry."""
    headers = response.headers
    headers[_REQUEST_ID_HEADER] = request_id(request)
    headers["Server"] = SERVER
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problems. Log each refusal, within a budget, and at DEBUG each request."""
    begun = time.monotonic()
    response = await _answered(request, handler)
    code, reason = request.get(PROBLEM_CODE), request.get(_REASON)
    if code and response.status < HTTPStatus.INTERNAL_SERVER_ERROR and request.app[_REFUSALS].allows(log):
        log.info("request refused", extra=fields(**_described(request, response), code=code, reason=reason))
    if log.isEnabledFor(logging.DEBUG):
        took = round((time.monotonic() - begun) * 1000, 1)
        log.debug("request answered", extra=fields(**_described(request, response), ms=took))
    return response


def _described(request: web.Request, response: web.StreamResponse) -> dict[str, object]:
    resource = request.match_info.route.resource
    return {
        "method": request.method,
        "path": "unknown" if resource is None else resource.canonical,
        "status": response.status,
        "request_id": request_id(request),
    }


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except HttpRefused as error:
        request[_REASON] = error.reason
        return _problem(request, error.status, error.code, error.message, headers=error.headers)
    except BtcpayRefused as error:
        # Not the caller's fault: what BTCPay refuses, we asked.
        log.warning(
            "BTCPay refused what a request needed: %s", error, extra=fields(request_id=request_id(request))
        )
        return _unavailable(request, Unavailable(error.message, code=error.code))
    except Refused as error:
        return _refused(request, error)
    except Unavailable as error:
        if request.app[_THROTTLE].allows(error.code):
            log.warning(
                "request failed: a dependency is unreachable: %s",
                error,
                extra=fields(request_id=request_id(request)),
            )
        return _unavailable(request, error)
    except web.RequestPayloadError:
        return _http(request, HTTPStatus.BAD_REQUEST)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        allow = error.headers.get("Allow")
        return _http(request, HTTPStatus(error.status), {} if allow is None else {"Allow": allow})
    except Exception:
        log.exception("a request failed by a bug", extra=fields(request_id=request_id(request)))
        return _problem(
            request,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal_error",
            "something went wrong here; the request id tells us what",
        )


def status_of(error: Refused) -> HTTPStatus:
    """Return the status of a refusal."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)


def _refused(request: web.Request, error: Refused) -> web.Response:
    status = status_of(error)
    errors: Sequence[FieldProblem] = ()
    if isinstance(error, InvalidFields):
        errors = error.errors
    elif isinstance(error, Invalid) and error.field is not None:
        errors = (FieldProblem(error.field, error.message),)
    if errors:
        request[_REASON] = f"wrong: {', '.join(error.field for error in errors)}"
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else None
    return _problem(request, status, error.code, error.message, errors=errors, headers=headers)


def _unavailable(request: web.Request, error: Unavailable) -> web.Response:
    told = _AWAY.get(error.code)
    if told is None:
        is_btcpay = error.code.startswith("btcpay_")
        told = _PAYMENT_SERVER if is_btcpay else "this is not available at the moment; try again"
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return _problem(request, HTTPStatus.SERVICE_UNAVAILABLE, error.code, told, headers=headers)


def _http(request: web.Request, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> web.Response:
    code, told = _HTTP_CODES.get(status, _UNREADABLE)
    return _problem(request, status, code, told, headers=headers)


def _problem(
    request: web.Request,
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    request[PROBLEM_CODE] = code
    document = Problem(
        type="about:blank",
        title=status.phrase,
        status=int(status),
        detail=detail,
        code=code,
        request_id=request_id(request),
        errors=tuple(errors),
    )
    response = json_bytes(
        encode(document).encode(errors="replace"),
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        response.force_close()  # the rest of the body is still under way
    return response


def install(app: web.Application) -> None:
    """Prepare the application for ``middleware`` and ``dress``."""
    app[_THROTTLE] = LogThrottle()
    app[_REFUSALS] = LogBudget("refused requests")
    app.on_response_prepare.append(dress)

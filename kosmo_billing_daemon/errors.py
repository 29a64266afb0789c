"""Every error we raise on purpose, sorted by what the caller should do.

KosmoError
├── Refused            the request is wrong as it stands; repeating it changes nothing (HTTP 4xx)
│   ├── NotFound       there is no such thing, or not for this user (404)
│   ├── Conflict       it contradicts the present state (409)
│   ├── Invalid        a value is wrong: where, and what would be right (422)
│   ├── Forbidden      not allowed to ask (403)
│   └── Erased         the user's data was erased a short time ago (410)
├── Unavailable        something we need is away; wait and try again (HTTP 503)
│   └── Locked         somebody else holds these rows; whatever does not need them goes on
└── Misconfigured      the operator must act; carries every problem found at once (exit 78)

Anything else that rises is a bug.
"""

from collections.abc import Sequence


class KosmoError(Exception):
    """An error with a stable ``code`` that callers may match on."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Refused(KosmoError):
    """The request is wrong as it stands; repeating it changes nothing."""

    code = "refused"


class NotFound(Refused):
    """There is no such thing, or not for this user."""

    code = "not_found"


class Conflict(Refused):
    """The request contradicts the present state."""

    code = "conflict"


class Invalid(Refused):
    """A value is wrong; ``field`` says where."""

    code = "invalid"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class Forbidden(Refused):
    """The caller may not ask this."""

    code = "forbidden"


class Erased(Refused):
    """The user's data was erased a short time ago: nothing is written about that user."""

    code = "user_erased"


class Unavailable(KosmoError):
    """Something we need is away; ``retry_after`` is in seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float = 5.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Locked(Unavailable):
    """Somebody else's transaction holds what must be written; whatever does not need it goes on."""

    code = "locked"


class Misconfigured(KosmoError):
    """The operator must act; ``problems`` holds every one found, each in a sentence; ``advice`` fixes all."""

    code = "misconfigured"

    def __init__(self, problems: Sequence[str], advice: str = "") -> None:
        super().__init__("; ".join((*problems, advice) if advice else problems))
        self.problems = tuple(problems)
        self.advice = advice

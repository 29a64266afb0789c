"""One error out of a task group, for those who sort errors by what a caller should do."""

import contextlib
from collections.abc import Iterator

from kosmo_billing_daemon.errors import KosmoError


@contextlib.contextmanager
def ungrouped(kind: type[KosmoError]) -> Iterator[None]:
    """Raise the first of a group's errors by itself if all are of this kind.

    Not with ``except*``: what is raised there comes out in a group again (CPython 3.11.2, Debian 12's).
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if group.split(kind)[1] is not None:
            raise
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None

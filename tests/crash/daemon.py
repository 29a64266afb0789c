"""``python -m tests.crash.daemon serve``: the daemon's own ``main``, instrumented while it loads."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from aiohttp import web

from tests.crash import passages
from tests.crash.points import PACKAGE, PATHS, SHARED, rewritten

HOOKS = "/webhooks/btcpay"


class _Loader(SourceFileLoader):
    """Compiles the rewritten source; what it compiled is kept apart from the genuine modules."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        tree = rewritten(self.name.removeprefix(f"{PACKAGE}."), bytes(data).decode())
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname: str) -> CodeType | None:
        before, sys.pycache_prefix = sys.pycache_prefix, str(passages.directory() / "pycache")
        try:
            return super().get_code(fullname)
        finally:
            sys.pycache_prefix = before


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.removeprefix(f"{PACKAGE}.") not in SHARED | PATHS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def main() -> None:
    """Instrument, then run the daemon as ever."""
    sys.meta_path.insert(0, _Finder())
    _name_the_answers()
    from kosmo_billing_daemon.cli import main as genuine  # noqa: PLC0415  only now may it be loaded

    genuine()


def _name_the_answers() -> None:
    """aiohttp writes an answer after its handler has returned, so that no site of ours is there."""
    genuine = web.Response.write_eof

    async def write_eof(response: web.Response, data: bytes = b"") -> None:
        request: Any = response._req
        if request is None or request.method != "POST":
            return await genuine(response, data)
        what = "webhook" if request.path.endswith(HOOKS) else "invoice"
        return await passages.passage(f"web: answering the {what}", genuine(response, data))

    web.Response.write_eof = write_eof  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()

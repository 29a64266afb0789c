"""The command line and its shop, as tests/cli has them, and the HTTP service of tests/web."""

from tests.cli.conftest import cli, clock, make_cli, shop, user
from tests.web.conftest import service, simulator, start

__all__ = ["cli", "clock", "make_cli", "service", "shop", "simulator", "start", "user"]

"""The command line and its shop, as tests/cli has them."""

from tests.cli.conftest import cli, clock, make_cli, shop, user

__all__ = ["cli", "clock", "make_cli", "shop", "user"]

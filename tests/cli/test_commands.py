"""Every command is found, and the daemon carries only what it needs."""

import subprocess
import sys

from tests.cli.conftest import Cli

NAMES = (
    "demo", "serve", "migrate", "check", "webhook", "user", "invoices", "attention", "reconcile", "republish",
    "watch", "version",
)  # fmt: skip

# click is the tests' own: where it is, httpx loads its command line, and rich with it.
SCRIPT = """
import sys
sys.modules["click"] = None
import kosmo_billing_daemon.cli.serving, kosmo_billing_daemon.daemon
unused = {"amqtt", "cryptography", "jwt", "pygments", "rich"}
print(sorted(unused & {name.partition(".")[0] for name in sys.modules}))
"""


async def test_help_lists_every_command_and_says_what_it_does(cli: Cli) -> None:
    shown = (await cli("--help")).out.partition("Commands:\n")[2].splitlines()
    assert tuple(line.split()[0] for line in shown) == NAMES
    assert all(len(line.split()) > 2 for line in shown)


async def test_a_slip_is_told_what_was_meant(cli: Cli) -> None:
    slip = await cli("chekc")
    assert slip.code == 2
    assert "Did you mean 'check'?" in slip.err
    within = await cli("user", "shwo")
    assert within.code == 2
    assert "Did you mean 'show'?" in within.err


def test_the_daemon_carries_nothing_of_the_operators_or_of_another_mode() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)  # noqa: S603  our own text
    assert done.stdout.split() == ["[]"]

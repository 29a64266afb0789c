"""Every command is found, and the daemon carries only what it needs."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from kosmo_billing_daemon import __version__
from tests.cli.conftest import Cli

NAMES = (
    "demo", "serve", "migrate", "adopt", "check", "webhook", "hook", "user", "invoices", "deliveries",
    "attention", "usage", "leases", "refund", "ledger", "console", "reconcile",
    "republish", "watch", "version",
)  # fmt: skip

# click is the tests' own: where it is, httpx loads its command line, and rich with it.
SCRIPT = """
import sys
sys.modules["click"] = None
import kosmo_billing_daemon.cli.serving, kosmo_billing_daemon.daemon
unused = {"amqtt", "cryptography", "jinja2", "jwt", "pygments", "rich"}
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


async def test_version_and_short_help_are_found_everywhere(cli: Cli) -> None:
    assert (await cli("--version")).out == f"{__version__}\n"
    assert (await cli("user", "show", "-h")).out.startswith("Usage: kosmo-billing user show")


async def test_a_mistake_ends_in_one_message(cli: Cli, tmp_path: Path) -> None:
    """The fixture refuses every traceback."""
    plans = tmp_path / "plans.toml"
    plans.write_text("[plans")
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    foreign.chmod(0o777)
    line = tmp_path / "a\nplugin x"
    for words, more, code, told in (
        (("check",), {"PLANS_FILE": str(plans)}, 78, "PLANS_FILE"),
        (("serve",), {"HOST": "192.0.2.7"}, 69, "cannot listen on 192.0.2.7"),
        (("demo", "--data-dir", ""), {}, 1, "--data-dir is empty"),
        (("demo", "--data-dir", "/proc/nothing"), {}, 1, "/proc/nothing cannot be the data directory"),
        (("demo", "--data-dir", str(plans)), {}, 1, "cannot be the data directory"),
        (("demo", "--data-dir", str(foreign)), {}, 1, "can be written by everybody"),
        (("demo", "--data-dir", str(line)), {}, 1, "has a name that can be printed"),
        (("attention", "close", "9" * 20, "--reason", "r"), {}, 2, "CASE"),
        (("user", "show", "\udcff"), {}, 2, "not UTF-8"),
    ):
        done = await cli(*words, **more)
        assert (done.code, told in done.err + done.out) == (code, True), done


async def test_a_terminal_without_our_signs_gets_others(cli: Cli) -> None:
    for encoding in ("ascii", "latin-1"):
        done = await cli("check", PYTHONIOENCODING=encoding)
        assert "ok settings" in done.out
        assert "NO btcpay" in done.out


async def test_nothing_is_cut_whatever_the_width(cli: Cli) -> None:
    user = "11111111-1111-1111-1111-111111111111"
    await cli("user", "grant", user, "wanderer", "--reason", "a long reason " * 20)
    for width in ("40", "80", "132"):
        shown = (await cli("user", "show", user, COLUMNS=width)).out
        assert re.search(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +\S+ +user.grant +subscription \S{36} +a long", shown
        )
        assert "…" not in shown


async def test_a_process_that_a_test_copies_ends_as_one_that_is_started(cli: Cli) -> None:
    for words, code in ((("attention",), 78), (("user", "shwo"), 2), (("ledger", "--help"), 0)):
        copied = await cli(*words, BTCPAY_API_KEY="")
        started = await cli(*words, BTCPAY_API_KEY="", PYTHONHASHSEED="1")
        assert (copied.code, copied) == (code, started)


def test_who_stops_reading_or_types_ctrl_c_sees_no_traceback(cli: Cli) -> None:
    program = f"{sys.executable} -m kosmo_billing_daemon"
    script = f"{program} --help | head -c 5; {program} version >/dev/full; {program} version >&-"
    environment = {**cli.settings, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(  # noqa: S603  our own words
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.stdout == "Usage"
    assert done.stderr == "kosmo-billing: standard output: No space left on device\n"
    with subprocess.Popen(  # noqa: S603  our own interpreter
        [*program.split(), "watch"], env=environment, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as watch:
        assert watch.stderr is not None
        assert "trying again" in watch.stderr.readline()
        watch.send_signal(signal.SIGINT)
        assert "Traceback" not in watch.stderr.read()

"""What gateways send cannot steer the terminal of the operator who looks at it."""

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.metering import Metering, Report
from tests.cli.conftest import Cli
from tests.services.conftest import Shop
from tests.support.usage import event, payload

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\nforged line"


@pytest.mark.timeout(120)  # each command is a process of its own
async def test_a_message_id_cannot_steer_the_operators_terminal(shop: Shop, cli: Cli, user: UserId) -> None:
    """Fails without ``printable`` in cli/rendering.py: rich's Text lets ESC, CSI and line breaks through."""
    await cli("user", "grant", str(user), "wanderer", "--reason", "ticket")
    metering = Metering(pool=shop.front.pool, clock=utc_now, changed=lambda: None)
    report = metering.read("gateway-1", payload([event(user, HOSTILE, utc_now())]))
    assert isinstance(report, Report)
    (ack,) = await metering.count([report])
    assert ack is not None
    assert ack.accepted == 1
    shown = (await cli("user", "show", str(user))).out
    assert "forged line" in shown
    assert all(character.isprintable() for line in shown.split("\n") for character in line)
    assert not any(line.startswith("forged line") for line in shown.split("\n"))
    told = (await cli("user", "show", str(user), "--json")).out
    assert all(character.isprintable() for line in told.split("\n") for character in line)

"""What a person may ask for: everything that is known of them, and that it is gone for good. Money stays."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, connect
from kosmo_billing_daemon.store.subjects import HELD, HOLDS_NOBODY
from tests.cli.conftest import Cli, Make
from tests.support.mosquitto import Mosquitto
from tests.support.usage import event, payload
from tests.support.world import World, until, world_around

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own

TOPICS = Topics()
GATEWAY = "gateway-1"

# What no purchase, message or command of the test writes.
FILL = """
INSERT INTO hooks (url, events, secret, allow_private, added_at, off_since, off_because)
VALUES ('https://example.org', '{*}', 's', false, now(), now(), 'off');
INSERT INTO hook_deliveries SELECT h.id, min(e.id) FROM hooks AS h, events AS e WHERE user_id = '%(user)s'
GROUP BY h.id;
INSERT INTO hook_answers (hook_id, event_id, at, accepted, answer)
SELECT hook_id, event_id, now(), false, '400 no such user: %(user)s' FROM hook_deliveries;
INSERT INTO leases (id, reporter, request_id, user_id, subscription_id, messages, granted_at, expires_at)
SELECT gen_random_uuid(), 'gateway-1', 'r', user_id, id, 5, now(), now() FROM subscriptions
WHERE user_id = '%(user)s' LIMIT 1;
INSERT INTO usage_quarantine (reporter, reason, payload, size, received_at)
VALUES ('gateway-1', 'too much of user %(user)s', convert_to('{"user_id": "%(USER)s", "\\ü"', 'UTF8'), 9,
    now());
INSERT INTO reporter_cases (reporter, detail, opened_at, last_at)
VALUES ('gateway-1', 'too much of user %(user)s', now(), now());
INSERT INTO audit_log (at, who, action, user_id, subject, reason)
VALUES (now(), 'operator', 'user.nodes', '%(user)s', 'node !0a0a0a0a listed', 'asked by Jo'),
    (now(), 'operator', 'user.link', NULL, 'link', 'the same as %(USER)s');
INSERT INTO attention_cases (user_id, invoice_id, kind, detail, amount, opened_at, closed_at, resolution)
SELECT user_id, id, 'overpaid', 'of Jo', 1, now(), now(), 'Jo was called' FROM btcpay_invoices
WHERE user_id = '%(user)s' LIMIT 1;
INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)
SELECT now(), '%(other)s', 'granted', 1, 'USD', 'eva',
    'it was %(USER)s who paid, not ' || replace('%(user)s', '-', '');
INSERT INTO whitelisted_nodes VALUES ('%(other)s', '!0c0c0c0c', 'of %(user)s', now());
UPDATE hooks SET off_because = 'the last answer was: no such user: %(user)s';
UPDATE btcpay_invoices SET redirect_url = 'https://example.org/%(user)s' WHERE user_id = '%(user)s';
"""

_TEXTS = """
SELECT format('SELECT %L, count(*) FROM %I AS t WHERE t::text ~* $1', relname, relname)
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


async def naming(connection: "asyncpg.Connection[Any]", user: UUID) -> set[str]:
    """The tables in which the id is written anywhere, in text or in bytes, which are shown in hex."""
    written = f"{user}|{str(user).encode().hex()}|{str(user).upper().encode().hex()}|{user.hex}"
    found = set()
    for (query,) in await connection.fetch(_TEXTS):
        ((name, number),) = await connection.fetch(query, written)
        if number:
            found.add(name)
    return found


async def sums(connection: "asyncpg.Connection[Any]") -> dict[tuple[str, str], Decimal]:
    rows = await connection.fetch("SELECT kind, currency, sum(amount) FROM ledger GROUP BY 1, 2")
    return {(kind, currency): amount for kind, currency, amount in rows}


async def report(broker: Mosquitto, user: UUID, message_id: str) -> dict[str, Any]:
    """Report a message as a gateway, and return the answer."""
    to = Broker(host=broker.host, port=broker.port, client_id=GATEWAY)
    async with connect(to) as link, asyncio.timeout(20):
        await link.subscribe([TOPICS.usage_ack(GATEWAY)])
        body = payload([event(user, message_id, datetime.now(UTC) - timedelta(seconds=1))], message_id)
        await link.publish(TOPICS.usage(GATEWAY), body)
        while True:
            for message in await link.receive():
                link.acknowledge(message)
                answer: dict[str, Any] = json.loads(message.payload)
                if answer["report_id"] == message_id:
                    return answer


@asynccontextmanager
async def streaming(world: World, url: str, who: dict[str, str]) -> AsyncIterator[asyncio.Task[bytes]]:
    """A live stream that was begun; the task ends with it."""
    async with world.http.get(f"{url}{API}/subscription/events", headers=who) as response:
        assert (await response.content.readline()).startswith(b"retry")
        reading = asyncio.create_task(response.content.read())
        yield reading
        reading.cancel()


@pytest.fixture
async def home(tmp_path: Path, database_url: str, open_broker: Mosquitto) -> AsyncIterator[World]:
    """An installation whose broker shows everybody everything."""
    async with world_around(tmp_path, database_url, open_broker) as made:
        yield made


@pytest.fixture
def at_home(make_cli: Make, home: World) -> Cli:
    host, port = home.broker.host, str(home.broker.port)
    return make_cli(BTCPAY_URL=home.simulator.url, MQTT_HOST=host, MQTT_PORT=port)


async def test_after_an_erasure_nothing_names_the_user_and_no_sum_has_changed(
    home: World, at_home: Cli, tmp_path: Path
) -> None:
    daemon = await home.daemon(PUBLIC_URL="https://billing.example.org")
    user, other = uuid4(), uuid4()
    who = {"X-User-ID": str(user)}
    api = f"{daemon.url}{API}"
    await home.buy(daemon, other)
    await home.buy(daemon, user, "guardian")
    await home.until_published(user)
    await home.until_published(other)
    async with home.http.put(f"{api}/nodes/!0a0b0c0d", headers=who, json={"label": "roof of Jo"}) as made:
        assert made.status == 201
    key = who | {"Idempotency-Key": "k"}
    async with home.http.post(f"{api}/invoices", headers=key, json={"plan_type": "wanderer"}) as made:
        open_invoice = (await made.json())["invoice_id"]
    async with home.http.get(f"{api}/subscription", headers=who) as shown:
        assert (await shown.json())["renew_url"]
    assert (await report(home.broker, user, "before"))["accepted"] == 1
    await home.execute(FILL % {"user": user, "USER": str(user).upper(), "other": other})
    async with home.sql() as connection:
        before = await sums(connection)
        held = await naming(connection, user)

    file = tmp_path / "export.json"
    assert (await at_home("user", "export", str(user), "--output", str(file))).code == 0
    exported = json.loads(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    assert exported["tables"].keys() == exported["about"].keys() == HELD.keys()
    assert {name for name, rows in exported["tables"].items() if rows} >= held - {"outbox", "hooks"}
    assert exported["entitlement"]["plan_type"] == "guardian"
    assert "roof of Jo" in file.read_text()
    assert str(other) not in file.read_text()

    refused = await at_home("user", "erase", str(user), "--reason", "asked for it", "--yes")
    assert refused.code == 1
    for words in ("guardian runs until", f"invoice {open_invoice} can still be paid", "--forfeit"):
        assert words in refused.err
    asked = await at_home("user", "erase", str(user), "--reason", "asked for it", "--forfeit")
    assert (asked.code, "add --yes" in asked.err) == (1, True)
    assert await home.value("SELECT count(*) FROM pseudonyms") == 0
    async with streaming(home, daemon.url, who) as reading:
        length = len(daemon.log)
        erase = ("user", "erase", str(user), "--reason", "asked for it", "--forfeit", "--yes", "--json")
        assert (await at_home(*erase)).json["erased"]["usage_events"] == 1
        async with asyncio.timeout(10):
            assert (await reading).endswith(b"retry: 1000\n\n")

    # What comes late gives nothing back, and keeps no id.
    rejected = await report(home.broker, user, "after")
    assert [each["reason"] for each in rejected["rejected"]] == ["user_erased"]
    await home.pay(open_invoice)
    received = "SELECT count(*) = 3 FROM ledger WHERE kind = 'received'"
    await until(lambda: home.value(received), "the late payment in the books")
    for method, path, body in (
        ("GET", "/subscription", None),
        ("GET", "/subscription/events", None),
        ("POST", "/invoices", {"plan_type": "wanderer"}),
        ("PUT", "/nodes/!0a0b0c0d", {}),
    ):
        async with home.http.request(method, f"{api}{path}", headers=who, json=body) as answer:
            assert (answer.status, (await answer.json())["code"]) == (410, "user_erased")

    async with home.sql() as connection:
        assert await naming(connection, user) == set()
        assert await sums(connection) == before | {("received", "USD"): before["received", "USD"] + 5}
        credit = "SELECT sum(amount) FROM ledger WHERE user_id IN (SELECT user_id FROM pseudonyms)"
        assert await connection.fetchval(credit) == 5
        written = await connection.fetch(
            "SELECT to_jsonb(a)::text FROM audit_log AS a UNION ALL SELECT to_jsonb(c)::text"
            " FROM attention_cases AS c"
        )
        assert not any("Jo" in row[0] or "!0a0a0a0a" in row[0] for row in written)
        assert await connection.fetchval("SELECT reason FROM audit_log WHERE action = 'user.erase'")
        mentioned = "SELECT reason FROM ledger WHERE who = 'eva'"
        assert await connection.fetchval(mentioned) == "it was erased who paid, not erased"
    assert str(user) not in daemon.log[length:]
    retained = await home.retained(f"{TOPICS.prefix}/#")
    assert str(user) not in json.dumps(retained)
    assert [topic for topic in retained if "/entitlements/" in topic] == [TOPICS.entitlement(other)]
    await until(lambda: home.observer.watermark["entitlements"] == 1, "a watermark that counts one document")
    again = await at_home("user", "erase", str(user), "--reason", "again", "--yes")
    assert (again.code, again.err) == (1, "kosmo-billing: nothing is known about this user\n")


async def test_every_table_is_known_to_export_and_erasure(database_url: str) -> None:
    """A new one fails here: say in store/subjects.py what it holds, in store/erasures.py what of it stays."""
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = 'public'::regnamespace"
        )
        with_users = await connection.fetch(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND column_name ~ 'user' AND udt_name ~ 'uuid'"
        )
    finally:
        await connection.close()
    assert {row[0] for row in tables} == HELD.keys() | HOLDS_NOBODY.keys()
    assert {row[0] for row in with_users} - HELD.keys() == {"pseudonyms"}


@pytest.mark.parametrize(
    "change",
    ["amount = amount + 1", "amount = amount * 1.0", "kind = 'granted'", "at = at + interval '1 s'"],
)
async def test_an_entry_of_the_ledger_changes_its_user_and_nothing_else(
    database_url: str, change: str
) -> None:
    """Also by whoever knows the setting and makes a pseudonym."""
    connection = await asyncpg.connect(database_url)
    user, pseudonym = uuid4(), uuid4()
    try:
        await connection.execute(
            "INSERT INTO ledger (at, user_id, kind, amount, currency, invoice_id)"
            " VALUES (now(), $1, 'received', 5.00, 'USD', $1)",
            user,
        )
        await connection.execute("INSERT INTO pseudonyms VALUES ($1)", pseudonym)
        for setting, owner, more in (
            (str(pseudonym), pseudonym, f", {change}"),
            (str(pseudonym), user, f", {change}"),
            ("", pseudonym, ""),
            (str(uuid4()), uuid4(), ""),
            (str(pseudonym), user, ", reason = 'another'"),
        ):
            await connection.execute(
                "SELECT set_config('kosmo_billing.pseudonym', $1, false),"
                " set_config('kosmo_billing.gone', $2::text, false)",
                *(setting, str(user)),
            )
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
                await connection.execute(f"UPDATE ledger SET user_id = $1{more}", owner)  # noqa: S608  words of the test
        await connection.execute("SELECT erase_from_ledger($1, $2)", user, pseudonym)
        (row,) = await connection.fetch("SELECT user_id, amount::text FROM ledger")
        assert tuple(row) == (pseudonym, "5.00")
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
            await connection.execute("SELECT erase_from_ledger($1, $2)", pseudonym, uuid4())
    finally:
        await connection.close()

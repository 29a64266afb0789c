"""How long the console's pages take in a large shop: `python -m tests.bench.console`.

One daemon with 1,000,000 invoices of 200,000 users, whose payments came in over two years; each page is asked
for one after another, by an operator who is logged in.
"""

import time

import aiohttp
import asyncpg

from kosmo_billing_daemon.admin.access import ConsoleAccess
from kosmo_billing_daemon.console.places import write_place
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.figures import Figures
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.bench.figures import Figure, at_most, percentile
from tests.bench.filling import filled, tidied
from tests.bench.footprint import until_idle
from tests.bench.rig import alone, daemon, services

LARGE = (1_000_000, 200_000)  # invoices, users
QUICK = (50_000, 10_000)
GOAL = at_most(200)
DAYS = 730

_SPREAD = f"""
SET session_replication_role = replica;
UPDATE ledger SET at = now() - interval '{DAYS} days' * (1 - id / (SELECT max(id) FROM ledger)::float8),
    currency = CASE WHEN id % 100000 < 2 THEN 'EUR' ELSE currency END;
SET session_replication_role = DEFAULT;
DELETE FROM takings;
DELETE FROM ledger_days;
"""  # noqa: S608  a number of ours

PAGES = {
    "overview": "/admin/",
    "all users": "/admin/users",
    "users by end": "/admin/users?state=active",
    "users of a plan": "/admin/users?plan=guardian",
    "users ending": "/admin/users?ending=7",
    "users exhausted": "/admin/users?exhausted=yes",
    "users with cases": "/admin/users?attention=yes",
    "users lapsed": "/admin/users?state=lapsed",
    "search by user": "/admin/search?q={user_id}",
    "search by order": "/admin/search?q={id}",
    "search by BTCPay's id": "/admin/search?q={btcpay_invoice_id}",
    "search by node": "/admin/search?q={node_id}",
    "search for nothing": "/admin/search?q=nothing",
    "one user": "/admin/users/{user_id}",
    "one user's action": "/admin/users/{user_id}/revoke",
    "attention": "/admin/attention",
    "one case": "/admin/attention/{case}",
    "closed cases": "/admin/attention/closed",
    "ledger": "/admin/ledger",
    "ledger of all times": "/admin/ledger?from=2000-01-01",
    "ledger of all times, its end": "/admin/ledger?from=2000-01-01&before={early}",
    "ledger of an old day": "/admin/ledger?from={day}&to={day}",
    "ledger, a kind": "/admin/ledger?from=2000-01-01&kind=sold",
    "ledger, a kind that is not there": "/admin/ledger?from=2000-01-01&kind=granted",
    "ledger, a rare currency": "/admin/ledger?from=2000-01-01&currency=EUR",
    "ledger of a user": "/admin/ledger?user={user_id}",
    "refunds": "/admin/refunds",
    "hooks": "/admin/hooks",
    "gates": "/admin/gates",
    "one gate": "/admin/gates/gateway?name=gateway",
    "feed": "/admin/feed",
    "feed of a user": "/admin/feed?user={user_id}",
}


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    found: list[Figure] = []
    async with services() as where:
        invoices, users = QUICK if quick else LARGE
        url = await filled(where, "console", invoices=invoices, users=users)
        connection = await asyncpg.connect(url)
        await connection.execute(_SPREAD)
        async with Pool(Database(url=url)) as pool:  # else the overview would read what a leader adds up
            while await Figures(pool=pool).run_once():
                pass
        await tidied(connection)
        (row,) = await connection.fetch(
            "SELECT i.user_id, i.id, i.btcpay_invoice_id, n.node_id FROM btcpay_invoices AS i"
            " JOIN whitelisted_nodes AS n USING (user_id) OFFSET 777 LIMIT 1"
        )
        case = await connection.fetchval("SELECT max(id) FROM attention_cases WHERE closed_at IS NULL")
        early = await connection.fetchval("SELECT at FROM ledger WHERE id = 40")
        names = {**row, "case": case, "day": f"{early:%Y-%m-%d}", "early": write_place((early, 40))}
        await connection.close()
        async with daemon(where, name="console", database_url=url, ADMIN_LISTEN="127.0.0.1:0") as ours:
            await until_idle(ours.pid)
            log = next(ours.directory.glob("console-*.log")).read_text()
            base = f"http://{log.partition('console at ')[2].split()[0]}"
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
                async with Pool(Database(url=url)) as pool:
                    token = await ConsoleAccess(pool=pool, clock=utc_now).invite("bench")
                form = {"token": token}
                async with http.post(f"{base}/admin/login", data=form, headers={"Origin": base}) as entered:
                    assert entered.status == 200, await entered.text()
                for turn in range(rounds + 1):
                    figures = [
                        await _page(http, base + path.format(**names), name) for name, path in PAGES.items()
                    ]
                    found += figures if turn else []  # the first round warms
    return found


async def _page(http: aiohttp.ClientSession, address: str, name: str) -> Figure:
    took = []
    for _ in range(20):
        began = time.perf_counter()
        async with http.get(address, allow_redirects=False) as response:
            await response.read()
            assert response.status in (200, 303), await response.text()
        took.append(time.perf_counter() - began)
    return Figure(what=f"{name}, 95 of 100", value=percentile(took, 95) * 1e3, unit="ms", goal=GOAL)


if __name__ == "__main__":
    alone(measure, __doc__)

"""Crash points by name: every await on the paths, and every publication and acknowledgement.

A site is a place in the source, named by module, function and what is awaited there. The floors that
serve everybody (``SHARED``) are points of whoever calls them: ``services.f > store.g: connection.fetch()``.
``points.txt`` keeps the names of all points that the paths pass. After a change on them write it anew with

    KOSMO_CRASH_RECORD=1 python -m pytest -p no:xdist tests/crash/test_crash_points.py
"""

import ast
from collections import Counter
from pathlib import Path

import kosmo_billing_daemon

PACKAGE = "kosmo_billing_daemon"
ROOT = Path(kosmo_billing_daemon.__file__).parent
TABLE = Path(__file__).with_name("points.txt")

SHARED = {
    "btcpay.client",
    "btcpay.wire",
    "services.auto_renewal",
    "services.from_credit",
    "services.fulfilment",
    "services.idempotency",
    "services.observations",
    "store.attention",
    "store.auto_renewals",
    "store.deliveries",
    "store.entitlements",
    "store.events",
    "store.idempotency",
    "store.invoices",
    "store.leases",
    "store.lookups",
    "store.postgres",
    "store.purchases",
    "store.quotes",
    "store.subscriptions",
    "store.combining",
    "store.outbox",
    "store.parking",
    "store.usage",
}
PATHS = {
    "mqtt.broker_session",
    "mqtt.ack_writer",
    "mqtt.lease_intake",
    "mqtt.outbox_reader",
    "mqtt.publisher",
    "mqtt.repair",
    "mqtt.republisher",
    "mqtt.reservation",
    "mqtt.usage_intake",
    "mqtt.watermark",
    "services.expiry",
    "services.inbox",
    "services.invoicing",
    "services.leasing",
    "services.metering",
    "services.reconciliation",
    "services.reservations",
    "services.settlement",
    "services.verdicts",
    "web.invoices",
    "web.webhooks",
}

WATCHED = {"runtime.batcher", "btcpay", "mqtt", "services", "store", "web"}
"""Where everything that awaits stands in one of these three tables."""

OFF_THE_PATHS = {
    "runtime.batcher": "gathers; what it writes are points",
    "btcpay.health": "deadlines, and asking whether BTCPay is back, which changes nothing",
    "mqtt.time_answers": "changes nothing; who asked asks again",
    "services.entitlements": "only reads",
    "admin.overview": "only reads",
    "services.housekeeping": "removes what is past its time; the next round removes the rest",
    "services.figures": "sums for metrics: position and sums in one transaction",
    "store.figures": "the same",
    "store.pruning": "what services.housekeeping removes",
    "store.erasures": "one transaction; the outbox remembers whose document is to be cleared",
    "store.subjects": "only reads",
    "store.people": "only reads",
    "store.dashboard": "only reads",
    "store.console": "an operator's session: one statement each",
    "admin.subjects": "at a command line that sees it fail",
    "mqtt.watermark_tracker": "only reads",
    "admin.checks": "only reads",
    "services.streams": "only reads",
    "runtime.loop": "turns; what it runs are points",
    "admin.actions": "one transaction each, at a command line that sees it fail",
    "services.hooks": "repeats what it has not written down; tests/daemon/test_hooks.py kills it",
    "store.hooks": "what services.hooks reads and writes",
    "services.links": "inserts a hash with the reminder that needs it, or alone; a repeat inserts nothing",
    "store.links": "what services.links reads and writes",
    "services.topups": "adds links to events; as services.links",
    "services.renewal": "only reads; what it buys, services.invoicing buys",
    "services.schema": "waits for the database; each migration is one transaction",
    "services.backlog": "only reads",
    "services.adoption": "one transaction, at a command line that sees it fail; tests/adopt kills it",
    "services.adoption_reading": "only reads",
    "store.adoptions": "for services.adoption",
    "store.old_tables": "only reads",
    "store.old_moves": "for services.adoption",
    "store.feed": "only reads",
    "admin.upkeep": "a command line that sees it fail",
    "services.whitelist": "one transaction each, whose request sees it fail",
    "services.credit": "only reads",
    "admin.books": "only reads",
    "admin.refunding": "at a command line that sees it fail; repeating the command completes it",
    "store.refunds": "the same",
    "btcpay.refunds": "the same",
    "store.ledger": "reads within transactions whose commits are points",
    "services.recounting": "one transaction over a queue that a trigger fills; a repeat changes nothing",
    "store.recounts": "the same",
    "services.inquiries": "asks again until the answer is written down; a repeat changes nothing",
    "store.inquiries": "the same",
    "services.refunds": "one transaction each, for services.inquiries or an operator's command",
    "admin.cases": "one transaction each, at a command line that sees it fail",
    "store.audit": "for operations",
    "store.extensions": "one transaction for each batch of users; tests/cli/test_extending.py kills it",
    "store.inspection": "only reads",
    "store.opening": "only connects",
    "store.rights": "only reads",
    "store.leader_lock": "a lock that ends with its connection",
    "store.listings": "only reads",
    "store.locks": "only reads",
    "store.queue_sizes": "only reads",
    "store.migrations": "before there is any path; tested by itself",
    "store.nodes": "for the whitelist",
    "store.reporters": "for an operator's command, which sees it fail",
    "store.session_settings": "asks a new session; nothing is written",
    "store.sessions": "lends; who borrows is a point",
    "web": "hands over and shows; the two that begin a path are points",
}
"""Modules, or packages of them, with the reason why they have no points."""

WAITS = {
    "asyncio.sleep()": "only time passes",
    "asyncio.timeout()": "a deadline around what is a point itself",
    "asyncio.TaskGroup()": "tasks of this process, and what they await are points",
}
"""What can lose nothing wherever it stands, with the reason."""

PASSED_THROUGH = {
    "store.postgres._Lent.__aenter__: self._sessions.lend()": "borrowing; who borrows is a point",
    "store.postgres._Transaction.__aenter__: super().__aenter__()": "borrowing; its start is a point",
    "store.postgres._Transaction.__aenter__: self.__aexit__()": "after a failure, as at its end",
    "store.postgres._Transaction.__aexit__: self._commit()": "the commit is a point",
    "store.postgres._Undone._commit: self._look()": "a preview, which is undone",
    "store.postgres._Undone._commit: self._session.execute()": "a preview, which is undone",
    "store.postgres._Transaction.__aexit__: super().__aexit__()": "giving back; nothing is asked",
    "store.postgres._Transaction.__aexit__: super().__aexit__() #2": "giving back; nothing is asked",
    "store.postgres.Pool.retrying: self.transaction()": "its start and its end are points",
    "store.postgres.Pool.retrying: self.transaction() #2": "the same after a conflict",
    "store.postgres.Pool.retrying: work()": "the caller's, whose awaits are points",
    "store.postgres.Pool.retrying: work() #2": "the same after a conflict",
}
"""Sites of everybody that only pass on, with the reason."""

EFFECTS = {"self._link.hand_over()", "self._link.send()", "self._link.acknowledge()", "link.acknowledge()"}
"""Calls that put bytes on their way without being awaited."""

RUNTIME = "_crash"
"""What ``tests.crash.passages`` is called within the rewritten modules."""


def sites(module: str) -> list[str]:
    """Every site of a module, in order of the source."""
    return _rewritten(module, _source(module))[1]


def waiting_modules() -> set[str]:
    """Every watched module in which anything is awaited."""
    files = [file for name in WATCHED for file in [*ROOT.glob(f"{name}.py"), *(ROOT / name).rglob("*.py")]]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return {module for module in named if sites(module)}


def site_of(point: str) -> str:
    """The site of a point, whoever came to it, and whether it was entered or left."""
    return point.rpartition(" > ")[2].removesuffix(" enter").removesuffix(" leave")


def load_table() -> set[str]:
    return set(TABLE.read_text().splitlines())


def rewritten(module: str, source: str) -> ast.Module:
    """The module with each of its sites passing through ``tests.crash.passages``."""
    return _rewritten(module, source)[0]


def _source(module: str) -> str:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()


def _rewritten(module: str, source: str) -> tuple[ast.Module, list[str]]:
    tree = ast.parse(source)
    writer = _Writer(module)
    writer.visit(tree)
    runtime = ast.parse(f"from tests.crash import passages as {RUNTIME}").body
    has_docstring = ast.get_docstring(tree) is not None
    tree.body[has_docstring:has_docstring] = runtime
    return ast.fix_missing_locations(tree), writer.sites


class _Writer(ast.NodeTransformer):
    def __init__(self, module: str) -> None:
        self.sites: list[str] = []
        self._within = [module]
        self._seen: Counter[str] = Counter()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._named(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._named(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._named(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        node.value = self._through("passage", node.value)
        return node

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        for item in node.items:
            item.context_expr = self._through("enclosure", item.context_expr)
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        node.iter = self._through("stream", node.iter)
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        what = _text(node)
        self.generic_visit(node)
        if what not in EFFECTS:
            return node
        return _call("effect", self._site(what), node.func, *node.args, keywords=node.keywords)

    def _named(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()
        return node

    def _through(self, how: str, value: ast.expr) -> ast.expr:
        what = _text(value)
        site = self._site(what)
        value = self.visit(value)
        return value if what in WAITS or site in PASSED_THROUGH else _call(how, site, value)

    def _site(self, what: str) -> str:
        site = f"{'.'.join(self._within)}: {what}"
        self._seen[site] += 1
        if self._seen[site] > 1:
            site += f" #{self._seen[site]}"
        if what not in WAITS and site not in PASSED_THROUGH:
            self.sites.append(site)
        return site


def _call(how: str, site: str, *values: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.Call:
    runtime = ast.Attribute(ast.Name(RUNTIME, ast.Load()), how, ast.Load())
    return ast.Call(runtime, [ast.Constant(site), *values], keywords or [])


def _text(node: ast.expr) -> str:
    """What is awaited, without its arguments."""
    return f"{ast.unparse(node.func)}()" if isinstance(node, ast.Call) else ast.unparse(node)

"""The nodes a user lists. A change is in the document of a whitelist plan's user at once, by trigger.

The list may be kept before and after such a plan; it gives no right by itself. Only so many new nodes may be
listed in any 24 hours, or a list that changes with each message would be a plan for any node. Taking a node
off and listing it again is not new; nor is what an operator lists.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil

from kosmo_billing_daemon.contract.node_ids import is_node_id, why_no_node
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.rate_limit import TooMany
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import audit, nodes
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

MOST_NODES = 32
MAX_LABEL_LENGTH = 64
WINDOW = timedelta(days=1)


@record(kw_only=True)
class Whitelist:
    """Shows and changes users' lists. ``changed`` is called after each commit that changed one.

    A user may list ``new_per_day`` new nodes in 24 hours.
    """

    pool: Pool
    clock: Clock
    changed: Callable[[], None]
    new_per_day: int

    async def show(self, user_id: UserId) -> list[Node]:
        """Return the user's nodes in the order in which they were added."""
        async with self.pool.connection() as connection:
            return await nodes.load(connection, user_id)

    async def add(
        self, user_id: UserId, node_id: str, label: str | None, *, action: AuditEntry | None = None
    ) -> tuple[Node, bool]:
        """List a node or set its label; returns it and whether it is new. With ``action`` an operator does.

        Raises ``Invalid`` for what is no node id or label, ``Conflict`` when the list is full, ``TooMany``
        when the user listed too many new nodes in the last 24 hours.
        """
        wanted = _checked_id(node_id)
        _check_label(label)

        async def work(connection: Connection) -> tuple[Node, bool, bool]:
            listed = {node.node_id: node for node in await nodes.load(connection, user_id)}
            known = listed.get(wanted)
            if known is None and len(listed) >= MOST_NODES:
                raise Conflict(
                    f"at most {MOST_NODES} nodes can be listed; remove one first", code="too_many_nodes"
                )
            now = self.clock()
            if known is None and action is None:
                await self._count(connection, user_id, wanted, now)
            node = Node(node_id=wanted, label=label, added_at=now if known is None else known.added_at)
            if node != known:
                await nodes.save(connection, user_id, node)
            if action is not None:
                await audit.append(connection, action)
            return node, known is None, node != known

        node, is_new, is_changed = await self.pool.retrying(work, locking_users([user_id]))
        if is_changed:
            self.changed()
        return node, is_new

    async def remove(self, user_id: UserId, node_id: str, *, action: AuditEntry | None = None) -> None:
        """Take a node off the list; one that is not on it changes nothing."""
        unwanted = _checked_id(node_id)

        async def work(connection: Connection) -> None:
            await nodes.remove(connection, user_id, unwanted)
            if action is not None:
                await audit.append(connection, action)

        await self.pool.retrying(work, locking_users([user_id]))
        self.changed()

    async def _count(self, connection: Connection, user_id: UserId, node_id: str, now: datetime) -> None:
        """Count a node that was not listed before; the user's lock is held, so no race passes the limit."""
        listed = await nodes.load_additions(connection, user_id, now - WINDOW)
        if node_id in listed:
            return
        if len(listed) >= self.new_per_day:
            free = sorted(listed.values())[-self.new_per_day] + WINDOW
            raise TooMany(
                f"at most {self.new_per_day} new nodes may be listed in 24 hours; those listed before may be"
                " listed again",
                code="too_many_new_nodes",
                retry_after=max(1, ceil((free - now).total_seconds())),
            )
        await nodes.append_addition(connection, user_id, node_id, now, WINDOW)


def _checked_id(node_id: str) -> str:
    lowered = node_id.lower()
    if not is_node_id(lowered):
        raise Invalid(why_no_node(lowered), field="node_id", code="invalid_node_id")
    return lowered


def _check_label(label: str | None) -> None:
    if label is not None and not (1 <= len(label) <= MAX_LABEL_LENGTH and label.isprintable()):
        raise Invalid(
            f"a label is 1 to {MAX_LABEL_LENGTH} printable characters, or null for none",
            field="label",
            code="invalid_label",
        )

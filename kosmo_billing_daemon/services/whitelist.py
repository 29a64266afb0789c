"""The nodes a user lists. A change is in the document of a whitelist plan's user at once, by trigger.

The list may be kept before and after such a plan; it gives no right by itself.
"""

import re
from collections.abc import Callable

from kosmo_billing_daemon.contract.encoding import NODE_ID
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import nodes
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.store.postgres import Connection, Pool, locking_users

MOST_NODES = 32
MAX_LABEL_LENGTH = 64

_NODE_ID = re.compile(NODE_ID)


@record(kw_only=True)
class Whitelist:
    """Shows and changes users' lists. ``changed`` is called after each commit that changed one."""

    pool: Pool
    clock: Clock
    changed: Callable[[], None]

    async def show(self, user_id: UserId) -> list[Node]:
        """Return the user's nodes in the order in which they were added."""
        async with self.pool.connection() as connection:
            return await nodes.load(connection, user_id)

    async def add(self, user_id: UserId, node_id: str, label: str | None) -> tuple[Node, bool]:
        """List a node or set its label; returns it and whether it is new.

        Raises ``Invalid`` for what is no node id or label, ``Conflict`` when the list is full.
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
            added_at = self.clock() if known is None else known.added_at
            node = Node(node_id=wanted, label=label, added_at=added_at)
            if node != known:
                await nodes.save(connection, user_id, node)
            return node, known is None, node != known

        node, is_new, is_changed = await self.pool.retrying(work, locking_users([user_id]))
        if is_changed:
            self.changed()
        return node, is_new

    async def remove(self, user_id: UserId, node_id: str) -> None:
        """Take a node off the list; one that is not on it changes nothing."""
        unwanted = _checked_id(node_id)

        async def work(connection: Connection) -> None:
            await nodes.remove(connection, user_id, unwanted)

        await self.pool.retrying(work, locking_users([user_id]))
        self.changed()


def _checked_id(node_id: str) -> str:
    lowered = node_id.lower()
    if not _NODE_ID.fullmatch(lowered):
        raise Invalid(
            "a Meshtastic node id is ! and eight hex digits, as !a1b2c3d4",
            field="node_id",
            code="invalid_node_id",
        )
    return lowered


def _check_label(label: str | None) -> None:
    if label is not None and not (1 <= len(label) <= MAX_LABEL_LENGTH and label.isprintable()):
        raise Invalid(
            f"a label is 1 to {MAX_LABEL_LENGTH} printable characters, or null for none",
            field="label",
            code="invalid_label",
        )

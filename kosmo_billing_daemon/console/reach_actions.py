"""What operators do to how a user is reached: nodes, the renewal link, the document, leases of gateways."""

from collections.abc import Sequence

from aiohttp import web

from kosmo_billing_daemon.admin import links, rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.reporters import ReporterActions
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, Preview, Values
from kosmo_billing_daemon.console.user import user_of
from kosmo_billing_daemon.console.user_forms import user_form
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store import listings, nodes


def _whitelist(desk: Desk) -> Whitelist:
    # The database's triggers wake the publisher, and the limit of new nodes is for users.
    return Whitelist(pool=desk.pool, clock=desk.clock, changed=lambda: None, new_per_day=0)


async def _new_node(_: web.Request) -> Sequence[FormField]:
    return (
        FormField(name="node", label="Node", hint="Such as !a1b2c3d4."),
        FormField(name="label", label="Label", is_required=False),
    )


async def _add_node(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    action = by.entry("user.nodes", user_id, f"node {given['node']} listed", desk.clock())
    node, _ = await _whitelist(desk).add(user_id, given["node"], given["label"] or None, action=action)
    return f"{node.node_id} is on the list."


async def _listed_nodes(request: web.Request) -> Sequence[FormField]:
    found = await request.app[DESK].pool.read(nodes.load, user_of(request))
    options = [(one.node_id, f"{one.node_id} ({one.label})" if one.label else one.node_id) for one in found]
    return (FormField(name="node", label="Node", kind="select", options=options),)


async def _remove_node(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    action = by.entry("user.nodes", user_id, f"node {given['node']} taken off", desk.clock())
    await _whitelist(desk).remove(user_id, given["node"], action=action)
    return f"{given['node']} is off the list."


async def _look_at_link(_desk: Desk, _user_id: UserId, _: Values) -> Preview:
    return Preview(
        sentence="The renewal link that the user has stops working, and there is a new one.",
        warning="Whoever was given the old link, also in a reminder, cannot pay with it any more.",
    )


async def _revoke_link(desk: Desk, user_id: UserId, _: Values, by: OperatorAction) -> str:
    await links.revoke(desk.links, user_id, by)
    return "The link is revoked; the new one is below."


async def _look_at_document(desk: Desk, user_id: UserId, _: Values) -> Preview:
    known = await desk.pool.read(listings.load_publication, user_id)
    if known is None:
        raise Conflict("this user has no document: nothing was ever bought or granted")
    said = "The document is published again, with a new version. Nothing that it says changes."
    return Preview(sentence=said, effects=[("Version now", f"{known.version:,}")])


async def _republish(desk: Desk, user_id: UserId, _: Values, _by: OperatorAction) -> str:
    await desk.operations.republish(user_id, lambda _: None)
    return "The document will be published again."


async def _look_at_leases(desk: Desk, user_id: UserId, _: Values) -> Preview:
    state = await desk.pool.read(rehearsing.load_state, user_id)
    if not state.leased:
        raise Conflict("no gateway holds messages of this user")
    return Preview(
        sentence="What gateways hold of this user's messages is taken back, so that others may lease it.",
        effects=[("Leased to gateways", f"{state.leased} messages → 0 messages")],
        warning="A gateway that returns after all counts what it let through, beyond the limit too.",
    )


async def _free(desk: Desk, user_id: UserId, _: Values, by: OperatorAction) -> str:
    freed = await ReporterActions(pool=desk.pool, clock=desk.clock).free(None, user_id, by)
    return f"{freed.messages} messages are taken back."


FORMS = (
    user_form(
        "nodes/add",
        "Add a node",
        _add_node,
        verb="Add the node",
        will="The node is put on the user's list.",
        fields=_new_node,
    ),
    user_form(
        "nodes/remove",
        "Remove a node",
        _remove_node,
        verb="Remove the node",
        will="The node is taken off the user's list.",
        fields=_listed_nodes,
        is_dangerous=True,
    ),
    user_form(
        "link",
        "Revoke the renewal link",
        _revoke_link,
        verb="Revoke the link",
        will=_look_at_link,
        is_dangerous=True,
    ),
    user_form(
        "republish",
        "Publish the document again",
        _republish,
        verb="Publish again",
        will=_look_at_document,
    ),
    user_form(
        "free",
        "Take leased messages back",
        _free,
        verb="Take them back",
        will=_look_at_leases,
        is_dangerous=True,
    ),
)

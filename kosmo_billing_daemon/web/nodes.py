"""The user's whitelist of Meshtastic nodes."""

from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.services.whitelist import MOST_NODES
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import NodeDocument, NodeList, NodeRequest
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.rendering import encode, json_response
from kosmo_billing_daemon.web.requests import optional_text, read_object


def routes(prefix: str) -> Sequence[web.RouteDef]:
    one = f"{prefix}/nodes/{{node_id:[^/]+}}"
    return [web.get(f"{prefix}/nodes", _list), web.put(one, _add), web.delete(one, _remove)]


async def _list(request: web.Request) -> web.Response:
    nodes = await request.app[keys.WHITELIST].show(await identify(request))
    listed = NodeList(items=tuple(shown(node) for node in nodes), limit=MOST_NODES)
    return conditional(request, encode(listed).encode())


async def _add(request: web.Request) -> web.Response:
    user_id = await identify(request)
    label = optional_text(await read_object(request, NodeRequest), "label")
    node, is_new = await request.app[keys.WHITELIST].add(user_id, request.match_info["node_id"], label)
    return json_response(shown(node), status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


async def _remove(request: web.Request) -> web.Response:
    user_id = await identify(request)
    await request.app[keys.WHITELIST].remove(user_id, request.match_info["node_id"])
    return web.Response(status=HTTPStatus.NO_CONTENT)


def shown(node: Node) -> NodeDocument:
    """Describe a listed node."""
    return NodeDocument(node_id=node.node_id, label=node.label, added_at=node.added_at)

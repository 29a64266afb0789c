"""The user's whitelist of Meshtastic nodes."""

from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.node_ids import NODE_ID, NODE_ID_ANY_CASE
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.whitelist import MOST_NODES
from kosmo_billing_daemon.store.nodes import Node
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import EXAMPLE_TIME, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import FOREIGN, WRITING, Answer, Operation, Parameter
from kosmo_billing_daemon.web.rendering import json_response
from kosmo_billing_daemon.web.requests import optional_text, read_object


@record(kw_only=True)
class NodeRequest:
    """How to call a node."""

    label: Annotated[
        str | None, Field(min_length=1, max_length=64, description="Printable", examples=["Hilltop"])
    ] = None


@record(kw_only=True)
class NodeDocument:
    """One listed node."""

    node_id: Annotated[str, Field(pattern=f"^{NODE_ID}$", examples=["!a1b2c3d4"])]
    label: str | None
    added_at: Time


@record(kw_only=True)
class NodeList:
    """The whitelist, in the order in which nodes were added."""

    items: tuple[NodeDocument, ...]
    limit: Annotated[int, Field(description="How many may be listed")]


async def _list(request: web.Request) -> web.Response:
    nodes = await request.app[keys.SERVICES].whitelist.show(await identify(request))
    listed = NodeList(items=tuple(shown(node) for node in nodes), limit=MOST_NODES)
    return conditional(request, listed)


async def _add(request: web.Request) -> web.Response:
    user_id, node_id = await identify(request), request.match_info["node_id"]
    label = optional_text(await read_object(request, NodeRequest), "label")
    node, is_new = await request.app[keys.SERVICES].whitelist.add(user_id, node_id, label)
    return json_response(shown(node), status=HTTPStatus.CREATED if is_new else HTTPStatus.OK)


async def _remove(request: web.Request) -> web.Response:
    user_id = await identify(request)
    await request.app[keys.SERVICES].whitelist.remove(user_id, request.match_info["node_id"])
    return web.Response(status=HTTPStatus.NO_CONTENT)


def shown(node: Node) -> NodeDocument:
    """Describe a listed node."""
    return NodeDocument(node_id=node.node_id, label=node.label, added_at=node.added_at)


_NODE_ID = Parameter(
    name="node_id",
    place="path",
    description="Meshtastic id, any case",
    schema={"type": "string", "pattern": f"^{NODE_ID_ANY_CASE}$"},
    example="!a1b2c3d4",
)
_WRONG_NODE = {
    422: {"invalid_node_id": "It is not ! and eight hex digits, or not one node: !ffffffff or !00000000"}
}
_EXAMPLE = NodeDocument(node_id="!a1b2c3d4", label="Hilltop", added_at=EXAMPLE_TIME)

OPERATIONS = (
    Operation(
        method="get",
        path=f"{API}/nodes",
        handler=_list,
        name="listNodes",
        tag="Whitelist",
        summary="The nodes a whitelist plan may write to",
        has_etag=True,
        answers={200: Answer("The list", NodeList, NodeList(items=(_EXAMPLE,), limit=MOST_NODES))},
    ),
    Operation(
        method="put",
        path=f"{API}/nodes/{{node_id}}",
        handler=_add,
        name="addNode",
        tag="Whitelist",
        summary="List a node, or name it",
        description="Gateways know within a second. The body may be left out; then the node has no label. "
        "Only so many new nodes may be listed in 24 hours; one that was taken off may be listed again.",
        parameters=(_NODE_ID,),
        body=NodeRequest,
        body_example=NodeRequest(label="Hilltop"),
        answers={
            201: Answer("Listed", NodeDocument, _EXAMPLE),
            200: Answer("It was listed; it has this label now", NodeDocument, _EXAMPLE),
        },
        problems=(
            WRITING,
            _WRONG_NODE,
            {
                409: {"too_many_nodes": f"{MOST_NODES} are listed"},
                422: {"invalid_label": "It is not 1 to 64 printable characters"},
                429: {"too_many_new_nodes": "More new nodes in 24 hours than NEW_NODES_PER_DAY"},
            },
        ),
    ),
    Operation(
        method="delete",
        path=f"{API}/nodes/{{node_id}}",
        handler=_remove,
        name="removeNode",
        tag="Whitelist",
        summary="Take a node off the list",
        description="One that is not on it changes nothing.",
        parameters=(_NODE_ID,),
        answers={204: Answer("It is not on the list")},
        problems=(FOREIGN, _WRONG_NODE),
    ),
)

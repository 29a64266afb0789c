"""Ids of Meshtastic nodes, as whitelists and gates write them: ``!`` and eight hex digits in lower case."""

import re

NODE_ID = "![0-9a-f]{8}"
NODE_ID_ANY_CASE = "![0-9a-fA-F]{8}"
"""Meshtastic's node numbers, as patterns for ``re`` and for JSON Schema alike."""

NO_NODE = frozenset({"!ffffffff", "!00000000", "^all"})
"""Addresses that are not one node's: the broadcast address, its name, and nobody's. A list with the first on
it would be a list of all nodes."""


def is_node_id(text: str) -> bool:
    """Whether this is the id of one node, in lower case."""
    return re.fullmatch(NODE_ID, text) is not None and text not in NO_NODE


def why_no_node(text: str) -> str:
    """Say what is wrong with an id, in lower case, that is none of one node."""
    if text in NO_NODE:
        return f"{text} is not one node: !ffffffff and ^all address all of them, !00000000 nobody"
    return "a Meshtastic node id is ! and eight hex digits, as !a1b2c3d4"

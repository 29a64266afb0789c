"""The contract as a document others can read: AsyncAPI 3.0, with a schema for every payload.

The document is written by hand, for people as much as for programs; tests hold it to the payload classes.
"""

import json
from functools import cache
from importlib.resources import files

from kosmo_billing_daemon.contract.topics import DEFAULT_PREFIX, Topics


def asyncapi(topics: Topics | None = None) -> bytes:
    """Return the document in JSON, with the topics of this installation."""
    document = json.loads(files(__package__).joinpath("asyncapi.json").read_bytes())
    if topics is not None and topics.prefix != DEFAULT_PREFIX:
        for channel in document["channels"].values():
            channel["address"] = topics.prefix + channel["address"].removeprefix(DEFAULT_PREFIX)
    return json.dumps(document, ensure_ascii=False).encode()


@cache
def event_types() -> tuple[str, ...]:
    """Return every type of event there is, as the document describes them."""
    document = json.loads(asyncapi())
    schemas = document["components"]["schemas"]
    events = document["channels"]["events"]["messages"]
    return tuple(each for name in events for each in schemas[name]["properties"]["type"]["enum"])

"""The routes of what a user may do: the entitlement, its use, and the whitelist."""

from kosmo_billing_daemon.contract.payloads import EntitlementDocument
from kosmo_billing_daemon.web.documents import (
    NodeDocument,
    NodeList,
    NodeRequest,
    SubscriptionWithHistory,
    UsageDocument,
)
from kosmo_billing_daemon.web.reference import examples
from kosmo_billing_daemon.web.reference.shapes import (
    API,
    AWAY,
    DAY,
    NODE_ID,
    NONE_MATCH,
    UNCHANGED,
    UNKNOWN,
    WRITING,
    WRONG_FIELD,
    WRONG_NODE,
    WRONG_PARAMETER,
    Answer,
    Operation,
    Parameter,
    codes,
    query,
)

RIGHTS: tuple[Operation, ...] = (
    Operation(
        method="get",
        path=f"{API}/subscription",
        name="showSubscription",
        tag="Rights",
        summary="What the user may do now",
        description="The same document that gateways get. Who never bought anything has one too: version 0, "
        "plan free. The end is grace_until where that is set, else valid_until.",
        parameters=(
            query(
                "history",
                "With the purchases so far, and the rule that produced each one's dates",
                {"type": "boolean", "default": False},
            ),
            NONE_MATCH,
        ),
        answers={
            200: Answer(
                description="The entitlement; with history=true also purchases and history",
                kind=(EntitlementDocument, SubscriptionWithHistory),
                example=examples.WITH_HISTORY,
                headers=("ETag",),
            ),
            304: UNCHANGED,
        },
        codes=codes(UNKNOWN, WRONG_PARAMETER, away=AWAY),
    ),
    Operation(
        method="get",
        path=f"{API}/subscription/events",
        name="watchSubscription",
        tag="Rights",
        summary="The same, live",
        description="Server-Sent Events: an event “entitlement” at once and after each change; its data is "
        "the document, its id the version. A comment every 15 seconds keeps the connection. Give the last id "
        "as Last-Event-ID (browsers do): what one has is not sent again.",
        parameters=(
            Parameter(
                name="Last-Event-ID",
                place="header",
                description="The version one has",
                schema={"type": "string", "examples": ["42"]},
            ),
        ),
        answers={
            200: Answer(
                description="The stream",
                kind=str,
                example=examples.EVENT_STREAM,
                media_type="text/event-stream",
            )
        },
        codes=codes(
            UNKNOWN,
            {429: {"too_many_streams": "10 streams of the user are open"}},
            away=AWAY
            | {
                "stopping": "This server is stopping; connect again",
                "overloaded": "Too many streams of all users are open",
            },
        ),
    ),
    Operation(
        method="get",
        path=f"{API}/usage",
        name="showUsage",
        tag="Rights",
        summary="Messages counted",
        description="Days are UTC and both ends count; together they are at most 400. Without from: since "
        "the present plan began, or the last 30 days.",
        parameters=(
            query("from", "The first day", DAY, "2026-03-01"),
            query("to", "The last day; without it: today", DAY, "2026-03-31"),
            NONE_MATCH,
        ),
        answers={
            200: Answer(
                description="Per day, in sum, and the last messages",
                kind=UsageDocument,
                example=examples.USAGE,
                headers=("ETag",),
            ),
            304: UNCHANGED,
        },
        codes=codes(UNKNOWN, WRONG_PARAMETER, away=AWAY),
    ),
    Operation(
        method="get",
        path=f"{API}/nodes",
        name="listNodes",
        tag="Whitelist",
        summary="The nodes a whitelist plan may write to",
        parameters=(NONE_MATCH,),
        answers={
            200: Answer(description="The list", kind=NodeList, example=examples.NODES, headers=("ETag",)),
            304: UNCHANGED,
        },
        codes=codes(UNKNOWN, away=AWAY),
    ),
    Operation(
        method="put",
        path=f"{API}/nodes/{{node_id}}",
        name="addNode",
        tag="Whitelist",
        summary="List a node, or name it",
        description="Gateways know within a second. The body may be left out; then the node has no label.",
        parameters=(NODE_ID,),
        body=NodeRequest,
        body_example=examples.NODE_REQUEST,
        answers={
            201: Answer(description="Listed", kind=NodeDocument, example=examples.NODE),
            200: Answer(
                description="It was listed; it has this label now", kind=NodeDocument, example=examples.NODE
            ),
        },
        codes=codes(
            UNKNOWN,
            WRITING,
            WRONG_FIELD,
            WRONG_NODE,
            {
                409: {"too_many_nodes": "32 are listed"},
                422: {"invalid_label": "It is not 1 to 64 printable characters"},
            },
            away=AWAY,
        ),
    ),
    Operation(
        method="delete",
        path=f"{API}/nodes/{{node_id}}",
        name="removeNode",
        tag="Whitelist",
        summary="Take a node off the list",
        description="One that is not on it changes nothing.",
        parameters=(NODE_ID,),
        answers={204: Answer(description="It is not on the list")},
        codes=codes(UNKNOWN, {403: WRITING[403]}, WRONG_NODE, away=AWAY),
    ),
)

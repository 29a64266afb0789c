"""HTTP: a request in, one service call, an answer out.

Read ``app`` (what there is), ``problems`` (every error), ``identity`` (who asks), then the routes. Each route
has one file, with its bodies and its OpenAPI operation; ``openapi`` makes the document of them.
"""

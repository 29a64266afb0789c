"""HTTP: a request in, one service call, an answer out.

Read ``app`` (what there is), ``problems`` (every error), ``identity`` (who asks), then the routes;
``documents`` are all bodies, and ``reference`` makes the OpenAPI document of them.
"""

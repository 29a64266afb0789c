"""The console put together: every page, and the guard before them all."""

from collections import OrderedDict

from aiohttp import web

from kosmo_billing_daemon.console import (
    attention,
    case_forms,
    feed,
    forms,
    gates,
    guard,
    hooks,
    ledger,
    login,
    overview,
    plan_actions,
    reach_actions,
    refund_actions,
    refunds,
    search,
    subject_actions,
    user,
    users,
)
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.web.server import draining

ACTIONS = (*plan_actions.FORMS, *reach_actions.FORMS, *refund_actions.FORMS, *subject_actions.FORMS)
"""What an operator can do about one user."""

FORMS = (*ACTIONS, *case_forms.FORMS, *refunds.FORMS, *hooks.FORMS, *gates.FORMS)
"""Everything an operator can do; a new action is one more of its file's ``FORMS``."""

ROUTES = (
    *login.ROUTES,
    *overview.ROUTES,
    *users.ROUTES,
    *user.ROUTES,
    *subject_actions.ROUTES,
    *search.ROUTES,
    *attention.ROUTES,
    *ledger.ROUTES,
    *refunds.ROUTES,
    *hooks.ROUTES,
    *gates.ROUTES,
    *feed.ROUTES,
    *(route for form in FORMS for route in form.routes()),
)
"""Every page; a new one is a file with its ``ROUTES`` and one line here."""


def build_console(desk: Desk) -> web.Application:
    """Build the application, which belongs on a listener that only this machine reaches."""
    app = web.Application(middlewares=[guard.middleware], client_max_size=guard.MAX_BODY_BYTES)
    app[DESK] = desk
    app[forms.CONFIRMED] = OrderedDict()
    guard.install(app)
    ledger.install(app)
    feed.install(app)
    draining.install(app)
    app.add_routes(ROUTES)
    return app

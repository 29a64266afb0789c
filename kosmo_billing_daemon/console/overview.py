"""The first page: money, subscriptions, what waits, and how each part is."""

from aiohttp import web

from kosmo_billing_daemon.console.rendering import render, url


async def show(request: web.Request) -> web.Response:
    return render(request, "overview.html")


ROUTES = (web.get(url("/"), show),)

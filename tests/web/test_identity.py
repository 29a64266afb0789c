"""Who is taken for whom, and that all others get one answer."""

import socket
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import pytest
from multidict import CIMultiDict

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import AuthMode, Http, Proxies
from kosmo_billing_daemon.web.identity import for_mode
from tests.web.conftest import Answer, Service, Starter

VALID = "11111111-1111-1111-1111-111111111111"
GUARDED = [
    ("POST", "/invoices"),
    ("GET", "/invoices"),
    ("GET", "/invoices/abc"),
    ("GET", "/subscription"),
    ("GET", "/nodes"),
    ("PUT", "/nodes/!a1b2c3d4"),
    ("DELETE", "/nodes/!a1b2c3d4"),
]


def comparable(answer: Answer) -> Any:
    assert answer.code == "unauthenticated"
    assert answer.headers["WWW-Authenticate"]
    return answer.status, {name: value for name, value in answer.body.items() if name != "request_id"}


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_nothing_of_a_user_is_answered_to_nobody(service: Service, method: str, path: str) -> None:
    answer = await service.ask(method, path, data=b"not even json")
    assert (answer.status, answer.code) == (401, "unauthenticated")


async def test_every_way_of_not_being_known_gets_the_same_answer(service: Service, start: Starter) -> None:
    strangers = await start(trusted_proxies=Proxies((ip_network("10.0.0.0/8"), ip_network("::1"))))
    malformed = [
        "",
        "1",
        "root",
        VALID[:-1],
        VALID + "1",
        f"{{{VALID}}}",
        f"urn:uuid:{VALID}",
        VALID.replace("-", ""),
        f"{VALID}, {VALID}",
        VALID.replace("1", "\u0661"),
    ]
    answers = [await service.ask("GET", "/subscription")]
    answers += [await service.ask("GET", "/subscription", user=value) for value in malformed]
    answers.append(await strangers.ask("GET", "/subscription", user=VALID))
    answers.append(await strangers.ask("GET", "/subscription"))
    twice = CIMultiDict([("X-User-ID", VALID)] * 2)
    answers.append(await service.ask("GET", "/subscription", headers=twice))
    assert len({str(comparable(answer)) for answer in answers}) == 1
    assert answers[0].status == 401


async def test_what_a_stranger_says_of_the_proxy_is_not_believed(start: Starter) -> None:
    strangers = await start(trusted_proxies=Proxies((ip_network("10.0.0.0/8"),)))
    said = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X-Real-IP": "10.0.0.1"}
    assert (await strangers.ask("GET", "/subscription", user=VALID, headers=said)).status == 401
    assert (await strangers.buy(UUID(VALID), "wanderer")).status == 401
    assert not strangers.simulator.invoices


async def test_a_trusted_proxy_names_the_user_in_any_case(service: Service) -> None:
    user = "ABCDEFAB-1234-1234-1234-ABCDEFABCDEF"
    answer = await service.ask("GET", "/subscription", user=user)
    assert (answer.status, answer.body["user_id"]) == (200, user.lower())


@pytest.mark.parametrize(
    ("networks", "status"), [(("127.0.0.0/8",), 200), (("::1",), 401), (("127.0.0.1/32",), 200), ((), 401)]
)
async def test_an_ipv4_peer_of_a_dual_listener_is_known_by_its_ipv4_address(
    start: Starter, networks: tuple[str, ...], status: int
) -> None:
    dual = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    service = await start(sockets=[dual], trusted_proxies=Proxies(tuple(map(ip_network, networks))))
    assert (await service.ask("GET", "/subscription", user=VALID)).status == status


async def test_users_see_their_own(service: Service, user: UUID) -> None:
    await service.buy(user, "wanderer")
    assert len((await service.ask("GET", "/invoices", user=user)).body["items"]) == 1
    assert (await service.ask("GET", "/invoices", user=VALID)).body["items"] == []


def test_an_identity_mode_that_there_is_not_never_falls_open() -> None:
    with pytest.raises(Misconfigured, match="AUTH_MODE"):
        for_mode(Http(auth_mode=AuthMode.JWT, trusted_proxies=Proxies(())))

"""The invoice, store, key and server calls, and what they refuse."""

import time
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from kosmo_billing_daemon.demo.btcpay import Permission, SimulatedInvoice, SimulatedStore, Simulator
from tests.demo.btcpay.conftest import KEY, STORE, Api, HandClock

INVOICES = f"/api/v1/stores/{STORE}/invoices"


async def test_created_invoice_has_the_shape_of_the_api(
    api: Api, simulator: Simulator, clock: HandClock
) -> None:
    metadata = {"orderId": "o-1", "posData": {"tip": 0.48}, "n": 7}
    checkout = {
        "expirationMinutes": 30,
        "redirectURL": "https://shop.example/{OrderId}",
        "speedPolicy": "LowSpeed",
    }
    invoice = await api.create("5.00", currency="eur", metadata=metadata, checkout=checkout)
    created = int(clock.now.timestamp())
    assert len(invoice["id"]) == 22
    assert invoice == {
        "id": invoice["id"],
        "storeId": STORE,
        "amount": "5.00",
        "paidAmount": "0",
        "currency": "EUR",
        "type": "Standard",
        "checkoutLink": f"{simulator.url}/i/{invoice['id']}",
        "createdTime": created,
        "expirationTime": created + 1800,
        "monitoringExpiration": created + 1800 + 86400,
        "status": "New",
        "additionalStatus": "None",
        "availableStatusesForManualMarking": ["Settled", "Invalid"],
        "archived": False,
        "metadata": metadata,
        "checkout": {
            "speedPolicy": "LowSpeed",
            "paymentMethods": ["BTC-CHAIN", "BTC-LN"],
            "defaultPaymentMethod": None,
            "expirationMinutes": 30,
            "monitoringMinutes": 1440,
            "paymentTolerance": 0.0,
            "redirectURL": "https://shop.example/{OrderId}",
            "redirectAutomatically": False,
            "defaultLanguage": None,
        },
        "receipt": {"enabled": None, "showQR": None, "showPayments": None},
        "paymentMethods": [],
    }
    assert await api.invoice(invoice["id"]) == invoice


async def test_checkout_link_names_the_host_of_the_request(api: Api, simulator: Simulator) -> None:
    headers = {"Authorization": f"token {KEY}", "Host": "pay.example"}
    async with api.session.post(simulator.url + INVOICES, json={"amount": "1"}, headers=headers) as response:
        assert (await response.json())["checkoutLink"].startswith("http://pay.example/i/")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("5.00", "5.00"),
        (5, "5"),
        (5.0, "5.0"),
        (0.1, "0.1"),
        ("1.005", "1.01"),
        ("0.001", "0.001"),
        ("1e1", "10"),
    ],
)
async def test_amounts_keep_their_scale_and_round_half_away_from_zero(
    api: Api, sent: object, shown: str
) -> None:
    assert (await api.create(sent))["amount"] == shown


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"amount": "-1"}, "Amount"),
        ({"amount": "1e30"}, "Amount"),
        ({"amount": "five"}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": "1", "metadata": "text"}, "metadata"),
        ({"amount": "1", "checkout": []}, "checkout"),
        ({"amount": "1", "checkout": {"expirationMinutes": 15.0}}, "checkout.expirationMinutes"),
        ({"amount": "1", "checkout": {"monitoringMinutes": 0.5}}, "checkout.monitoringMinutes"),
        ({"amount": "1", "checkout": {"expirationMinutes": 10**18}}, "checkout.expirationMinutes"),
        ({"amount": "1", "checkout": {"expirationMinutes": 0}}, "Checkout.Expiration"),
        ({"amount": "1", "checkout": {"paymentTolerance": 101}}, "Checkout.PaymentTolerance"),
        ({"amount": "1", "checkout": {"paymentTolerance": "much"}}, "checkout.paymentTolerance"),
        (
            {"amount": "1", "checkout": {"paymentMethods": ["BTC", "DOGE-CHAIN"]}},
            "Checkout.PaymentMethods[1]",
        ),
        ({"amount": "1", "checkout": {"paymentMethods": "BTC"}}, "checkout.paymentMethods"),
        ({"amount": "1", "checkout": {"defaultLanguage": "xx"}}, "Checkout.DefaultLanguage"),
        ({"amount": "1", "checkout": {"speedPolicy": "Warp"}}, "checkout.speedPolicy"),
        ({"amount": "1", "checkout": {"redirectAutomatically": "perhaps"}}, "checkout.redirectAutomatically"),
    ],
)
async def test_invalid_bodies_are_refused_with_their_path(api: Api, body: dict[str, Any], path: str) -> None:
    status, problems = await api.call("POST", INVOICES, body)
    assert status == 422
    assert [problem["path"] for problem in problems] == [path]
    assert problems[0]["message"]
    assert await api.found() == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
async def test_body_that_is_no_json_object_is_refused(api: Api, simulator: Simulator, raw: bytes) -> None:
    headers = {"Authorization": f"token {KEY}", "Content-Type": "application/json"}
    async with api.session.post(simulator.url + INVOICES, data=raw, headers=headers) as response:
        assert response.status == 422
        assert isinstance(await response.json(), list)


async def test_body_of_another_media_type_is_refused(api: Api, simulator: Simulator) -> None:
    headers = {"Authorization": f"token {KEY}"}
    async with api.session.post(simulator.url + INVOICES, data=b"amount=5", headers=headers) as response:
        assert response.status == 415


async def test_currency_without_a_rate_is_a_business_failure(api: Api) -> None:
    status, body = await api.call("POST", INVOICES, {"amount": "5", "currency": "XXX"})
    assert (status, body["code"]) == (400, "generic-error")


async def test_lone_surrogate_in_metadata_does_no_harm(api: Api) -> None:
    invoice = await api.create(metadata={"buyerName": "\ud800"})
    assert (await api.invoice(invoice["id"]))["metadata"] == {"buyerName": "?"}


async def test_missing_or_unknown_key_is_unauthenticated(api: Api) -> None:
    expected = {
        "code": "unauthenticated",
        "message": "Authentication is required for accessing this endpoint",
    }
    for key in (None, "", "wrong"):
        assert await api.call("GET", INVOICES, key=key) == (401, expected)
    assert (await api.call("GET", "/api/v1/server/info", key=None))[0] == 401


@pytest.mark.parametrize("scheme", ["token", "Token", "Bearer", "BEARER"])
async def test_key_comes_as_token_or_bearer(api: Api, simulator: Simulator, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {KEY}"}
    async with api.session.get(simulator.url + INVOICES, headers=headers) as response:
        assert response.status == 200


async def test_unknown_store_and_unknown_ids_look_like_missing_permissions(api: Api) -> None:
    view, modify = "btcpay.store.canviewinvoices", "btcpay.store.canmodifyinvoices"
    hooks = "btcpay.store.webhooks.canmodifywebhooks"
    for method, path, permission in (
        ("GET", "/api/v1/stores/Other/invoices", view),
        ("GET", f"{INVOICES}/nothing", view),
        ("GET", "/api/v1/invoices/nothing", view),
        ("POST", "/api/v1/invoices/nothing/status", modify),
        ("GET", f"/api/v1/stores/{STORE}/webhooks/nothing", hooks),
        ("GET", "/api/v1/webhooks/nothing", hooks),
        ("GET", "/api/v1/stores/Other", "btcpay.store.canviewstoresettings"),
    ):
        status, body = await api.call(method, path)
        assert (status, body["code"], body["missingPermission"]) == (403, "missing-permission", permission)
        assert permission in body["message"]


async def test_before_2_4_unknown_ids_are_not_found(clock: HandClock) -> None:
    async with (
        Simulator(store_id=STORE, api_key=KEY, clock=clock, version="2.3.9") as old,
        aiohttp.ClientSession() as session,
    ):
        api = Api(old, session)
        status, body = await api.call("GET", f"{INVOICES}/nothing")
        assert (status, body["code"]) == (404, "invoice-not-found")
        status, body = await api.call("GET", f"/api/v1/stores/{STORE}/webhooks/nothing")
        assert (status, body["code"]) == (404, "webhook-not-found")
        assert (await api.call("GET", "/api/v1/stores/Other/invoices/nothing"))[0] == 403


async def test_permissions_are_those_of_the_key(api: Api, simulator: Simulator) -> None:
    invoice = await api.create()
    simulator.add_key("reader", (Permission.VIEW_INVOICES,))
    simulator.add_key("modifier", (f"{Permission.MODIFY_INVOICES}:{STORE}",))
    simulator.add_key("elsewhere", (f"{Permission.MODIFY_INVOICES}:Other",))
    simulator.add_key("owner", (Permission.MODIFY_STORE,))
    one = f"/api/v1/invoices/{invoice['id']}"
    hooks = f"/api/v1/stores/{STORE}/webhooks"

    async def statuses(key: str) -> list[int]:
        calls: list[tuple[str, str, object]] = [
            ("GET", one, None),
            ("POST", INVOICES, {"amount": "1"}),
            ("PUT", one, {"metadata": {}}),
        ]
        return [(await api.call(*call, key=key))[0] for call in [*calls, ("GET", hooks, None)]]

    assert await statuses("reader") == [200, 403, 403, 403]
    assert await statuses("modifier") == [200, 200, 200, 403]
    assert await statuses("elsewhere") == [403, 403, 403, 403]
    assert await statuses("owner") == [200, 200, 200, 200]


async def test_stores_do_not_see_each_other(api: Api, simulator: Simulator) -> None:
    simulator.add_store(SimulatedStore(store_id="Other", api_key="other-key"))
    mine = (await api.create(metadata={"orderId": "shared"}))["id"]
    status, theirs = await api.call("POST", "/api/v1/stores/Other/invoices", {"amount": "1"}, key="other-key")
    assert status == 200
    assert await api.found(("orderId", "shared")) == [mine]
    assert (await api.call("GET", f"{INVOICES}/{theirs['id']}"))[0] == 403
    assert (await api.call("GET", f"/api/v1/invoices/{mine}", key="other-key"))[0] == 403


async def test_list_is_newest_first_and_filters(api: Api, simulator: Simulator, clock: HandClock) -> None:
    start = int(clock.now.timestamp())
    ids = []
    for number in range(4):
        order = {"orderId": f"order-{number}", "buyerEmail": f"buyer{number}@example.org"}
        ids.append(
            (await api.create(f"{number + 1}.00", metadata=order, additionalSearchTerms=["lamp"]))["id"]
        )
        clock.move(seconds=10)
    first, second, third, fourth = ids
    await simulator.act(second, "pay")
    await simulator.act(third, "mark_settled")
    newest_first = [fourth, third, second, first]
    assert await api.found() == newest_first
    assert await api.found(("orderId", "order-0"), ("orderId", "order-3"), ("orderId", "none")) == [
        fourth,
        first,
    ]
    assert await api.found(("status", "processing"), ("status", "SETTLED")) == [third, second]
    assert await api.found(("status", "Settled"), ("status", "nonsense")) == [third]
    assert await api.found(("status", "nonsense")) == newest_first
    assert await api.found(("startDate", str(start + 10)), ("endDate", str(start + 20))) == [third, second]
    assert await api.found(("skip", "1"), ("take", "2")) == [third, second]
    assert await api.found(("take", "0")) == []
    for text in ("order-1", "buyer1@", second[:12], "2.00"):
        assert await api.found(("textSearch", text)) == [second]
    assert await api.found(("textSearch", "lam")) == newest_first
    assert await api.found(("textSearch", "amp")) == []
    assert (await api.call("DELETE", f"{INVOICES}/{first}")) == (200, None)
    assert await api.found() == newest_first[:3]
    assert await api.found(("includeArchived", "true")) == newest_first


async def test_list_refuses_bad_filters(api: Api) -> None:
    status, problems = await api.call("GET", INVOICES, query=[("startDate", "9"), ("endDate", "8")])
    assert (status, [problem["path"] for problem in problems]) == (422, ["startDate", "endDate"])
    for name in ("startDate", "skip", "take", "includeArchived"):
        status, problems = await api.call("GET", INVOICES, query=[(name, "soon")])
        assert (status, problems[0]["path"]) == (422, name)


async def test_order_ids_are_not_unique_and_follow_the_metadata(api: Api) -> None:
    first = (await api.create(metadata={"orderId": "same"}))["id"]
    second = (await api.create(metadata={"orderId": "same"}))["id"]
    assert await api.found(("orderId", "same")) == [second, first]
    status, changed = await api.call("PUT", f"{INVOICES}/{first}", {"metadata": {"orderId": "new", "a": 1}})
    assert (status, changed["metadata"]) == (200, {"orderId": "new", "a": 1})
    assert await api.found(("orderId", "same")) == [second]
    assert await api.found(("orderId", "new")) == [first]


async def test_list_of_500_order_ids_stays_quick_among_many_invoices(api: Api, simulator: Simulator) -> None:
    template = simulator.invoices[(await api.create())["id"]]
    ledger = simulator._engine.ledger
    for number in range(30_000):
        ledger.add(_copy(template, number))
    wanted = [("orderId", f"00000000-0000-0000-0000-{number:012d}") for number in range(0, 30_000, 60)]
    started = time.monotonic()
    assert len(await api.found(*wanted)) == 500
    assert time.monotonic() - started < 2


def _copy(template: SimulatedInvoice, number: int) -> SimulatedInvoice:
    order = {"orderId": f"00000000-0000-0000-0000-{number:012d}"}
    return replace(template, id=f"copy{number}", metadata=order, payments=[])


async def test_archived_invoice_stays_live_and_can_be_unarchived_once(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    path = f"/api/v1/invoices/{invoice_id}"
    await api.call("DELETE", path)
    await simulator.act(invoice_id, "pay")
    shown = await api.invoice(invoice_id)
    assert (shown["archived"], shown["status"]) == (True, "Processing")
    status, shown = await api.call("POST", f"{path}/unarchive")
    assert (status, shown["archived"]) == (200, False)
    status, body = await api.call("POST", f"{path}/unarchive")
    assert (status, body["code"]) == (400, "already-unarchived")


async def test_payment_methods_show_replaced_payments_only_when_asked(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    await simulator.act(invoice_id, "pay")
    await simulator.act(invoice_id, "replace_payment", amount="6.00")
    path = f"{INVOICES}/{invoice_id}/payment-methods"
    chain, lightning = (await api.call("GET", path))[1]
    assert [payment["status"] for payment in chain["payments"]] == ["Processing"]
    assert (chain["due"], chain["totalPaid"], chain["rate"]) == ("-0.00001000", "0.00006000", "100000")
    assert (lightning["paymentMethodId"], lightning["payments"]) == ("BTC-LN", [])
    chain, _ = (await api.call("GET", path, query=[("onlyAccountedPayments", "false")]))[1]
    assert [payment["status"] for payment in chain["payments"]] == ["Invalid", "Processing"]
    assert (await api.call("GET", path, query=[("includeSensitive", "true")]))[0] == 403
    single = await api.call("GET", f"{INVOICES}/{invoice_id}", query=[("includePaymentMethods", "true")])
    listed = await api.call("GET", INVOICES, query=[("includePaymentMethods", "true")])
    assert len(single[1]["paymentMethods"]) == len(listed[1][0]["paymentMethods"]) == 2


@pytest.mark.parametrize("status", ["New", "Expired", "nonsense", None])
async def test_only_settled_and_invalid_can_be_marked(api: Api, status: str | None) -> None:
    invoice_id = (await api.create())["id"]
    assert (await api.call("POST", f"/api/v1/invoices/{invoice_id}/status", {"status": status}))[0] == 422


async def test_key_store_server_and_health_answer(api: Api, simulator: Simulator) -> None:
    status, key = await api.call("GET", "/api/v1/api-keys/current")
    assert (status, key["apiKey"]) == (200, KEY)
    assert "btcpay.store.cancreateinvoice" in key["permissions"]
    status, store = await api.call("GET", f"/api/v1/stores/{STORE}")
    assert (status, store["id"], store["defaultCurrency"], store["invoiceExpiration"]) == (
        200,
        STORE,
        "USD",
        900,
    )
    status, info = await api.call("GET", "/api/v1/server/info")
    assert (status, info["version"], info["fullySynched"]) == (200, "2.4.1", True)
    assert await api.call("GET", "/api/v1/health", key=None) == (200, {"synchronized": True})
    simulator.revoke_key(KEY)
    assert (await api.call("GET", "/api/v1/api-keys/current"))[0] == 401


async def test_key_can_revoke_itself(api: Api) -> None:
    assert (await api.call("DELETE", "/api/v1/api-keys/current"))[0] == 200
    assert (await api.call("GET", "/api/v1/api-keys/current"))[0] == 401

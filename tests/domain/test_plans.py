"""The catalogue as data: what is read, and how its mistakes are told."""

import tomllib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.currencies import rounded_down, rounded_up, smallest_unit
from kosmo_billing_daemon.domain.plans import BUILT_IN, parse_catalogue
from kosmo_billing_daemon.errors import Invalid, Misconfigured
from tests.domain.builders import WITH_PACK

TEXT = """
[plans.wanderer]
price = "5.00"
messages = 50
scope = "any_node"

[plans.guardian]
price = "12.00"
currency = "USD"
period_days = 30
messages = 500
scope = "whitelist"

[plans.sanctuary]
price = "50.00"
messages = "unlimited"
scope = "any_node"
features = ["api", "webhooks"]
"""

GOOD: dict[str, Any] = {"price": "5.00", "messages": 50, "scope": "any_node"}


def problems(document: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(Misconfigured) as caught:
        parse_catalogue(document)
    return caught.value.problems


def test_the_text_of_the_built_in_catalogue_reads_as_the_built_in_catalogue() -> None:
    assert parse_catalogue(tomllib.loads(TEXT)) == BUILT_IN


PACKS = """
[packs.extra_50]
price = "4.00"
messages = 50
plans = ["wanderer", "guardian"]
"""


def test_a_pack_is_in_the_currency_of_the_plans_and_has_no_time() -> None:
    catalogue = parse_catalogue(tomllib.loads(TEXT + PACKS))
    assert catalogue == WITH_PACK
    assert catalogue.require_pack("extra_50").is_pack
    assert catalogue.find("extra_50") is None
    with pytest.raises(Invalid, match="for sale are extra_50"):
        catalogue.require_pack("wanderer")


def test_every_mistake_in_packs_is_told_at_once() -> None:
    packs = {
        "wanderer": {"price": "4.00", "messages": 1, "plans": ["wanderer"]},
        "one": {"price": 4, "messages": True, "plans": ["gold", "sanctuary"], "scope": "none"},
        "two": {"price": "0.001", "messages": 5, "plans": ["wanderer", "wanderer"]},
        "three": {"price": "1", "messages": "unlimited", "plans": []},
        "four": 4,
    }
    told = problems({**tomllib.loads(TEXT), "packs": packs})
    assert [problem.split(":")[0] for problem in told] == [
        "packs.wanderer.name",
        "packs.one.scope",
        "packs.one.price",
        "packs.one.messages",
        "packs.one.plans",
        "packs.one.plans",
        "packs.two.price",
        "packs.two.plans",
        "packs.three.messages",
        "packs.three.plans",
        "packs.four.must be a table",
    ]
    assert problems({**tomllib.loads(TEXT), "packs": 3}) == ("packs: must be tables [packs.NAME]",)


def test_the_built_in_catalogue_sells_what_the_product_promises() -> None:
    assert [(p.plan_type, p.price.amount, p.quota, p.scope, p.features) for p in BUILT_IN.plans] == [
        ("wanderer", Decimal("5.00"), 50, Scope.ANY_NODE, ()),
        ("guardian", Decimal("12.00"), 500, Scope.WHITELIST, ()),
        ("sanctuary", Decimal("50.00"), None, Scope.ANY_NODE, ("api", "webhooks")),
    ]
    assert {(p.price.currency, p.period.days) for p in BUILT_IN.plans} == {("USD", 30)}


def test_a_plan_is_found_by_its_name_and_free_is_not_for_sale() -> None:
    assert BUILT_IN.find("guardian") is BUILT_IN.plans[1]
    assert BUILT_IN.find("free") is None


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"price": 5.0}, "plans.x.price:"),
        ({"price": 5}, "plans.x.price:"),
        ({"price": "0.00"}, "plans.x.price:"),
        ({"price": "-5.00"}, "plans.x.price:"),
        ({"price": "NaN"}, "plans.x.price:"),
        ({"price": "Infinity"}, "plans.x.price:"),
        ({"price": "1E+2"}, "plans.x.price:"),
        ({"price": " 5.00 "}, "plans.x.price:"),
        ({"price": "\u0665.00"}, "plans.x.price:"),
        ({"price": "5_0"}, "plans.x.price:"),
        ({"price": "1000000000"}, "plans.x.price:"),
        ({"price": "5.001"}, "plans.x.price:"),
        ({"price": "500.5", "currency": "JPY"}, "plans.x.price:"),
        ({"price": "0.000000001", "currency": "BTC"}, "plans.x.price:"),
        ({"price": None}, "plans.x.price:"),
        ({"currency": "usd"}, "plans.x.currency:"),
        ({"currency": 1}, "plans.x.currency:"),
        ({"period_days": 0}, "plans.x.period_days:"),
        ({"period_days": 367}, "plans.x.period_days:"),
        ({"period_days": True}, "plans.x.period_days:"),
        ({"period_days": 30.0}, "plans.x.period_days:"),
        ({"messages": 0}, "plans.x.messages:"),
        ({"messages": True}, "plans.x.messages:"),
        ({"messages": None}, "plans.x.messages:"),
        ({"messages": "many"}, "plans.x.messages:"),
        ({"messages": 10**9 + 1}, "plans.x.messages:"),
        ({"scope": "none"}, "plans.x.scope:"),
        ({"scope": ["any_node"]}, "plans.x.scope:"),
        ({"features": "api"}, "plans.x.features:"),
        ({"features": ["API"]}, "plans.x.features:"),
        ({"mesages": 50}, "plans.x.mesages:"),
    ],
)
def test_each_mistake_is_named_with_its_place(changed: dict[str, Any], place: str) -> None:
    (problem,) = problems({"plans": {"x": GOOD | changed}})
    assert problem.startswith(place)


@pytest.mark.parametrize("name", ["free", "Wanderer", "1st", "", "a-b", "a" * 33, "a\n", "pl\u00e4n"])
def test_a_bad_name_is_a_mistake(name: str) -> None:
    (problem,) = problems({"plans": {name: GOOD}})
    assert problem.startswith(f"plans.{name}.name:")


def test_every_mistake_is_told_at_once() -> None:
    found = problems(
        {"plan": {}, "plans": {"x": {"price": 5, "scope": "all", "messages": 0}, "y": 3, "free": GOOD}}
    )
    assert [problem.split(":")[0].split(" ")[0] for problem in found] == [
        "plan",
        "plans.x.price",
        "plans.x.messages",
        "plans.x.scope",
        "plans.y.must",
        "plans.free.name",
    ]


@pytest.mark.parametrize("document", [{}, {"plans": {}}, {"plans": []}, {"plans": "x"}])
def test_a_catalogue_without_plans_is_a_mistake(document: dict[str, Any]) -> None:
    assert problems(document)[0].startswith("plans:")


def test_two_currencies_are_a_mistake_because_worth_is_converted_between_plans() -> None:
    (problem,) = problems({"plans": {"x": GOOD, "y": GOOD | {"currency": "EUR"}}})
    assert problem.startswith("plans: all prices must be in one currency")


UNITS = (
    [(currency, "0.01") for currency in ("USD", "EUR", "HUF", "TWD", "IDR")]
    + [(currency, "1") for currency in ("JPY", "UGX", "XOF", "XAF", "BIF", "KMF", "DJF", "GNF", "RWF", "XPF")]
    + [(currency, "1") for currency in ("KRW", "CLP", "ISK", "PYG", "VND", "VUV", "SATS")]
    + [(currency, "0.001") for currency in ("BHD", "KWD", "OMR", "TND", "JOD", "IQD", "LYD")]
    + [("CLF", "0.0001"), ("BTC", "0.00000001")]
)
"""As BTCPay's own list (Currencies.json) has them."""


@pytest.mark.parametrize(("currency", "unit"), UNITS)
def test_a_price_has_the_digits_of_its_currency_and_no_more(currency: str, unit: str) -> None:
    assert smallest_unit(currency) == Decimal(unit)
    assert parse_catalogue({"plans": {"x": GOOD | {"price": unit, "currency": currency}}}).plans
    finer = f"{Decimal(unit) / 2:f}"
    (problem,) = problems({"plans": {"x": GOOD | {"price": finer, "currency": currency}}})
    assert problem.startswith("plans.x.price: ")


@pytest.mark.parametrize("currency", ["XXX", "XTS", "XAU", "ABC", "usd", "US", "", "None"])
def test_what_is_no_currency_to_pay_in_is_a_mistake(currency: str) -> None:
    (problem,) = problems({"plans": {"x": GOOD | {"currency": currency}}})
    assert problem.startswith("plans.x.currency: ")


@given(st.decimals(0, 10**6, places=12), st.sampled_from(UNITS))
def test_rounding_stays_within_one_unit_on_its_side(amount: Decimal, of: tuple[str, str]) -> None:
    unit = Decimal(of[1])
    assert 0 <= rounded_up(amount, of[0]) - amount < unit
    assert 0 <= amount - rounded_down(amount, of[0]) < unit


def told_or_read(document: dict[str, Any]) -> tuple[object, ...]:
    """The problems, or the plans; at least one of either."""
    try:
        found: tuple[object, ...] = parse_catalogue(document).plans
    except Misconfigured as error:
        found = error.problems
    return found or (None,)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.dates(),
    st.sampled_from(["5.00", "1e9999999999999999999", "sNaN", "unlimited", "any_node", "whitelist", "USD"]),
)  # fmt: skip
NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["price", "currency", "period_days", "messages", "scope", "features"]),
)
GARBAGE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=6)),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["plans", "x"]), st.dictionaries(NAMES, st.dictionaries(NAMES, GARBAGE)) | GARBAGE
    )
)
def test_garbage_is_misconfigured_and_nothing_else(document: dict[str, Any]) -> None:
    assert all(told_or_read(document))


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(["price", "currency", "period_days", "messages", "scope"], SCALARS)
        | {"features": GARBAGE},
    )
)  # fmt: skip
def test_a_plan_with_garbage_in_its_fields_is_misconfigured_and_nothing_else(table: dict[str, Any]) -> None:
    told = told_or_read({"plans": {"x": GOOD | table}})
    assert all(told)
    assert all(each.startswith("plans.x.") for each in told if isinstance(each, str))

"""What renewing from credit does, and as of when (R15): without a gap, and our outage costs no time."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.auto_renewal import (
    SEAMLESS,
    Obstacle,
    obstacle,
    renewal_quote,
    renewal_time,
)
from kosmo_billing_daemon.domain.history import purchase
from kosmo_billing_daemon.domain.plans import Catalogue
from kosmo_billing_daemon.domain.subscriptions import Source, current
from tests.domain.builders import DAY, START, USER, WANDERER, buy, plan, sid, use

LATE = st.one_of(st.timedeltas(timedelta(0), SEAMLESS), st.timedeltas(timedelta(0), 40 * DAY))


@given(
    late=LATE,
    used=st.integers(0, 60),
    cents=st.integers(1, 2000),
    credit=st.integers(-500, 2500),
    quota=st.integers(1, 500),
    days=st.integers(1, 366),
)
def test_a_renewal_is_what_its_quote_says_and_costs_the_user_no_time(
    *, late: timedelta, used: int, cents: int, credit: int, quota: int, days: int
) -> None:
    (row,) = use(buy((), 1, WANDERER, START).history, 1, used)
    now = row.valid_until + late
    sold = plan("wanderer", f"{cents / 100:.2f}", quota, days=days)
    quoted = renewal_quote(row, Catalogue((sold,)), {"USD": Decimal(credit) / 100}, now)
    assert obstacle(row, quoted) is (None if credit >= cents else Obstacle.CREDIT_TOO_LOW)
    outcome = purchase(
        (row,),
        subscription_id=sid(2),
        user_id=USER,
        invoice_id=None,
        source=Source.CREDIT,
        plan=sold,
        now=renewal_time(row, now),
    )
    new = current(outcome.history)
    assert new is not None
    assert quoted is not None
    assert quoted.subscription is not None
    told = quoted.subscription
    assert (new.valid_until, new.messages_limit) == (told.valid_until, told.messages_limit)
    if late < SEAMLESS:
        assert new.valid_until == row.valid_until + sold.period
        assert new.messages_limit == quota + max(0, 50 - used)
    else:
        assert (new.valid_from, new.valid_until) == (now, now + sold.period)
        assert new.messages_limit == quota


def test_what_is_not_for_sale_or_in_another_currency_is_not_renewed() -> None:
    (row,) = buy((), 1, WANDERER, START).history
    assert obstacle(None, None) is Obstacle.NO_PLAN
    gone = renewal_quote(
        row, Catalogue((plan("guardian", "1.00", 5),)), {"USD": Decimal(50)}, row.valid_until
    )
    assert obstacle(row, gone) is Obstacle.NOT_FOR_SALE
    euro = Catalogue((plan("wanderer", "1.00", 5, currency="EUR"),))
    foreign = renewal_quote(row, euro, {"USD": Decimal(50)}, row.valid_until)
    assert obstacle(row, foreign) is Obstacle.CREDIT_TOO_LOW

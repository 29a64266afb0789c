"""How amounts, times and durations are written for people."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kosmo_billing_daemon.console.rendering import NOTHING, about, count, counted, money, sentence, span, when


def test_amounts_have_the_digits_of_their_currency_and_lose_none() -> None:
    assert money(Decimal(12), "USD") == "12.00 USD"
    assert money(Decimal("-1234567.5"), "EUR") == "-1,234,567.50 EUR"
    assert money(Decimal("0.00001"), "BTC") == "0.00001000 BTC"
    assert money(Decimal("1.005"), "USD") == "1.005 USD"
    assert money(Decimal("1E+3"), "JPY") == "1,000 JPY"
    assert money(None, "USD") == NOTHING


def test_amounts_in_headings_are_rounded_to_what_can_be_paid_and_never_to_nothing() -> None:
    assert about(Decimal("4.999842102137"), "USD") == "5.00 USD"
    assert about(Decimal("0.000157897863"), "USD") == about(Decimal("-0.004"), "USD") == "under 0.01 USD"
    assert about(Decimal(0), "USD") == "0.00 USD"
    assert about(Decimal("1200.5"), "JPY") == "1,200 JPY"
    assert about(None, "USD") == NOTHING


def test_errors_are_whole_sentences_and_one_is_no_plural() -> None:
    assert sentence("no such user") == sentence("No such user.") == "No such user."
    assert (counted(1, "user"), counted(1200, "user")) == ("1 user", "1,200 users")
    assert counted(1, "message", " or more") == "1 or more messages"


def test_durations_have_two_neighbouring_units() -> None:
    written = {
        timedelta(hours=5, seconds=7): "5 h",
        timedelta(days=2, hours=3, minutes=4): "2 d 3 h",
        timedelta(seconds=61): "1 min 1 s",
        timedelta(): "0 s",
        timedelta(minutes=-5): "-5 min",
    }
    assert {length: span(length) for length in written} == written
    assert span(None) == NOTHING


def test_times_are_in_utc_and_numbers_in_groups() -> None:
    moment = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
    assert when(moment) == "2026-03-01 23:59"
    assert when(None) == NOTHING
    assert (count(1234567), count(None)) == ("1,234,567", "unlimited")

"""Whatever address comes in, it is taken or refused, never a bug; webhooks: `tests/fuzz`."""

import json
from urllib.parse import urlsplit

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.web.redirects import checked
from kosmo_billing_daemon.web.rendering import encode

HOST = "kosmo.example"


@given(
    st.text()
    | st.text().map(lambda rest: f"https://{HOST}{rest}")
    | st.text().map(lambda rest: f"https://{rest}")
)
@example("https://kosmo.example:\u0661/")
@settings(max_examples=500, deadline=None, database=None)
def test_any_address_is_on_the_listed_host_or_refused(url: str) -> None:
    try:
        taken = checked(url, frozenset({HOST}))
    except Invalid:
        return
    assert taken == url
    assert urlsplit(url).hostname == HOST
    assert url.isascii()


@given(
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))
)
@settings(deadline=None, database=None)
def test_answers_read_back_as_they_were(document: dict[str, object]) -> None:
    assert json.loads(encode(document)) == document

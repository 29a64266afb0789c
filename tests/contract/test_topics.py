"""Topics are parsed only in the form in which they are built."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.contract.topics import DEFAULT_PREFIX, SHARDS, Topics

TOPICS = Topics()
USER = UUID("ab111111-1111-1111-1111-111111111111")
PREFIXES = st.lists(st.text("abcxyz09-_", min_size=1, max_size=6), min_size=1, max_size=4).map("/".join)
REPORTERS = st.text(
    st.characters(exclude_characters="/+#\x00", exclude_categories=["Cs"]), min_size=1, max_size=40
)


def test_topics_are_those_of_the_contract() -> None:
    assert TOPICS.entitlement(USER) == f"kosmo/billing/v1/entitlements/ab/{USER}"
    assert TOPICS.event("quota.warning") == "kosmo/billing/v1/events/quota.warning"
    assert TOPICS.usage("gw-1") == "kosmo/billing/v1/usage/gw-1"
    assert TOPICS.usage_ack("gw-1") == "kosmo/billing/v1/usage-acks/gw-1"
    assert (TOPICS.status, TOPICS.watermark) == ("kosmo/billing/v1/status", "kosmo/billing/v1/watermark")
    assert TOPICS.shard_filter("ab") == "kosmo/billing/v1/entitlements/ab/+"


def test_shards_are_all_the_first_two_hex_digits() -> None:
    assert (len(SHARDS), SHARDS[0], SHARDS[171], SHARDS[-1]) == (256, "00", "ab", "ff")


@given(PREFIXES, st.uuids(), REPORTERS)
def test_parsing_is_the_inverse_of_building(prefix: str, user_id: UUID, reporter: str) -> None:
    topics = Topics(prefix)
    assert topics.entitlement_user(topics.entitlement(user_id)) == user_id
    assert topics.entitlement(user_id).split("/")[-2] in SHARDS
    assert topics.usage_reporter(topics.usage(reporter)) == reporter
    assert topics.usage_reporter(topics.usage_ack(reporter)) is None
    assert topics.time_requester(topics.time_request(reporter)) == reporter
    assert topics.time_requester(topics.time_answer(reporter)) is None
    assert topics.usage_reporter(topics.time_request(reporter)) is None
    assert topics.leasing_reporter(topics.lease(reporter)) == reporter
    assert topics.leasing_reporter(topics.lease_grant(reporter)) is None
    assert topics.usage_reporter(topics.entitlement(user_id)) is None
    assert topics.entitlement_user(topics.usage(reporter)) is None


@pytest.mark.parametrize(
    "topic",
    [
        "",
        DEFAULT_PREFIX,
        f"{DEFAULT_PREFIX}/entitlements",
        f"{DEFAULT_PREFIX}/entitlements/",
        f"{DEFAULT_PREFIX}/entitlements/ab",
        f"{DEFAULT_PREFIX}/entitlements/ab/",
        f"{DEFAULT_PREFIX}/entitlements/aa/{USER}",
        f"{DEFAULT_PREFIX}/entitlements/AB/{USER}",
        f"{DEFAULT_PREFIX}/entitlements/ab/{str(USER).upper()}",
        f"{DEFAULT_PREFIX}/entitlements/ab/{USER.hex}",
        f"{DEFAULT_PREFIX}/entitlements/ab/{{{USER}}}",
        f"{DEFAULT_PREFIX}/entitlements/ab/urn:uuid:{USER}",
        f"{DEFAULT_PREFIX}/entitlements/ab/{USER}/",
        f"{DEFAULT_PREFIX}/entitlements/ab/{USER}/x",
        f"{DEFAULT_PREFIX}/entitlements/ab/{USER}\x00",
        f"{DEFAULT_PREFIX}/entitlements//{USER}",
        f"{DEFAULT_PREFIX}/entitlements/ab/+",
        f"x/{DEFAULT_PREFIX}/entitlements/ab/{USER}",
        f"/{DEFAULT_PREFIX}/entitlements/ab/{USER}",
    ],
)
def test_a_topic_that_is_not_exactly_an_entitlement_has_no_user(topic: str) -> None:
    assert TOPICS.entitlement_user(topic) is None


@pytest.mark.parametrize("level", ["", "/", "a/b", "a/", "/a", "+", "#", "a+", "a#b", "a\x00b"])
def test_a_topic_that_is_not_exactly_a_usage_report_has_no_reporter(level: str) -> None:
    assert TOPICS.usage_reporter(f"{DEFAULT_PREFIX}/usage/{level}") is None


@given(
    st.text(max_size=60),
    st.sampled_from(
        ["", DEFAULT_PREFIX + "/", f"{DEFAULT_PREFIX}/entitlements/", f"{DEFAULT_PREFIX}/usage/"]
    ),
)
def test_a_hostile_topic_is_parsed_only_if_it_could_have_been_built(text: str, head: str) -> None:
    user_id = TOPICS.entitlement_user(head + text)
    assert user_id is None or TOPICS.entitlement(user_id) == head + text
    reporter = TOPICS.usage_reporter(head + text)
    assert reporter is None or TOPICS.usage(reporter) == head + text

"""Events as short texts: they fit, keep their address, and cannot break out of a JSON body."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.domain.hook_texts import parse_texts, shortened
from kosmo_billing_daemon.errors import Invalid

EXAMPLES = Path(__file__).parents[2] / "config" / "examples" / "hooks"
LINK = "https://billing.kosmoconnect.example/r/" + "x" * 22
FACTS: dict[str, Any] = {
    "plan_type": "wanderer",
    "hours_left": 72,
    "renew_url": LINK,
    "user_id": "7b1d6f3e-3f0c-4f55-9d7e-0a4c1f6a2b90",
}


def test_the_mesh_text_says_what_ends_when_and_where_to_renew() -> None:
    body = parse_texts((EXAMPLES / "mesh.toml").read_text()).render("subscription.expiring", FACTS)
    assert body is not None
    written = json.loads(body)
    assert written["text"] == f"Your Wanderer plan ends in 3 days. Renew: {LINK}"
    assert len(written["text"].encode()) <= 200
    assert written["user"] == FACTS["user_id"]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_example_renders_each_of_its_texts(file: Path) -> None:
    texts = parse_texts(file.read_text())
    assert texts.texts
    for event_type in texts.texts:
        body = texts.render(event_type, FACTS | {"text": "x"})
        assert body
        if "json" in texts.content_type:
            json.loads(body)
    assert texts.render("invoice.created", FACTS) is None


@given(st.text(min_size=1), st.integers(20, 300), st.sampled_from(["", f" {LINK}"]))
def test_a_text_fits_and_its_address_stays_whole(text: str, most: int, link: str) -> None:
    written = shortened(text + link, most)
    assert len(written.encode()) <= most
    if link and len(link.encode()) + 3 <= most:
        assert written.endswith(LINK)


@given(st.text())
def test_no_value_breaks_out_of_a_json_body(value: str) -> None:
    body = """'{"message": {text}, "user": {user_id}}'"""
    texts = parse_texts(
        f'body = {body}\ncontent_type = "application/json"\n[texts]\n"quota.warning" = "Used by {{user_id}}"'
    )
    rendered = texts.render("quota.warning", {"user_id": value})
    assert rendered is not None
    assert json.loads(rendered)["user"] == value


@pytest.mark.parametrize(
    "document",
    [
        "",
        "texts = 3",
        "[texts]\n'quota.warning' = 3",
        "body = 'none'\n[texts]\n'quota.warning' = 'x'",
        "most_bytes = true\n[texts]\n'quota.warning' = 'x'",
        "colour = 1\n[texts]\n'quota.warning' = 'x'",
        "[headers]\n'Webhook-Id' = '1'\n[texts]\n'quota.warning' = 'x'",
        "[headers]\n'A' = \"x\\ny\"\n[texts]\n'quota.warning' = 'x'",
        "[headers]\n'Content-Length' = '1'\n[texts]\n'quota.warning' = 'x'",
        "content_type = \"a\\nb\"\n[texts]\n'quota.warning' = 'x'",
        "][",
    ],
)
def test_what_cannot_be_sent_is_refused_when_it_is_added(document: str) -> None:
    with pytest.raises(Invalid):
        parse_texts(document)


def test_examples_are_toml() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.toml") if tomllib.loads(file.read_text())} >= {
        "ntfy",
        "gotify",
        "mesh",
    }

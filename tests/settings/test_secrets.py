import traceback

from hypothesis import given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import load
from kosmo_billing_daemon.settings.tree import KNOWN, SECRETS
from tests.settings.setting import COMPLETE, loaded, problem

_MARK = "Zq7"  # no sentence contains it by chance
_SECRET = st.text("abc 12:/@#?%,'\"[]\\\t\n\x7fé€", max_size=20).map(lambda text: _MARK + text + _MARK)


def _told(environ: dict[str, str]) -> str:
    """All that can be read of what loading gives: sentences, traceback, or the settings themselves."""
    try:
        return repr(load(environ))
    except Misconfigured as error:
        return "\n".join([*error.problems, *traceback.format_exception(error)])


@settings(max_examples=40, deadline=None)  # reading the system's authorities for mqtts:// takes its time
@given(secret=_SECRET, name=st.sampled_from(sorted(SECRETS)))
def test_no_secret_is_ever_told(secret: str, name: str) -> None:
    assert _MARK not in _told(COMPLETE | {name: secret, "PORT": "abc"})
    assert _MARK not in _told(COMPLETE | {name: secret})


@settings(max_examples=40, deadline=None)
@given(secret=_SECRET, scheme=st.sampled_from(["postgresql", "mysql", "mqtt", "mqtts", "https", ""]))
def test_no_password_within_a_url_is_ever_told(secret: str, scheme: str) -> None:
    url = f"{scheme}://user:{secret}@host:{secret}/db"
    urls = {name: url for name in KNOWN if name.endswith("_URL")}
    assert _MARK not in _told(COMPLETE | urls)
    assert _MARK not in _told(COMPLETE | {"DATABASE_URL": f"{scheme}://user:{secret}@host/db"})
    assert _MARK not in _told(COMPLETE | {"MQTT_URL": f"{scheme}://user:{secret}@host"})


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(KNOWN), secret=st.text("abcdef0123456789,; ", min_size=0, max_size=12))
def test_a_secret_pasted_into_another_variable_too_is_not_told(name: str, secret: str) -> None:
    secret = _MARK + secret + _MARK
    environ = COMPLETE | {
        "BTCPAY_API_KEY": secret,
        "MQTT_PASSWORD": secret,
        "MQTT_USERNAME": "u",
        "PORT": "x",
    }
    told = _told(environ | ({name: secret} if name in SECRETS else {name: f"/{secret}"}))
    assert _MARK not in told


def test_a_value_as_long_as_a_key_is_not_quoted() -> None:
    assert problem(PORT="4c1f8d2e9b7a4c1f8d2e9b7a4c1f").startswith("PORT: the value is not a whole number")


def test_settings_with_every_secret_set_print_none() -> None:
    tree = loaded(
        BTCPAY_API_KEY="hidden",
        WEBHOOK_SECRET="hidden,hidden2",
        DATABASE_URL="postgresql://u:hidden@h/db",
        MQTT_URL="mqtt://u:hidden@h",
    )
    assert "hidden" not in repr(tree)
    assert "hidden" not in str(tree)

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.btcpay.signature import sign, verify

# Time is no fact about our code: a loaded machine draws slowly.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BODY = b'{"a":1,"b":2,"c":3}'
DIGEST = "bc8122472fb9bb9c15d90d7a61b156f54a69d835592c85d0f37f6454d530dec8"


def test_btcpays_own_vector_is_reproduced() -> None:
    assert sign(BODY, b"abc") == f"sha256={DIGEST}"
    assert verify(BODY, f"sha256={DIGEST}", [b"abc"])


def test_upper_case_digits_are_accepted() -> None:
    assert verify(BODY, f"sha256={DIGEST.upper()}", [b"abc"])


def test_old_and_new_secret_are_accepted_beside_each_other() -> None:
    for secret in (b"new", b"old"):
        assert verify(BODY, sign(BODY, secret), [b"new", b"old"])
    assert not verify(BODY, sign(BODY, b"older"), [b"new", b"old"])


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha256=",
        DIGEST,
        f"SHA256={DIGEST}",
        f"sha1={DIGEST}",
        f"sha256={DIGEST[:-1]}",
        f"sha256={DIGEST}0",
        f"sha256={DIGEST}\n",
        f" sha256={DIGEST}",
        f"sha256={DIGEST},sha256={DIGEST}",
        f"sha256={DIGEST[:-1]}é",
        f"sha256={DIGEST[:-1]}\uff18",
        f"sha256={DIGEST[:-1]}\ud800",
    ],
)
def test_any_other_form_is_refused(header: str | None) -> None:
    assert not verify(BODY, header, [b"abc"])


def test_an_empty_secret_signs_nothing() -> None:
    assert not verify(BODY, sign(BODY, b""), [b""])
    assert not verify(BODY, sign(BODY, b"abc"), [])


@unhurried
@given(st.binary(), st.binary(min_size=1), st.binary(min_size=1), st.text())
def test_only_the_exact_bytes_and_secret_verify(
    body: bytes, secret: bytes, other: bytes, header: str
) -> None:
    signed = sign(body, secret)
    assert verify(body, signed, [b"another", secret])
    assert not verify(body + b" ", signed, [secret])
    assert verify(body, sign(body, other), [secret]) == (
        # HMAC pads short keys with zeros, so such keys are one.
        other.ljust(64, b"\0") == secret.ljust(64, b"\0")
    )
    assert not verify(body, header, [secret])

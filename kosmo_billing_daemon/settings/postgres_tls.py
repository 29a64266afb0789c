"""TLS with PostgreSQL as libpq means it: six modes, and files in ``~/.postgresql`` where none are named.

A file there that this account may not read counts as none: HOME may be another user's.
"""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

Wrong = Callable[[str, str], None]
"""Takes the name of a parameter and what is wrong with its value."""


class BadTlsFile(OSError):
    """A file that TLS needs cannot be used."""


def _raise(name: str, why: str) -> None:
    raise BadTlsFile(f"{name}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTls:
    """``system_roots`` stands for the authorities of this host instead of ``root``."""

    mode: str
    root: Path | None
    system_roots: bool
    revoked: Path | None
    cert: Path | None
    key: Path | None
    key_password: str = field(repr=False)
    oldest: str | None
    newest: str | None

    def attempts(self) -> tuple[ssl.SSLContext | None, ...]:
        """Return how to connect by TCP, in order, None without TLS; raises ``BadTlsFile``."""
        if self.mode == "disable":
            return (None,)
        context = self.context(_raise)
        return {"allow": (None, context), "prefer": (context, None)}.get(self.mode, (context,))

    def context(self, wrong: Wrong) -> ssl.SSLContext:
        """Read the files, telling ``wrong`` of each that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._set_versions(context, wrong)
        if self.mode in MODES[3:]:
            self._load_roots(context, wrong)
        elif self.root is not None or self.revoked is not None:
            name = "sslcrl" if self.root is None else "sslrootcert"
            wrong(name, f"sslmode={self.mode} verifies nothing; write sslmode=verify-full")
        self._load_certificate(context, wrong)
        context.set_alpn_protocols(["postgresql"])  # which direct TLS needs
        return context

    def _set_versions(self, context: ssl.SSLContext, wrong: Wrong) -> None:
        oldest, newest = self.oldest or "TLSv1.2", self.newest or "TLSv1.3"
        if oldest > newest:
            wrong("ssl_max_protocol_version", f"it is older than the oldest allowed, {oldest}")
        context.minimum_version = ssl.TLSVersion[oldest.replace(".", "_")]
        if self.newest is not None:
            context.maximum_version = ssl.TLSVersion[newest.replace(".", "_")]

    def _load_roots(self, context: ssl.SSLContext, wrong: Wrong) -> None:
        root = self.root or _of_home("root.crt")
        if self.system_roots:
            context.load_default_certs()
        elif root is not None:
            _load("sslrootcert", root, lambda: context.load_verify_locations(cafile=root), wrong)
        elif self.mode == "require":  # encrypted, but the server is not verified
            if self.revoked is not None:
                wrong("sslcrl", "no certificate is verified; give sslrootcert too")
            return
        else:
            wrong("sslrootcert", f"sslmode={self.mode} needs the certificate of the authority; give its file")
            return
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = self.mode == "verify-full"
        revoked = self.revoked or _of_home("root.crl")
        if revoked is not None:
            _load("sslcrl", revoked, lambda: context.load_verify_locations(cafile=revoked), wrong)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN

    def _load_certificate(self, context: ssl.SSLContext, wrong: Wrong) -> None:
        cert = self.cert or _of_home("postgresql.crt")
        if cert is None:
            if self.key is not None:
                wrong("sslkey", "a key without its certificate; give sslcert too")
            return
        key = self.key or _of_home("postgresql.key")
        if self.cert is None and key is None:
            return  # a certificate in the home of another user, who keeps the key
        for name, path in (("sslcert", cert), ("sslkey", key)):
            if path is not None and not _load(name, path, path.read_bytes, wrong):
                return
        # The password is always given, else OpenSSL would ask the terminal for it.
        _load("sslcert", cert, lambda: context.load_cert_chain(cert, key, self.key_password), wrong)


def _of_home(name: str) -> Path | None:
    """Return a file of ``~/.postgresql`` that is there and may be read."""
    try:
        path = Path.home() / ".postgresql" / name
    except (RuntimeError, KeyError):
        return None
    return path if os.access(path, os.R_OK) else None


def _load(name: str, path: Path, load: Callable[[], object], wrong: Wrong) -> bool:
    try:
        load()
    except ssl.SSLError:
        key = ", or its key does not fit or needs a passphrase (sslpassword)" if name == "sslcert" else ""
        wrong(name, f"{path} is no certificate in PEM format{key}")
    except (OSError, ValueError) as error:
        wrong(name, f"{path} cannot be read ({getattr(error, 'strerror', None) or 'no path of a file'})")
    else:
        return True
    return False

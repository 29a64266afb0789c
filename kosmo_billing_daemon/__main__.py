"""``python -m kosmo_billing_daemon`` is ``kosmo-billing``."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the modules load ends us without a traceback

from kosmo_billing_daemon.cli import main  # noqa: E402

if __name__ == "__main__":
    main()

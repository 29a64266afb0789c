"""``python -m kosmo_billing_daemon`` is ``kosmo-billing``."""

from kosmo_billing_daemon.cli import main

if __name__ == "__main__":
    main()

"""The distribution's Chromium, headless; no browser is downloaded, and it asks nobody by itself."""

PROGRAM = "/usr/bin/chromium"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # the suite may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

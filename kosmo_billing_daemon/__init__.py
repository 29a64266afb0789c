"""kosmo_billing_daemon sells KosmoConnect plans through BTCPay Server and tells gateways over MQTT what
each user may do right now.

Reading order: ``domain`` (the rules), ``contract`` (what crosses MQTT), ``store`` (the tables),
``services`` (a fact in, one transaction, messages out), ``web`` and ``mqtt`` (the two doors),
``daemon`` (how it is put together), ``gate`` (what gateways and bridges run).
"""

__version__ = "0.1.0"

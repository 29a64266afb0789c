"""Everything on one machine: embedded PostgreSQL and broker, a BTCPay simulator, and the daemon.

Reading order: children (processes that never outlive us), postgres, broker, btcpay (the simulator),
stage (all of it together).
"""

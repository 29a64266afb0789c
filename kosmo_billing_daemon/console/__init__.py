"""The operator's console: pages under ``/admin``, on a listener of its own.

The rule it keeps: a page reads and acts through the same functions of ``admin`` as the command line. There is
no second path, so whatever an operator does here is refused, written down and undone in the same way.
"""

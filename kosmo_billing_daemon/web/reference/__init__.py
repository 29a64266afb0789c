"""The API as a document. ``shapes`` says how routes are described; ``buying``, ``rights`` and ``beside`` do.

A test compares the descriptions with the routes there are, and with every answer given while the tests
run, so a status or a code that is missing here does not last.
"""

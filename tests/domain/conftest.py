"""Property tests here try a modest number of examples and print how to repeat a failure."""

from hypothesis import settings

settings.register_profile("domain", max_examples=80, deadline=None, print_blob=True, database=None)
settings.load_profile("domain")

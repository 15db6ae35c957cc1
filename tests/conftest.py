"""Settings shared by all tests."""

from hypothesis import settings

# A slow machine must not fail a test; a failure prints what reproduces it.
settings.register_profile("kvstore", deadline=None, print_blob=True)
settings.load_profile("kvstore")

"""Property tests here search the same examples on every run, and take the time they need on a busy machine."""

from hypothesis import settings

settings.register_profile("metrics", deadline=None, derandomize=True)
settings.load_profile("metrics")

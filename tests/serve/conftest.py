"""Property tests here search the same examples on every run, and take the time they need on a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "serve", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("serve")

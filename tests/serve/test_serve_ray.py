"""What `voxveil serve` takes away when it stops, on a Ray of its own and on one that it joined. Ray is played."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from pipelines.serve_ray import run_service


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What Ray and Serve are asked to end."""
    asked: list[str] = []
    monkeypatch.setattr("pipelines.serve_ray.prepare_environment", lambda *_: None)
    monkeypatch.setattr("pipelines.serve_ray.start_ray", lambda *_: None)
    monkeypatch.setattr("serve.app.build", lambda _: None)
    for name in ("ray.init", "ray.serve.start", "ray.serve.run"):
        monkeypatch.setattr(name, lambda *_, **__: None)
    monkeypatch.setattr("ray.serve.delete", lambda name: asked.append(f"delete {name}"))
    monkeypatch.setattr("ray.serve.shutdown", lambda: asked.append("end Serve"))
    monkeypatch.setattr("ray.shutdown", lambda: asked.append("leave Ray"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield asked
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("address", "at", "ended"),
    [
        ("head:6379", "ray.init", ["leave Ray"]),
        ("head:6379", "ray.serve.start", ["leave Ray"]),
        ("head:6379", "serve.app.build", ["leave Ray"]),
        ("head:6379", "ray.serve.run", ["delete voxveil", "leave Ray"]),
        ("head:6379", "pipelines.serve_ray.wait_for_routes", ["delete voxveil", "leave Ray"]),
        ("", "ray.serve.start", ["end Serve", "leave Ray"]),
        ("", "pipelines.serve_ray.wait_for_routes", ["delete voxveil", "end Serve", "leave Ray"]),
    ],
)
def test_what_was_deployed_here_is_taken_away_and_a_joined_cluster_keeps_the_rest(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, address: str, at: str, ended: list[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise SystemExit(130)

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(at, stopped)
    settings = {"replicas": {"minimum": 1}, "limits": {}}
    with pytest.raises(SystemExit):
        run_service(settings, "127.0.0.1", 8000, Console(quiet=True))
    assert asked == ended

"""How Ray is started on this machine, and what is said where it does not start."""

from typing import Any

import pytest
import ray

from pipelines.cluster import START_ATTEMPTS, ClusterUnreachable, start_ray

TIMED_OUT = "The current node timed out during startup."


def test_a_start_that_times_out_is_tried_again_and_then_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def never(**options: Any) -> None:
        tried.append(options["_node_ip_address"])
        raise Exception(TIMED_OUT)

    monkeypatch.setattr(ray, "init", never)
    with pytest.raises(ClusterUnreachable, match="Ray did not start on this machine") as told:
        start_ray(1, "nowhere", 1 << 20)
    assert tried == ["127.0.0.1"] * START_ATTEMPTS
    assert "\n" not in str(told.value)


def test_another_fault_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def broken(**_: Any) -> None:
        tried.append(1)
        raise ValueError("object_store_memory")

    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(ValueError, match="object_store_memory"):
        start_ray(1, "nowhere", 1)
    assert tried == [1]

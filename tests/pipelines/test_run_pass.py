"""What a Ray Data pass refuses before it starts anything."""

from typing import Any

import pytest

from operators.schema import InputError
from pipelines.cluster import run_pass


class Reached(Exception):
    """The pass was begun."""


class Dataset:
    def repartition(self, **options: Any) -> None:
        raise Reached


def begin(gpus: float) -> None:
    run_pass(Dataset(), 8, [], None, gpus, None, "audit")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_gpus_that_this_machine_does_not_have_are_refused_instead_of_waited_for() -> None:
    with pytest.raises(InputError, match="--gpus 1 asks for more than the 0 that are here"):
        begin(1.0)
    with pytest.raises(Reached):
        begin(0.0)


def test_a_cluster_is_asked_for_gpus_that_it_may_yet_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(Reached):
        begin(1.0)

"""The loop on Ray Train: two workers train as one would, and one that dies is missed by nobody."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import toy_training
from toy_training import ToyFeed, ToyTask, settings_of

from operators.schema import InputError
from pipelines.cluster import ray_session
from pipelines.training.loop import Place, read_curve, train
from pipelines.training.ray_train import train_on_ray

pytestmark = pytest.mark.slow


class Plain(ToyTask):
    """Without dropout and noise: what is learnt depends on the items of a step, not on which worker had them."""

    def losses(self, player: str, batch: dict[str, Tensor], generator: Any) -> dict[str, Tensor]:
        network = self.players[player].eval()
        return {"total": (network(batch["x"] if player == "line" else batch["y"]) - batch["y"]).square().mean()}


class Mortal(Plain):
    """Dies with its process in the middle of a training, once."""

    def __init__(self, grave: Path) -> None:
        super().__init__()
        self.grave, self.seen = grave, 0

    def losses(self, player: str, batch: dict[str, Tensor], generator: Any) -> dict[str, Tensor]:
        self.seen += 1
        if self.seen == 20 and not self.grave.exists():
            self.grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().losses(player, batch, generator)


def build(kind: str, grave: Path | None = None) -> tuple[ToyTask, ToyFeed]:
    if kind == "refused":
        raise InputError("the corpus has no neutral speech")
    if kind == "poisoned":
        return ToyTask(), ToyFeed(poisoned=7)
    return Mortal(grave) if grave else Plain(), ToyFeed()


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session():
        from ray import cloudpickle

        for module in (toy_training, sys.modules[__name__]):
            cloudpickle.register_pickle_by_value(module)
        yield


def totals(folder: Path) -> list[float]:
    return [line["line.total"] for line in read_curve(folder)]


def test_two_workers_learn_what_one_with_twice_the_batches_learns(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    ending = train_on_ray(build, {"kind": "plain"}, settings_of(workers=2), tmp_path / "two", told.extend)
    train(Plain(), ToyFeed(), settings_of(accumulation=2), tmp_path / "one", Place())
    assert ending.ended == "done"
    assert totals(tmp_path / "two") == pytest.approx(totals(tmp_path / "one"), rel=1e-4)  # sums in another order
    assert [line["step"] for line in told] == list(range(1, 21))


def test_a_worker_that_is_killed_is_replaced_and_the_curve_is_the_same(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    grave = tmp_path / "grave"
    ending = train_on_ray(build, {"kind": "plain", "grave": grave}, settings_of(), tmp_path / "cut", told.extend)
    assert grave.exists()
    assert ending.ended == "done"
    train(Plain(), ToyFeed(), settings_of(), tmp_path / "whole", Place())
    assert totals(tmp_path / "cut") == totals(tmp_path / "whole")
    assert [line["step"] for line in told] == list(range(1, 21))


def test_a_training_that_is_done_is_told_again_and_not_started(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    ending = train(Plain(), ToyFeed(), settings_of(), tmp_path, Place())
    assert train_on_ray(build, {"kind": "refused"}, settings_of(), tmp_path, told.extend) == ending
    assert [line["step"] for line in told] == list(range(1, 21))
    with pytest.raises(InputError, match="lower workers"):  # one step more would be a start
        train_on_ray(build, {"kind": "plain"}, settings_of(steps=21, workers=500), tmp_path, told.extend)


def test_a_poisoned_batch_is_named_whichever_worker_had_it(tmp_path: Path) -> None:
    ending = train_on_ray(build, {"kind": "poisoned"}, settings_of(workers=2), tmp_path, lambda lines: None)
    assert ending.ended == "not finite"
    assert "utterance-7" in ending.detail
    assert ending.detail.count("batch ") == 1


def test_what_cannot_be_trained_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no neutral speech"):
        train_on_ray(build, {"kind": "refused"}, settings_of(), tmp_path, lambda lines: None)
    with pytest.raises(InputError, match="lower workers"):
        train_on_ray(build, {"kind": "plain"}, settings_of(workers=500), tmp_path, lambda lines: None)
    with pytest.raises(InputError, match="GPUs"):
        train_on_ray(build, {"kind": "plain"}, settings_of(gpu=True, workers=90), tmp_path, lambda lines: None)

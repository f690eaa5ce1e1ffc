"""The training loop on a toy: what is learnt, what is logged, and that a cut changes nothing."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import ToyFeed, ToyTask, settings_of

from pipelines.training.checkpoints import Progress, TrainingBroken, load_best
from pipelines.training.loop import Place, read_curve, read_ending, train
from pipelines.training.settings import learning_rate

SCRIPT = Path(__file__).with_name("toy_training.py")
ROOT = Path(__file__).parents[3]


def curve_of(folder: Path) -> list[dict[str, float]]:
    """The curve without how long its steps took."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_curve(folder)]


def start(folder: Path, steps: int, *missing: int, readers: int = 0) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *map(str, (steps, *missing)), f"readers={readers}"], env=environment
    )


def test_a_training_learns_and_validates_on_what_it_was_not_trained_on(tmp_path: Path) -> None:
    settings = settings_of(steps=300, learning_rate=0.03, validate_every=20, checkpoint_every=100)
    ending = train(ToyTask(), ToyFeed(), settings, tmp_path, Place())
    curve = read_curve(tmp_path)
    assert ending.ended == "done"
    assert read_ending(tmp_path) == ending
    assert [line["step"] for line in curve] == list(range(1, 301))
    assert curve[-1]["line.error"] < 0.1 * curve[0]["line.error"]
    validated = [line["validation.total"] for line in curve if "validation.total" in line]
    assert len(validated) == 15
    assert ending.best == min(validated) < 0.2 * validated[0]


def test_killed_with_no_warning_and_resumed_it_gives_the_same_curve_and_weights_to_the_last_bit(tmp_path: Path) -> None:
    train(ToyTask(), ToyFeed(), settings_of(steps=40, accumulation=2), tmp_path / "whole", Place())
    running = start(tmp_path / "cut", 40, 2 * 25)  # it waits for a batch of step 26 until it is killed
    while len(read_curve(tmp_path / "cut")) < 18:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert read_ending(tmp_path / "cut") is None
    assert start(tmp_path / "cut", 40).wait() == 0
    assert curve_of(tmp_path / "cut") == curve_of(tmp_path / "whole")
    for name in ("weights", "optimizers", "average"):
        file = f"steps/00000040/{name}.safetensors"
        whole, cut = load_file(tmp_path / "whole" / file), load_file(tmp_path / "cut" / file)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_readers_in_processes_of_their_own_change_nothing(tmp_path: Path) -> None:
    train(ToyTask(), ToyFeed(), settings_of(steps=8), tmp_path / "thread", Place())
    train(ToyTask(), ToyFeed(), settings_of(steps=8, readers=2), tmp_path / "processes", Place())
    assert curve_of(tmp_path / "processes") == curve_of(tmp_path / "thread")


def test_readers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    running = start(tmp_path, 40, 8, readers=2)
    while len(read_curve(tmp_path)) < 4:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    readers = [child for child in psutil.Process(running.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(readers) == 2
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(readers, timeout=20)
    assert not alive


def test_the_last_weights_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    judged = iter([3.0, 1.0, 2.0, 2.5])
    task = ToyTask()
    task.validate = lambda batch: {"total": torch.tensor(next(judged))}  # type: ignore[method-assign]
    feed = ToyFeed()
    feed.validation = lambda: [feed.make([100])]  # type: ignore[method-assign]
    ending = train(task, feed, settings_of(steps=8, validate_every=2, keep="last"), tmp_path, Place())
    assert (ending.best, ending.best_step) == (2.5, 8)
    kept = ToyTask()
    load_best(tmp_path, {"line": kept.players["line"]})
    average = load_file(tmp_path / "steps/00000008/average.safetensors")
    assert torch.equal(kept.players["line"][0].weight, average["line.0.weight"])


def test_a_line_that_was_cut_in_the_middle_is_written_again(tmp_path: Path) -> None:
    train(ToyTask(), ToyFeed(), settings_of(steps=8), tmp_path / "whole", Place())
    train(ToyTask(), ToyFeed(), settings_of(steps=8), tmp_path / "cut", Place())
    (tmp_path / "cut" / "steps" / "00000008").rename(tmp_path / "lost")
    curve = tmp_path / "cut" / "curve.jsonl"
    curve.write_text(curve.read_text()[:-30])
    train(ToyTask(), ToyFeed(), settings_of(steps=8), tmp_path / "cut", Place())
    assert curve_of(tmp_path / "cut") == curve_of(tmp_path / "whole")


def test_a_loss_that_is_not_a_number_stops_names_its_batch_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    seen = {item for number in range(5) for item in ToyFeed().items(number)}
    feed = ToyFeed(poisoned=next(item for item in range(23) if item not in seen))
    ending = train(ToyTask(), feed, settings_of(), tmp_path, Place())
    assert ending.ended == "not finite"
    assert f"utterance-{feed.poisoned}" in ending.detail
    assert "line" in ending.detail
    assert "total is nan" in ending.detail
    assert f"step {ending.step + 1}" in ending.detail
    newest = sorted((tmp_path / "steps").iterdir())[-1]
    assert int(newest.name) == ending.step // 4 * 4 > 0
    assert all(torch.isfinite(value).all() for value in load_file(newest / "weights.safetensors").values())


def test_it_stops_when_validation_gets_no_better_and_exports_the_best(tmp_path: Path) -> None:
    settings = settings_of(steps=1000, learning_rate=0.5, patience=3, validate_every=2, average=0.0)
    ending = train(ToyTask(), ToyFeed(), settings, tmp_path, Place())
    figures = [line["validation.total"] for line in read_curve(tmp_path) if "validation.total" in line]
    assert ending.ended == "stopped early"
    assert ending.step < 1000
    assert len(figures) - 1 - figures.index(min(figures)) == 3
    task = ToyTask()
    assert load_best(tmp_path, {"line": task.players["line"]}).step == ending.best_step
    task.players["line"].eval()
    feed = ToyFeed()
    error = sum(task.validate(batch)["total"].item() * len(batch["x"]) for batch in feed.validation()) / 4
    assert error == pytest.approx(min(figures), rel=1e-5)  # two batches, weighed by their items


def test_accumulated_gradients_are_those_of_the_batches_together(tmp_path: Path) -> None:
    class Plain(ToyTask):
        """Without dropout, noise and critic: nothing depends on how items are batched."""

        def losses(self, player: str, batch: dict, generator: torch.Generator) -> dict:
            network = self.players[player]
            x = batch["x"] if player == "line" else batch["y"]
            return {"total": (network.eval()(x) - batch["y"]).square().mean()}

    class Double(ToyFeed):
        def items(self, number: int) -> list[int]:
            return super().items(2 * number) + super().items(2 * number + 1)

    train(Plain(), ToyFeed(), settings_of(accumulation=2), tmp_path / "accumulated", Place())
    train(Plain(), Double(), settings_of(), tmp_path / "together", Place())
    for one, other in zip(curve_of(tmp_path / "accumulated"), curve_of(tmp_path / "together"), strict=True):
        assert one["line.total"] == pytest.approx(other["line.total"], rel=1e-4)  # sums in another order


def test_bfloat16_computes_in_bfloat16_and_still_learns(tmp_path: Path) -> None:
    seen = set()

    class Watched(ToyTask):
        def losses(self, player: str, batch: dict, generator: torch.Generator) -> dict:
            seen.add(self.players["line"](batch["x"]).dtype)
            return super().losses(player, batch, generator)

    train(
        Watched(),
        ToyFeed(),
        settings_of(steps=200, precision="bfloat16", learning_rate=0.03, validate_every=100, checkpoint_every=100),
        tmp_path,
        Place(),
    )
    curve = read_curve(tmp_path)
    assert seen == {torch.bfloat16}
    assert curve[-1]["line.error"] < 0.2 * curve[0]["line.error"]
    assert load_file(tmp_path / "steps/00000200/weights.safetensors")["line.0.weight"].dtype == torch.float32


def test_a_player_learns_nothing_while_it_is_not_its_turn(tmp_path: Path) -> None:
    class Idle(ToyTask):
        def losses(self, player: str, batch: dict, generator: torch.Generator) -> dict:
            losses = super().losses(player, batch, generator)
            return losses if player == "line" else {"total": 0.0 * losses["total"]}

    task = Idle()
    before = {key: value.clone() for key, value in task.players["critic"].state_dict().items()}
    train(task, ToyFeed(), settings_of(weight_decay=0.0), tmp_path, Place())
    assert all(torch.equal(before[key], value) for key, value in task.players["critic"].state_dict().items())


def test_the_rate_warms_up_to_its_peak_and_falls_to_a_tenth() -> None:
    settings = settings_of(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_a_checkpoint_is_no_pickle_and_one_of_other_networks_is_refused(tmp_path: Path) -> None:
    train(ToyTask(), ToyFeed(), settings_of(steps=4), tmp_path, Place())
    files = [path for path in (tmp_path / "steps" / "00000004").iterdir() if path.suffix == ".safetensors"]
    assert len(files) == 3
    for file in files:
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(file.read_bytes())
    other = ToyTask()
    other.players["line"] = torch.nn.Linear(6, 1)
    with pytest.raises(TrainingBroken, match=r"00000004 cannot be resumed from"):
        train(other, ToyFeed(), settings_of(steps=8), tmp_path, Place())
    state = tmp_path / "steps" / "00000004" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": "another"}))
    with pytest.raises(TrainingBroken, match="format"):
        train(ToyTask(), ToyFeed(), settings_of(steps=8), tmp_path, Place())


def test_a_validation_that_is_not_a_number_is_never_the_best() -> None:
    progress = Progress(step=5).validated(math.nan)
    assert (progress.best, progress.since_best) == (None, 1)
    progress = replace(progress.validated(2.0), step=10).validated(math.nan).validated(3.0)
    assert (progress.best, progress.best_step, progress.since_best) == (2.0, 5, 2)


def test_the_curve_is_of_plain_numbers(tmp_path: Path) -> None:
    train(ToyTask(), ToyFeed(), settings_of(steps=5), tmp_path, Place())
    last = read_curve(tmp_path)[-1]
    assert {"line.total", "line.error", "line.gradient", "critic.total", "learning_rate", "validation.total"} <= set(
        last
    )
    assert all(math.isfinite(value) for value in last.values())

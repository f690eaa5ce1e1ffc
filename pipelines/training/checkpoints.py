"""Checkpoints of a training: folders of safetensors that appear whole or not at all, and never a pickle.

<folder>/steps/00000400/   weights, optimizers and averages after step 400, and state.json; the newest two are kept
<folder>/best/00000300/    the average of the weights at the best validation
"""

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT = "voxveil-training-1"
KEPT = 2
WEIGHTS, OPTIMIZERS, AVERAGE = "weights.safetensors", "optimizers.safetensors", "average.safetensors"
STATE = "state.json"
UNREADABLE = (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError, RuntimeError)
Tensors = dict[str, Tensor]


class TrainingBroken(ValueError):
    """A training that cannot go on from what lies in its folder; the message is one line."""


@dataclass(frozen=True)
class Progress:
    """How far a training is: steps done, the best validation so far and its step, validations since."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0

    def validated(self, figure: float, last: bool = False) -> "Progress":
        """Return the progress after a validation; less is better, and what is not a number never is.

        With `last` a later validation is better than any before.
        """
        if math.isfinite(figure) and (last or self.best is None or figure < self.best):
            return replace(self, best=figure, best_step=self.step, since_best=0)
        return replace(self, since_best=self.since_best + 1)


class Average:
    """An exponential moving average of networks' weights; in the first steps it forgets faster.

    Only what is trained is averaged: buffers are those of the network.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.networks, self.decay = networks, decay
        self.shadow = {key: value.detach().clone() for key, value in self._live().items()}

    def _live(self) -> Tensors:
        return {
            f"{player}.{key}": value
            for player, network in self.networks.items()
            for key, value in network.named_parameters()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in self._live().items():
            self.shadow[key].lerp_(value.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the networks with their average; twice is as before."""
        for key, value in self._live().items():
            kept = value.detach().clone()
            value.copy_(self.shadow[key])
            self.shadow[key].copy_(kept)


def save_step(
    folder: Path,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    average: Average,
    progress: Progress,
) -> None:
    """Write the checkpoint of a step, and let all but the newest go."""
    steps = folder / "steps"
    steps.mkdir(parents=True, exist_ok=True)
    partial = steps / f".{uuid.uuid4().hex}"
    partial.mkdir()
    save_file(_state(networks), partial / WEIGHTS)
    save_file(_moments(optimizers), partial / OPTIMIZERS)
    save_file(_plain(average.shadow), partial / AVERAGE)
    _write_state(partial, progress)
    _appear(partial, steps / f"{progress.step:08d}")
    for old in _numbered(folder / "steps")[:-KEPT]:
        shutil.rmtree(old)


def load_newest(
    folder: Path,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    average: Average,
) -> Progress:
    """Put the newest checkpoint into networks, optimizers and average; return its progress, step 0 where there is none.

    Raises TrainingBroken where it cannot be read or is of other networks.
    """
    found = _numbered(folder / "steps")
    if not found:
        return Progress()
    newest = found[-1]
    try:
        document = json.loads((newest / STATE).read_text())
        if document.pop("format") != FORMAT:
            raise TrainingBroken(f"{newest} is of another format than {FORMAT}")
        weights, moments, shadow = (load_file(newest / name) for name in (WEIGHTS, OPTIMIZERS, AVERAGE))
        for player, network in networks.items():
            network.load_state_dict(_of(weights, player))
        for player, optimizer in optimizers.items():
            _load_moments(optimizer, _of(moments, player))
        if shadow.keys() != average.shadow.keys():
            raise TrainingBroken(f"{newest} averages other weights than are trained now")
        for key, value in shadow.items():
            average.shadow[key].copy_(value)
        return Progress(**document)
    except UNREADABLE as fault:
        raise TrainingBroken(f"the checkpoint {newest} cannot be resumed from: {_first_line(fault)}") from None


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    found = _numbered(folder / "steps")
    return int(found[-1].name) if found else 0


def save_best(folder: Path, networks: Mapping[str, nn.Module], progress: Progress) -> None:
    """Write the weights of these networks as the best so far; a former best goes once they are there."""
    bests = folder / "best"
    partial = bests / f".{uuid.uuid4().hex}"
    partial.mkdir(parents=True)
    save_file(_state(networks), partial / WEIGHTS)
    _write_state(partial, progress)
    _appear(partial, bests / f"{progress.step:08d}")
    for old in _numbered(bests)[:-1]:
        shutil.rmtree(old)


def load_best(folder: Path, networks: Mapping[str, nn.Module]) -> Progress:
    """Put the best weights into these networks. Raises TrainingBroken where there are none, or of other networks."""
    found = _numbered(folder / "best")
    if not found:
        raise TrainingBroken(f"{folder} holds no validated weights yet: run the training further")
    try:
        weights = load_file(found[-1] / WEIGHTS)
        document = json.loads((found[-1] / STATE).read_text())
        for player, network in networks.items():
            network.load_state_dict(_of(weights, player))
        document.pop("format")
        return Progress(**document)
    except UNREADABLE as fault:
        raise TrainingBroken(f"the weights in {found[-1]} cannot be used: {_first_line(fault)}") from None


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def _state(networks: Mapping[str, nn.Module]) -> Tensors:
    return _plain(
        {
            f"{player}.{key}": value
            for player, network in networks.items()
            for key, value in network.state_dict().items()
        }
    )


def _plain(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors that share no memory, as safetensors wants them."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}


def _moments(optimizers: Mapping[str, torch.optim.Optimizer]) -> Tensors:
    return _plain(
        {
            f"{player}.{number}.{name}": value
            for player, optimizer in optimizers.items()
            for number, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
    )


def _load_moments(optimizer: torch.optim.Optimizer, moments: Tensors) -> None:
    state: dict[int, Tensors] = {}
    for key, value in moments.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _of(tensors: Mapping[str, Tensor], player: str) -> Tensors:
    return {key.removeprefix(f"{player}."): value for key, value in tensors.items() if key.startswith(f"{player}.")}


def _write_state(folder: Path, progress: Progress) -> None:
    (folder / STATE).write_text(json.dumps({"format": FORMAT, **asdict(progress)}) + "\n")


def _appear(partial: Path, final: Path) -> None:
    """Give a folder its name once its bytes are on the disk; an older one of that name goes."""
    for file in partial.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)

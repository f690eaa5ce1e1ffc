"""The training loop: any task, one process or several, and the same curve whether it was cut or not.

Nothing is drawn from a global generator: every batch and every random number follows from the seed, the step, the
worker and the player, so a checkpoint is the weights, their optimizers and averages and the number of the step. What
is logged is a line of JSON a step in `curve.jsonl`; who reads it (a terminal, MLflow) is not known here.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from models.streamvoiceanon.training.task import Task
from pipelines.training.checkpoints import Average, load_newest, save_best, save_step
from pipelines.training.feed import Ahead, Batch, Feed
from pipelines.training.settings import Settings, learning_rate

CURVE, ENDING = "curve.jsonl", "ending.json"
CPU = torch.device("cpu")
Ended = Literal["done", "stopped early", "not finite", "refused"]


@dataclass(frozen=True)
class Ending:
    """How a training ended. `detail` says where a loss was not finite (step, player, batch), or why it was refused."""

    ended: Ended
    step: int
    best: float | None
    best_step: int
    detail: str = ""


class Player(nn.Module):
    """One player of a task as a module whose forward pass is its losses, which is what DDP wraps."""

    def __init__(self, task: Task, name: str) -> None:
        super().__init__()
        self.network = task.players[name]
        self._losses = task.losses
        self._name = name

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self._losses(self._name, batch, generator)


@dataclass(frozen=True)
class Place:
    """Where a worker trains: which of how many, on what device, and how a player is made to share gradients."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    share: Callable[[nn.Module], nn.Module] = lambda module: module


class NotFinite(Exception):
    """A loss or a gradient is not a number."""


def train(task: Task, feed: Feed, settings: Settings, folder: Path, place: Place) -> Ending:
    """Train, from the newest checkpoint in `folder` where there is one, and return how it ended.

    All workers call it with the same folder, which the first one writes. Raises TrainingBroken where a checkpoint
    cannot be resumed from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)  # for whatever a network draws by itself; set again before every step
    players = {name: place.share(Player(task, name)) for name in task.players}
    optimizers = {name: optimizer_of(task.players[name], settings) for name in players}
    exported = {name: task.players[name] for name in task.exported}
    average = Average(exported, settings.average)
    progress = load_newest(folder, task.players, optimizers, average)
    first = place.rank == 0
    if first:
        keep_lines(folder / CURVE, progress.step)
        (folder / ENDING).unlink(missing_ok=True)
    validation = feed.validation()
    numbers = (
        (step * settings.accumulation + part) * place.world + place.rank
        for step in range(progress.step, settings.steps)
        for part in range(settings.accumulation)
    )
    ahead = Ahead(feed, numbers, settings.readers)
    with ExitStack() as closing, (folder / CURVE).open("a") if first else nullcontext() as curve:
        closing.callback(ahead.close)
        while progress.step < settings.steps:
            if settings.patience is not None and progress.since_best >= settings.patience:
                return finish(folder, Ending("stopped early", progress.step, progress.best, progress.best_step), first)
            began = time.monotonic()
            batches = [_to(ahead.next(), place.device) for _ in range(settings.accumulation)]
            logged: dict[str, float] = {}
            for name in players:
                try:
                    figures = take_step(task, players, optimizers, name, batches, settings, progress.step, place)
                except NotFinite as fault:
                    own = (str(fault), name_batches(feed, settings, progress.step, place))
                    detail = describe_fault(_gathered([own], place), name, progress.step)
                    ending = Ending("not finite", progress.step, progress.best, progress.best_step, detail)
                    return finish(folder, ending, first)
                logged |= {f"{name}.{key}" if len(players) > 1 else key: figures[key] for key in figures}
            progress = replace(progress, step=progress.step + 1)
            average.update(progress.step)
            logged["learning_rate"] = learning_rate(settings, progress.step - 1)
            line: dict[str, Any] = {"step": progress.step, **logged}
            last = progress.step == settings.steps
            if last or progress.step % settings.validate_every == 0:
                average.swap()
                figures = validate(task, validation, settings, place)
                line |= {f"validation.{key}": value for key, value in figures.items()}
                progress = progress.validated(figures["total"], settings.keep == "last")
                if first and progress.since_best == 0:
                    save_best(folder, exported, progress)
                average.swap()
            if curve is not None:
                curve.write(json.dumps(line | {"seconds": round(time.monotonic() - began, 4)}) + "\n")
                curve.flush()
            if first and (last or progress.step % settings.checkpoint_every == 0):
                save_step(folder, task.players, optimizers, average, progress)
    return finish(folder, Ending("done", progress.step, progress.best, progress.best_step), first)


def optimizer_of(network: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over what a network trains; matrices decay, vectors do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


def take_step(
    task: Task,
    players: dict[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    name: str,
    batches: list[Batch],
    settings: Settings,
    step: int,
    place: Place,
) -> dict[str, float]:
    """Update one player on the batches of a step; return its losses, averaged over batches and workers.

    Raises NotFinite, which tells the losses of this worker that are wrong, and leaves the weights as they were.
    """
    player, optimizer = players[name], optimizers[name]
    sums: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for other, network in task.players.items():
            if other != name:
                stack.enter_context(_frozen(network))
        optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(batches):
            generator = generator_of(settings.seed, step, part, place.rank, list(players).index(name))
            whole = part == len(batches) - 1
            with _unshared(player, whole), autocast(settings, place.device):
                losses = player(batch, generator)
                (losses["total"] / len(batches)).backward()
            for key, value in losses.items():
                sums[key] = sums.get(key, torch.zeros((), device=place.device)) + value.detach().float() / len(batches)
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        length = nn.utils.clip_grad_norm_(weights, settings.clip_norm)
    own = {key: value.item() for key, value in sums.items()}
    if not bool(torch.isfinite(length)) or not _all_finite(own, place):
        raise NotFinite(", ".join(f"{key} is {value}" for key, value in own.items() if not math.isfinite(value)))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _mean(own, place) | {"gradient": float(length)}


def generator_of(seed: int, *place: int) -> torch.Generator:
    """Return the generator (on the CPU) of one place in a training; also seeds the global one of PyTorch."""
    drawn = seed
    for number in place:
        drawn = (drawn * 1_000_003 + number + 1) % (1 << 63)
    torch.manual_seed(drawn)
    return torch.Generator().manual_seed(drawn)


@torch.no_grad()
def validate(task: Task, batches: Iterable[Batch], settings: Settings, place: Place) -> dict[str, float]:
    """Return the figures of held-out batches, each weighed by its items; workers share the batches out."""
    for network in task.players.values():
        network.eval()
    sums: dict[str, float] = {}
    items = 0
    for number, batch in enumerate(batches):
        if number % place.world == place.rank:
            count = len(batch["lengths"])
            with autocast(settings, place.device):
                figures = task.validate(_to(batch, place.device))
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + float(value) * count
            items += count
    for network in task.players.values():
        network.train()
    gathered = _gathered([(sums, items)], place)
    total = sum(count for _, count in gathered)
    keys = dict.fromkeys(key for part, _ in gathered for key in part)
    return {key: sum(part.get(key, 0.0) for part, _ in gathered) / total for key in keys}


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager:
    """Compute in bfloat16 where the settings say so."""
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def keep_lines(curve: Path, step: int) -> None:
    """Cut a curve after `step`: what a killed run logged past its last checkpoint is computed and logged again."""
    lines = curve.read_text().splitlines() if curve.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:  # cut in the middle
            continue
    partial = curve.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    os.replace(partial, curve)


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a curve that are whole."""
    if not (folder / CURVE).exists():
        return []
    text = (folder / CURVE).read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def name_batches(feed: Feed, settings: Settings, step: int, place: Place) -> list[str]:
    """Return what this worker's batches of a step were made of."""
    numbers = [
        (step * settings.accumulation + part) * place.world + place.rank for part in range(settings.accumulation)
    ]
    return [f"batch {number}: {', '.join(feed.names(number))}" for number in numbers]


def describe_fault(workers: list[tuple[str, list[str]]], player: str, step: int) -> str:
    """Return one line that says which batch made a loss, or else a gradient, that is not a number.

    `workers` holds, for each, what of its losses is wrong (nothing where they are well) and its batches in words.
    """
    guilty = [worker for worker in workers if worker[0]] or workers
    losses = "; ".join(dict.fromkeys(losses for losses, _ in guilty if losses)) or "the gradient is not finite"
    return f"step {step + 1}, {player}: {losses} ({'; '.join(batch for _, batches in guilty for batch in batches)})"


def finish(folder: Path, ending: Ending, first: bool) -> Ending:
    """Leave the ending beside the curve and return it."""
    if first:
        partial = folder / f".{ENDING}"
        partial.write_text(json.dumps(vars(ending)) + "\n")
        os.replace(partial, folder / ENDING)
    return ending


def read_ending(folder: Path) -> Ending | None:
    """Return how the training of a folder ended, None where it did not."""
    path = folder / ENDING
    return Ending(**json.loads(path.read_text())) if path.exists() else None


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Keep a network's weights from gathering gradients while another player learns through it."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _unshared(player: nn.Module, whole: bool) -> AbstractContextManager:
    """Gradients travel between workers once a step, with the last batch."""
    return nullcontext() if whole or not hasattr(player, "no_sync") else player.no_sync()  # type: ignore[operator]


def _to(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def _gathered(own: list[Any], place: Place) -> list[Any]:
    if place.world == 1:
        return own
    everybody: list[list[Any]] = [[] for _ in range(place.world)]
    distributed.all_gather_object(everybody, own)
    return [item for part in everybody for item in part]


def _all_finite(own: dict[str, float], place: Place) -> bool:
    return all(_gathered([all(math.isfinite(value) for value in own.values())], place))


def _mean(own: dict[str, float], place: Place) -> dict[str, float]:
    parts = _gathered([own], place)
    return {key: sum(part[key] for part in parts) / len(parts) for key in own}

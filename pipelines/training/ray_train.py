"""The training loop on Ray Train: one process or many, one machine or several, by RAY_ADDRESS.

Ray starts the workers, joins them (DDP) and starts them again where one dies; the loop then goes on from its newest
checkpoint, which lies in a folder that all machines share. The driver sees the curve alone, as it grows.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.schema import InputError
from pipelines.training.settings import Settings

if TYPE_CHECKING:
    from models.streamvoiceanon.training.task import Task
    from pipelines.training.feed import Feed
    from pipelines.training.loop import Ending

    Build = Callable[..., tuple[Task, Feed]]

RESTARTS = 3  # of the whole group, after a worker died
LOOK_EVERY_SECONDS = 0.5
Line = dict[str, float]


def train_on_ray(
    build: "Build", arguments: dict[str, Any], settings: Settings, folder: Path, watch: Callable[[list[Line]], None]
) -> "Ending":
    """Train what `build(**arguments)` returns in every worker, inside a running Ray session; return how it ended.

    `watch` is given the new lines of the curve, in order, each step once. A training that is done is told again and not
    started. Raises InputError where the task, the data or a checkpoint is refused.
    """
    from pipelines.training.checkpoints import newest_step
    from pipelines.training.loop import ENDING, read_ending

    folder = folder.absolute()
    former = read_ending(folder)
    if former is not None and former.ended == "done" and newest_step(folder) >= settings.steps:
        watch(Tail(folder).new())
        return former
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # importing torch on a busy machine
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # the loop would not ask it
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENDING).unlink(missing_ok=True)
    if settings.gpu and (gpus := ray.cluster_resources().get("GPU", 0)) < settings.workers:
        raise InputError(f"{settings.workers} workers with a GPU each are asked for, and Ray has {gpus:.0f} GPUs")
    cores = settings.threads + settings.readers
    wanted = settings.workers * cores
    if (there := ray.cluster_resources().get("CPU", 0)) < wanted:
        raise InputError(
            f"{settings.workers} workers of {cores} CPU cores are asked for, and Ray has {there:.0f}: lower workers, "
            "threads or readers"
        )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"build": build, "arguments": arguments, "settings": settings, "folder": folder},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker={"CPU": cores, **({"GPU": 1} if settings.gpu else {})},
        ),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    with _watching(folder, watch):
        trainer.fit()
    ending = read_ending(folder)
    if ending is None:
        raise RuntimeError(f"the training in {folder} ended without a word")
    if ending.ended == "refused":
        raise InputError(ending.detail)
    return ending


def _work(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import get_device, prepare_model

    from models.streamvoiceanon import CheckpointError
    from pipelines.training.checkpoints import TrainingBroken
    from pipelines.training.loop import Ending, Place, finish, train

    context = ray.train.get_context()
    rank, settings = context.get_world_rank(), config["settings"]
    device = get_device()
    place = Place(
        rank=rank,
        world=context.get_world_size(),
        device=device[0] if isinstance(device, list) else device,
        # A delay of 0 leaves the vectors that wait without a gradient, for one.
        share=lambda module: prepare_model(module, parallel_strategy_kwargs={"find_unused_parameters": True}),
    )
    try:
        task, feed = config["build"](**config["arguments"])
        ending = train(task, feed, settings, config["folder"], place)
    except (InputError, CheckpointError, TrainingBroken) as fault:  # trying again would not help
        ending = finish(config["folder"], Ending("refused", 0, None, 0, str(fault)), rank == 0)
    ray.train.report({"step": ending.step, "ended": ending.ended})


@contextmanager
def _watching(folder: Path, watch: Callable[[list[Line]], None]) -> Iterator[None]:
    """Look at the curve in a thread of its own until the block ends; what watching raises is raised at its end."""
    ended = threading.Event()
    faults: list[BaseException] = []

    def look() -> None:
        tail = Tail(folder)
        try:
            while not ended.wait(LOOK_EVERY_SECONDS):
                if lines := tail.new():
                    watch(lines)
            if lines := tail.new():
                watch(lines)
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=look, name="curve", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if faults:
        raise faults[0]


class Tail:
    """Reads what was added to a curve; steps that were told are not told again, though a resumed run logs them."""

    def __init__(self, folder: Path) -> None:
        from pipelines.training.loop import CURVE

        self.path = folder / CURVE
        self.file, self.offset, self.told = 0, 0, 0

    def new(self) -> list[Line]:
        """Return the whole lines of steps that were not told yet."""
        try:
            with self.path.open("rb") as curve:
                status = os.fstat(curve.fileno())
                if status.st_ino != self.file or status.st_size < self.offset:  # cut back to a checkpoint
                    self.file, self.offset = status.st_ino, 0
                curve.seek(self.offset)
                text = curve.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = [line for line in map(json.loads, whole.splitlines()) if line["step"] > self.told]
        self.told = max((int(line["step"]) for line in lines), default=self.told)
        return lines

"""Settings of the training loop: the same for every task and every size."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FINAL_RATE = 0.1  # of the peak: where the cosine ends


def in_order(delays: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest and the largest delay of a language model, in frames. Raises ValueError."""
    if not 0 <= delays[0] <= delays[1] <= 8:
        raise ValueError("delays are the smallest and the largest, from 0 to 8 frames")
    return delays


Delays = Annotated[tuple[int, int], AfterValidator(in_order)]


class Settings(BaseModel):
    """How a task is trained. A step is one update of the weights; everything that is drawn follows from the seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0, description="Updates of the weights in all.")
    batch_size: int = Field(gt=0, description="Items a worker reads at once.")
    accumulation: int = Field(1, ge=1, description="Batches whose gradients are added up for one step.")
    learning_rate: float = Field(gt=0, description="Peak, reached at the end of the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear growth; a cosine to a tenth of the peak follows.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; vectors (biases, norms, scales) have none.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Of AdamW.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients longer than this are shortened to it.")
    average: float = Field(0.999, ge=0, lt=1, description="Decay of the moving average of the weights.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Of the arithmetic; weights are float32.")
    validate_every: int = Field(gt=0, description="Steps between two validations.")
    checkpoint_every: int = Field(gt=0, description="Steps between two checkpoints.")
    patience: int | None = Field(None, ge=1, description="Validations without a better one before it stops early.")
    seed: int = Field(0, ge=0, description="Seed of the pairs, their order, the first weights and all that is drawn.")
    workers: int = Field(1, ge=1, description="Processes that train together, each with batches of its own.")
    threads: int = Field(1, ge=1, description="CPU cores of each worker; another number may round sums otherwise.")
    readers: int = Field(
        0,
        ge=0,
        description="Processes that read batches for each worker, for a GPU that waits for them, each with a core and "
        "up to 2,048 rows in memory; 0: a thread. The batches are the same.",
    )
    keep: Literal["best", "last"] = Field(
        "best", description="Whose weights are kept: those of the best validation, or the last, where it says little."
    )
    gpu: bool = Field(False, description="A GPU for each worker.")


def learning_rate(settings: Settings, step: int) -> float:
    """Return the rate of a step (0 is the first): a linear warm-up, then a cosine to a tenth of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, share))) / 2
    return settings.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)

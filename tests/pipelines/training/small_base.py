"""A base model of the smallest shape, with random weights: it speaks noise, in no time."""

from pathlib import Path

from pipelines.training.model_folder import Base, fresh_base, read_base, write_model
from pipelines.training.pretrain_job import load_pretrain


def write_small_base(folder: Path, seed: int = 0) -> Base:
    sizes = load_pretrain("lm", "smoke", index="none", name="small").sizes()
    write_model(folder, fresh_base(sizes, seed, None), {}, {})
    return read_base(str(folder))

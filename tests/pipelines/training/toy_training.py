"""A task that trains in milliseconds, with two players as a codec has; as a script it trains until it is killed.

python toy_training.py FOLDER STEPS [BATCH_THAT_NEVER_COMES] readers=N
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.training.feed import item_at
from pipelines.training.loop import Place, train
from pipelines.training.settings import Settings

ITEMS, WIDTH = 23, 6


class ToyTask:
    """Learns y = x W against a critic that tells what is learnt from what is true."""

    exported = ("line",)

    def __init__(self, poisoned: float | None = None) -> None:
        torch.manual_seed(1)
        self.players: dict[str, nn.Module] = {
            "line": nn.Sequential(nn.Linear(WIDTH, 16), nn.Dropout(0.1), nn.Linear(16, 1)),
            "critic": nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
        }

    def losses(self, player: str, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(batch["x"].shape, generator=generator).to(batch["x"].device)
        made = self.players["line"](batch["x"] + 0.01 * noise)
        if player == "critic":
            apart = self.players["critic"](made.detach()) - self.players["critic"](batch["y"])
            return {"total": F.softplus(apart).mean()}
        error = F.mse_loss(made, batch["y"])
        return {"total": error + 0.01 * F.softplus(-self.players["critic"](made)).mean(), "error": error.detach()}

    def validate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"total": F.mse_loss(self.players["line"](batch["x"]), batch["y"])}

    def export(self) -> dict[str, dict[str, Tensor]]:
        return {"line": dict(self.players["line"].state_dict())}


@dataclass
class ToyFeed:
    """Batches of 4; the item `poisoned` is not a number, and the batch `missing` never comes."""

    seed: int = 0
    poisoned: int | None = None
    missing: int | None = None

    def items(self, number: int) -> list[int]:
        return [item_at(4 * number + place, ITEMS, self.seed)[1] for place in range(4)]

    def names(self, number: int) -> list[str]:
        return [f"utterance-{item}" for item in self.items(number)]

    def batch(self, number: int) -> dict[str, Tensor]:
        while number == self.missing:
            time.sleep(1)
        return self.make(self.items(number))

    def make(self, items: list[int]) -> dict[str, Tensor]:
        x = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(item)) for item in items])
        y = x.sum(1, keepdim=True)
        if self.poisoned in items:
            y[items.index(self.poisoned)] = torch.nan
        return {"x": x, "y": y, "lengths": torch.full((len(items),), WIDTH)}

    def validation(self) -> list[dict[str, Tensor]]:
        return [self.make([100, 101, 102]), self.make([103])]


def settings_of(**changed: Any) -> Settings:
    given: dict[str, Any] = {"steps": 20, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 4, "average": 0.9}
    return Settings(**(given | {"validate_every": 5, "checkpoint_every": 4} | changed))


if __name__ == "__main__":
    readers = int(sys.argv.pop().removeprefix("readers="))
    target, steps, *missing = sys.argv[1:]
    feed = ToyFeed(missing=int(missing[0]) if missing else None)
    train(ToyTask(), feed, settings_of(steps=int(steps), accumulation=2, readers=readers), Path(target), Place())

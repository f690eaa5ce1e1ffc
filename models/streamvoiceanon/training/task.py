"""What a training loop knows of the thing that it trains: the contract between the tasks here and the loop elsewhere.

A task holds plain differentiable networks and says what each wants to be small. It knows nothing of optimizers, of
several machines, of files or of what is logged. A batch is a dict of padded tensors with `lengths`; the collation
function that makes one from numpy arrays lives beside its task.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Task(Protocol):
    """One thing to train: its networks by player (a player has an optimizer of its own) and what each wants small."""

    players: dict[str, nn.Module]  # such as {"lm": …} or {"codec": …, "discriminator": …}; order = order of steps
    exported: tuple[str, ...]  # players whose weights are kept (an average is kept for these alone)

    def losses(self, player: str, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars of one player on one batch: "total" is what is stepped, the rest is logged."""
        ...

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Deterministic scalars on a held-out batch."""
        ...

    def export(self) -> dict[str, dict[str, Tensor]]:
        """State dicts by network name, as `models.streamvoiceanon.checkpoint` knows them."""
        ...

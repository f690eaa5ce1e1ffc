"""Teacher frames at one scale: a few of Whisper's channels are a hundred times larger than the others."""

import torch
from torch import Tensor, nn

MOMENTUM = 0.02


class Standardiser(nn.Module):
    """Brings teacher frames [N, D] to zero mean and unit variance in every channel, by statistics that it gathers."""

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def gather(self, x: Tensor) -> None:
        """Take a batch into the statistics: the first ones count alike, later ones by a fiftieth."""
        self.seen += 1
        share = max(MOMENTUM, 1.0 / float(self.seen))
        self.mean.lerp_(x.mean(0), share)
        self.variance.lerp_((x - self.mean).square().mean(0), share)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / (self.variance + 1e-4).sqrt()

"""Finite scalar quantization: every channel is bounded and rounded to a few levels; the levels together are the code.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", 2023 (arXiv 2309.15505). The published networks were
trained with two releases of one implementation: the codec's bounds its input twice, once as residual quantizer and
once as scalar quantizer, the timbre encoder's once. What they compute depends on it.
"""

import math

import torch
from torch import Tensor, nn

from models.streamvoiceanon.linear import Linear


class FiniteScalarQuantizer(nn.Module):
    """Projects to one channel a level count, bounds it `bounds` times, rounds it, and projects back."""

    levels: Tensor
    basis: Tensor

    def __init__(self, width: int, levels: tuple[int, ...], bounds: int) -> None:
        super().__init__()
        self.bounds, self.channels = bounds, len(levels)
        self.project_in = Linear(width, len(levels))
        self.project_out = Linear(len(levels), width)
        self.size = math.prod(levels)
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, device="cpu"), persistent=False)
        self.register_buffer("basis", torch.tensor(places, device="cpu"), persistent=False)

    def _bound(self, x: Tensor) -> Tensor:
        """Squash each channel into the open range of its levels, centred so that rounding gives exactly that many."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return (x + (offset / half).atanh()).tanh() * half - offset

    def encode(self, x: Tensor) -> Tensor:
        """Map [..., width] to codes [...], int64."""
        x = self.project_in(x)
        for _ in range(self.bounds):
            x = self._bound(x)
        level = x.round() + self.levels // 2
        return (level.long() * self.basis).sum(-1)

    def round_trip(self, x: Tensor) -> Tensor:
        """What `decode` makes of `encode`, with the gradient of no rounding at all, for training."""
        x = self.project_in(x)
        for _ in range(self.bounds):
            x = self._bound(x)
        return self.project_out((x + (x.round() - x).detach()) / (self.levels // 2))

    def values(self, codes: Tensor) -> Tensor:
        """Map codes [...] to what each channel is rounded to, [..., channels], from -1 on."""
        half = self.levels // 2
        return (codes.unsqueeze(-1) // self.basis % self.levels - half) / half

    def decode(self, values: Tensor) -> Tensor:
        """Map `values` [..., channels], or means of them, to [..., width]."""
        return self.project_out(values)

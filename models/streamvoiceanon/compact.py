"""A byte a weight on disk: each row of a matrix as int8 with a scale of its own, everything else in half precision.

This is how weights are kept and shipped. Loaded they are floating-point numbers again, and what computes with them is
as precise as ever; a weight is off by at most half a 127th of the largest in its row.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".row_scale"
SMALLEST = 4_096  # weights: below, a byte saved each is not worth the error


def compacted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return int8 matrices with their scales, float16 for the rest; whole numbers stay."""
    small = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            small[name] = value
        elif value.dim() < 2 or value.numel() < SMALLEST:
            small[name] = value.half()
        else:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / 127.0).clamp(min=1e-8).float()
            small[name] = (rows / scale.unsqueeze(1)).round().to(torch.int8).view(value.shape)
            small[name + SCALE] = scale
    return small


def expanded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `compacted`; tensors that were not are handed through."""
    whole = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            value = (value.flatten(1).float() * scale.unsqueeze(1)).view(value.shape)
        whole[name] = value
    return whole

"""A byte a weight on disk: each row of a matrix as int8 with a scale of its own, everything else as it is.

This is how weights are kept and shipped. Loaded they are floating-point numbers again, and what computes with them is
as precise as ever; a weight is off by at most half a 127th of the largest in its row.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SCALE = ".row_scale"
SMALLEST = 4_096  # weights: what few there are is not worth the error


def compacted(tensors: Mapping[str, Tensor], weights: Collection[str]) -> dict[str, Tensor]:
    """Return the matrices among `weights` as int8 with their scales; other tensors are handed through."""
    small = {}
    for name, value in tensors.items():
        if name in weights and value.is_floating_point() and value.dim() >= 2 and value.numel() >= SMALLEST:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / 127.0).clamp(min=1e-8)
            small[name] = (rows / scale.unsqueeze(1)).round().to(torch.int8).view(value.shape)
            small[name + SCALE] = scale
        else:
            small[name] = value
    return small


def expanded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `compacted`; tensors that were not compacted are handed through.

    Raises ValueError that names a scale which belongs to no matrix of as many rows.
    """
    whole = {name: value for name, value in tensors.items() if not name.endswith(SCALE)}
    for name, scale in tensors.items():
        if name not in whole:
            matrix = whole.get(name.removesuffix(SCALE))
            if matrix is None or matrix.dtype != torch.int8 or matrix.dim() < 2 or scale.shape != matrix.shape[:1]:
                raise ValueError(f"{name} is a scale of {list(scale.shape)} rows for no matrix of as many")
            rows = matrix.flatten(1) * scale.float().unsqueeze(1)
            whole[name.removesuffix(SCALE)] = rows.view(matrix.shape)
    return whole

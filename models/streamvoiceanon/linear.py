"""A linear map that can be packed for the CPU kernels. Its parameters are named like `nn.Linear`'s."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon import kernels


class Linear(nn.Linear):
    """`nn.Linear`, until `pack` replaces its weights by the kernels' own copy."""

    packed: kernels.PackedWeights | None = None

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights as `kind`, for inference on a CPU; the float32 ones are let go."""
        self.packed = kernels.pack_weights(self.weight.unsqueeze(1), kind)
        self.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, -1, x.shape[-1])
        return kernels.convolve(rows, self.packed, self.bias).view(*x.shape[:-1], self.packed.outputs)


class Table(nn.Embedding):
    """`nn.Embedding` without random values of its own: to draw them on the meta device imports for seconds.

    It is loaded into, or filled by `training.initial`.
    """

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


def pack(module: nn.Module, kind: kernels.WeightType) -> None:
    """Pack every layer below `module` that knows how to be packed; the outermost decides for what it holds."""
    if module.training:
        raise ValueError("a network in training mode cannot be packed: call eval() first")
    for child in module.children():
        if hasattr(child, "pack"):
            child.pack(kind)  # type: ignore[operator]
        else:
            pack(child, kind)

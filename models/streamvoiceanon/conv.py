"""Causal convolutions that keep their own past, and the ConvNeXt blocks made of them.

All of them map audio features [B, time, channels] and a state to the features and the state that follows. Module names
are those of the published checkpoints, so that their tensors load as they are.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon import fused, kernels
from models.streamvoiceanon.linear import Linear
from models.streamvoiceanon.state import State


class CausalConv1d(nn.Module):
    """A convolution that sees the present and the past only; its state is the input it still has to see again."""

    packed: kernels.PackedWeights | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        self.past = (kernel - 1) * dilation + 1 - stride

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights as `kind`, for inference on a CPU."""
        self.packed = kernels.pack_weights(self.conv.weight.transpose(1, 2), kind)
        self.conv.weight = None  # type: ignore[assignment]

    def initial_state(self, batch: int) -> Tensor:
        """Zeros [batch, past, inputs]: what the left padding holds."""
        return self.conv.bias.new_zeros(batch, self.past, self.conv.in_channels)  # type: ignore[union-attr]

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n x stride, inputs] to [B, n, outputs], and the state on."""
        if self.past:
            x = torch.cat([state, x], dim=1)
        state = x[:, x.shape[1] - self.past :]
        if self.packed is not None:
            stride, dilation = self.conv.stride[0], self.conv.dilation[0]
            return kernels.convolve(x, self.packed, self.conv.bias, dilation, stride), state
        return self.conv(x.transpose(1, 2)).transpose(1, 2), state


class CausalConvTranspose1d(nn.Module):
    """An upsampling convolution whose kernel is its stride (no overlap) or twice its stride (overlaps one input).

    Every input makes `stride` outputs, from itself and (where the kernel overlaps) the input before it: a convolution
    of one or two taps whose channels are then laid out in time.
    """

    packed: kernels.PackedWeights | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        if kernel not in (stride, 2 * stride):
            raise ValueError(
                f"a causal transposed convolution of kernel {kernel} and stride {stride} is not known here"
            )
        self.conv = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.past = kernel // stride - 1

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights as `kind`, for inference on a CPU."""
        self.packed = kernels.pack_weights(self._as_convolution(), kind)
        self.bias = self.conv.bias.detach().repeat(self.conv.stride[0])  # type: ignore[union-attr]
        self.conv.weight = None  # type: ignore[assignment]

    def _as_convolution(self) -> Tensor:
        """The weights [stride x outputs, taps, inputs] of the convolution that does the same; the oldest tap first."""
        taps = self.conv.weight.unflatten(2, (self.past + 1, -1)).flip(2)  # (inputs, outputs, taps, stride)
        return taps.permute(3, 1, 2, 0).flatten(0, 1)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros [batch, past, inputs]: the input before the first."""
        return self.conv.bias.new_zeros(batch, self.past, self.conv.in_channels)  # type: ignore[union-attr]

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n, inputs] to [B, n x stride, outputs], and the state on."""
        stride, length = self.conv.stride[0], x.shape[1] * self.conv.stride[0]
        if self.past:
            x = torch.cat([state, x], dim=1)
        state = x[:, x.shape[1] - self.past :]
        if self.packed is not None:
            return kernels.convolve(x, self.packed, self.bias).view(len(x), length, -1), state
        start = self.past * stride  # what only the past input reached was put out before
        return self.conv(x.transpose(1, 2))[:, :, start : start + length].transpose(1, 2), state


class DepthwiseConv1d(nn.Module):
    """A causal convolution of kernel 7, each channel by itself."""

    KERNEL = 7

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, self.KERNEL, groups=channels)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros [batch, 6, channels]."""
        return self.conv.bias.new_zeros(batch, self.KERNEL - 1, self.conv.in_channels)  # type: ignore[union-attr]

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n, channels] to [B, n, channels], and the state on."""
        x = torch.cat([state, x], dim=1)
        state = x[:, x.shape[1] - self.KERNEL + 1 :]
        return self.conv(x.transpose(1, 2)).transpose(1, 2), state


class PointwiseConv1d(nn.Conv1d):
    """A convolution of kernel 1: a linear map whose weights the checkpoint holds as [outputs, inputs, 1]."""

    packed: kernels.PackedWeights | None = None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def pack(self, kind: kernels.WeightType) -> None:
        self.packed = kernels.pack_weights(self.weight.transpose(1, 2), kind)
        self.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return kernels.convolve(x, self.packed, self.bias)
        return F.linear(x, self.weight.squeeze(2), self.bias)


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, then a two-layer perceptron at every instant, scaled and added to the input."""

    packed: fused.PackedConvNeXt | None = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv1d(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = Linear(channels, 4 * channels)
        self.pwconv2 = Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights of the two-layer perceptron as `kind`, for inference on a CPU."""
        self.packed = fused.PackedConvNeXt(
            (self.dwconv.conv.weight.squeeze(1), self.dwconv.conv.bias),  # type: ignore[arg-type]
            (self.norm.weight, self.norm.bias, self.norm.eps),
            (self.pwconv1.weight, self.pwconv1.bias),
            (self.pwconv2.weight, self.pwconv2.bias),
            self.gamma,
            kind,
        )
        self.pwconv1.weight = self.pwconv2.weight = None  # type: ignore[assignment]

    def initial_state(self, batch: int) -> Tensor:
        return self.dwconv.initial_state(batch)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, n, channels] to [B, n, channels], and the state on."""
        if self.packed is not None:
            return self.packed(x, state)
        y, state = self.dwconv(x, state)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return torch.addcmul(x, self.gamma, y), state


class ConvNeXtEncoder(nn.Module):
    """Log-mel frames [B, n, bands] to features [B, n, widths[-1]] at the same rate."""

    def __init__(self, bands: int, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        stem = nn.ModuleList([CausalConv1d(bands, widths[0], kernel=7), nn.LayerNorm(widths[0], eps=1e-6)])
        between = [
            nn.ModuleList([nn.LayerNorm(narrow, eps=1e-6), PointwiseConv1d(narrow, wide)])
            for narrow, wide in itertools.pairwise(widths)
        ]
        self.downsample_layers = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.ModuleList(ConvNeXtBlock(width) for _ in range(depth))
            for depth, width in zip(depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)

    def initial_state(self, batch: int) -> State:
        (stem, _), *_ = self._layers()
        return stem.initial_state(batch), tuple(
            block.initial_state(batch) for stage in self._stages() for block in stage
        )

    def _layers(self) -> list[Any]:
        return list(self.downsample_layers)

    def _stages(self) -> list[Any]:
        return list(self.stages)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, n, bands] to [B, n, widths[-1]], and the state on."""
        stem, blocks = state
        after = []
        remembered = iter(blocks)
        for i, ((first, second), stage) in enumerate(zip(self._layers(), self._stages(), strict=True)):
            if i == 0:
                x, stem = first(x, stem)
            else:
                x = first(x)
            x = second(x)
            for block in stage:
                x, past = block(x, next(remembered))
                after.append(past)
        return self.norm(x), (stem, tuple(after))


class Resample(nn.Module):
    """A halving or doubling of the rate by a convolution of kernel 2, then a ConvNeXt block, `times` over.

    The published checkpoints hold them as `quantizer.downsample.<i>.<0|1>` and `quantizer.upsample.<i>.<0|1>`.
    """

    def __init__(self, channels: int, up: bool, times: int = 2) -> None:
        super().__init__()
        make = CausalConvTranspose1d if up else CausalConv1d
        for i in range(times):
            self.add_module(str(i), nn.ModuleList([make(channels, channels, 2, stride=2), ConvNeXtBlock(channels)]))

    def initial_state(self, batch: int) -> State:
        return tuple(tuple(layer.initial_state(batch) for layer in pair) for pair in self._pairs())

    def _pairs(self) -> list[Any]:
        return list(self.children())

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, n, channels] to [B, n / 2^times, channels] or [B, 2^times n, channels], and the state on."""
        after = []
        for (conv, block), (conv_past, block_past) in zip(self._pairs(), state, strict=True):
            x, conv_past = conv(x, conv_past)
            x, block_past = block(x, block_past)
            after.append((conv_past, block_past))
        return x, tuple(after)

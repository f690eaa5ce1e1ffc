"""The style encoder: CAM++ (Wang et al., Interspeech 2023, arXiv 2303.00332), a speaker embedding of the prompt.

A 2-D residual front end over 80 filterbank bands, densely connected time-delay layers each with a context-aware mask,
and statistics pooling. Module names are those of the published checkpoint.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

SAMPLE_RATE = 16_000
SEGMENT = 100  # frames over which the mask's local context is averaged


def band_statistics(mel: Tensor) -> Tensor:
    """Map log-mel frames [n, bands] to a style vector [2 x bands]: mean and deviation of each band over time.

    Of a prompt brought to one level that is the voice's long-term spectrum, the low bands of which tell its pitch: a
    style without weights, for shapes where weights are dear.
    """
    mean = mel.mean(0)
    return torch.cat([(mean - mean.mean()) / 2.0, mel.std(0, unbiased=False) - 1.5])  # about zero, and of order one


def _normalized(channels: int, affine: bool = True) -> nn.Sequential:
    """Batch norm, and ReLU after an affine one."""
    layers = OrderedDict[str, nn.Module](batchnorm=nn.BatchNorm1d(channels, affine=affine))
    if affine:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


class _Residual2d(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if stride == 1:
            self.shortcut = nn.Sequential()
        else:
            skip = nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(skip, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class _FrontEnd(nn.Module):
    """Filterbank [B, bands, frames] to [B, channels x bands / 8, frames]."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(_Residual2d(channels, 2), _Residual2d(channels, 1))
        self.layer2 = nn.Sequential(_Residual2d(channels, 2), _Residual2d(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        x = F.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class _ContextMask(nn.Module):
    """A convolution whose output is masked by what the whole utterance and the 100-frame segment sound like."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = (kernel - 1) // 2 * dilation
        self.linear_local = nn.Conv1d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(inputs, inputs // 2, 1)
        self.linear2 = nn.Conv1d(inputs // 2, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True)
        local = segments.repeat_interleave(SEGMENT, dim=2)[:, :, : x.shape[2]]
        context = x.mean(2, keepdim=True) + local
        return self.linear_local(x) * torch.sigmoid(self.linear2(F.relu(self.linear1(context))))


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _normalized(inputs)
        self.linear1 = nn.Conv1d(inputs, bottleneck, 1, bias=False)
        self.nonlinear2 = _normalized(bottleneck)
        self.cam_layer = _ContextMask(bottleneck, growth, kernel=3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))
        return torch.cat([x, y], dim=1)


class _Transit(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nonlinear = _normalized(inputs)
        self.linear = nn.Conv1d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class _TimeDelay(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _normalized(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _Embedding(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.nonlinear = _normalized(outputs, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x.unsqueeze(2))).squeeze(2)


class StyleEncoder(nn.Module):
    """Samples at 16 kHz to a style vector of 192."""

    def __init__(self, style_width: int = 192, layers: tuple[int, ...] = (12, 24, 16), growth: int = 32) -> None:
        super().__init__()
        self.head = _FrontEnd()
        trunk = OrderedDict[str, nn.Module](tdnn=_TimeDelay(320, 128))
        channels = 128
        for i, (depth, dilation) in enumerate(zip(layers, (1, 2, 2), strict=True), start=1):
            dense = OrderedDict[str, nn.Module](
                (f"tdnnd{j + 1}", _DenseLayer(channels + j * growth, growth, 128, dilation)) for j in range(depth)
            )
            trunk[f"block{i}"] = nn.Sequential(dense)
            channels += depth * growth
            trunk[f"transit{i}"] = _Transit(channels, channels // 2)
            channels //= 2
        trunk["out_nonlinear"] = _normalized(channels)
        self.xvector = nn.Sequential(trunk)
        self.dense = _Embedding(2 * channels, style_width)

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples [n] at 16 kHz in [-1, 1], at least 25 ms, to a style vector [192]."""
        bank = torchaudio.compliance.kaldi.fbank(
            samples.unsqueeze(0), num_mel_bins=80, dither=0.0, sample_frequency=SAMPLE_RATE
        )
        bank = bank - bank.mean(0, keepdim=True)
        x = self.xvector(self.head(bank.T.unsqueeze(0)))
        x = x[:, :, : max(len(bank) // 2, 2)]  # the published network pools over half the frames, rounded down
        pooled = torch.cat([x.mean(2), x.std(2, unbiased=True)], dim=1)
        return self.dense(pooled).squeeze(0)

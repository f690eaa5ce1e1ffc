"""The timbre encoder: an ECAPA-TDNN (Desplanques et al., Interspeech 2020), resampled to 32 quantized latents.

Of the ECAPA-TDNN only the features before pooling are used; its pooling and the heads above are never built. Module
names are those of the published checkpoint.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.fsq import FiniteScalarQuantizer

N_FFT, WINDOW, HOP, BANDS = 1024, 640, 320, 128


class _Spectrogram(nn.Module):
    """Magnitudes [B, 513, frames] through the checkpoint's own window."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(samples, N_FFT, HOP, WINDOW, self.window, center=True, return_complex=True)
        return spectrum.abs()


class _MelScale(nn.Module):
    fb: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fb", torch.zeros(N_FFT // 2 + 1, BANDS))

    def forward(self, magnitude: Tensor) -> Tensor:
        return (magnitude.transpose(1, 2) @ self.fb).transpose(1, 2)


class _Mel(nn.Module):
    """Linear (not logarithmic) mel magnitudes [B, 128, frames]; window and filters come with the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram, self.mel_scale = _Spectrogram(), _MelScale()

    def forward(self, samples: Tensor) -> Tensor:
        return self.mel_scale(self.spectrogram(samples))


class _ConvReluNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.relu(self.conv(x)))


class _Res2(nn.Module):
    """Eight groups of channels, each but the last convolved together with the result of the one before."""

    def __init__(self, channels: int, kernel: int, dilation: int, groups: int = 8) -> None:
        super().__init__()
        width = channels // groups
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=dilation, dilation=dilation) for _ in range(groups - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(groups - 1))

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = x.chunk(len(self.convs) + 1, dim=1)
        done: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.bns, strict=True):
            done.append(norm(F.relu(conv(part + done[-1] if done else part))))
        return torch.cat([*done, last], dim=1)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, bottleneck), nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor) -> Tensor:
        gain = torch.sigmoid(self.linear2(F.relu(self.linear1(x.mean(2)))))
        return x * gain.unsqueeze(2)


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int, bottleneck: int) -> None:
        super().__init__()
        self.se_res2block = nn.Sequential(
            _ConvReluNorm(channels, channels),
            _Res2(channels, kernel=3, dilation=dilation),
            _ConvReluNorm(channels, channels),
            _SqueezeExcite(channels, bottleneck),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.se_res2block(x)


class EcapaFeatures(nn.Module):
    """Mel [B, 128, frames] to features [B, 3 x channels, frames]."""

    def __init__(self, channels: int, bottleneck: int = 128) -> None:
        super().__init__()
        self.layer1 = _ConvReluNorm(BANDS, channels, kernel=5)
        self.layer2 = _Block(channels, 2, bottleneck)
        self.layer3 = _Block(channels, 3, bottleneck)
        self.layer4 = _Block(channels, 4, bottleneck)
        self.conv = nn.Conv1d(3 * channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        second = self.layer2(self.layer1(x))
        third = self.layer3(second)
        fourth = self.layer4(third)
        return F.relu(self.conv(torch.cat([second, third, fourth], dim=1)))


class _CrossAttention(nn.Module):
    """Latents attend to themselves and the context."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:
        k, v = self.to_kv(torch.cat([latents, context], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(latents), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _GEGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


class _LatentNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * len(self.gamma) ** 0.5 * self.gamma


class PerceiverResampler(nn.Module):
    """A context of any length [B, n, context width] to a fixed number of latents [B, latents, width]."""

    def __init__(self, context: int, width: int, latents: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        hidden = int(width * 4 * 2 / 3)
        self.latents = nn.Parameter(torch.zeros(latents, width))
        self.proj_context = nn.Linear(context, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _CrossAttention(width, heads, head_width),
                    nn.Sequential(nn.Linear(width, 2 * hidden), _GEGLU(), nn.Linear(hidden, width)),
                ]
            )
            for _ in range(depth)
        )
        self.norm = _LatentNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        context = self.proj_context(x)
        latents = self.latents.expand(len(x), -1, -1)
        layers: list[Any] = list(self.layers)
        for attention, feed_forward in layers:
            latents = latents + attention(latents, context)
            latents = latents + feed_forward(latents)
        return self.norm(latents)


class TimbreEncoder(nn.Module):
    """Samples at 16 kHz to timbre latents [32, 128]."""

    def __init__(self, channels: int = 512, timbre_width: int = 128, latents: int = 32, heads: int = 8) -> None:
        super().__init__()
        self.mel_transformer = _Mel()
        self.speaker_encoder = EcapaFeatures(channels)
        self.perceiver_sampler = PerceiverResampler(3 * channels, timbre_width, latents, 2, heads, head_width=64)
        self.quantizer = FiniteScalarQuantizer(timbre_width, (4,) * 6, bounds=1)

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples [n] at 16 kHz, at least 32 ms + 1 sample, to timbre latents [32, 128]."""
        features = self.speaker_encoder(self.mel_transformer(samples.unsqueeze(0)))
        latents = self.perceiver_sampler(features.transpose(1, 2))
        return self.quantizer.decode(self.quantizer.values(self.quantizer.encode(latents))).squeeze(0)

"""Networks that tell decoded speech from real speech, and what they and the codec make of it.

Periods: Kong et al., "HiFi-GAN", 2020 (arXiv 2010.05646). Resolutions: Jang et al., "UnivNet", 2021 (arXiv 2106.07889).
The losses are the hinge's. They are light: a few hundred thousand weights each, of which no export keeps any.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`periods` and `windows` are in samples, a network each; `channels` is the width of their first layer."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    windows: tuple[int, ...] = (256, 512, 1024)
    channels: int = 16


class _Stack(nn.Module):
    """Convolutions with leaky ReLUs; gives the score map and every layer's features."""

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = F.leaky_relu(x, SLOPE)
                features.append(x)
        return x, features


class PeriodDiscriminator(nn.Module):
    """Sees every `period`-th sample side by side."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 8 * channels]
        down = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in itertools.pairwise(widths)]
        self.stack = _Stack([*down, nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0))])

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        padded = F.pad(wave, (0, -wave.shape[1] % self.period))
        return self.stack(padded.unflatten(1, (-1, self.period)).unsqueeze(1))


class ResolutionDiscriminator(nn.Module):
    """Sees the log-magnitudes of a spectrogram."""

    window: Tensor

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        strides = [(1, 1), (2, 2), (2, 2), (1, 2)]
        widths = [1, channels, 2 * channels, 2 * channels, 2 * channels]
        down = [
            nn.Conv2d(a, b, (3, 5), stride, (1, 2))
            for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        ]
        self.stack = _Stack([*down, nn.Conv2d(widths[-1], 1, 3, 1, 1)])

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        size = len(self.window)
        spectrum = torch.stft(wave.float(), size, size // 4, window=self.window, return_complex=True)
        magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
        return self.stack(magnitude.log().transpose(1, 2).unsqueeze(1))


class Discriminators(nn.Module):
    """All of them: waves [B, n] to a score map and a list of features of each."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        periods = [PeriodDiscriminator(period, config.channels) for period in config.periods]
        self.all = nn.ModuleList([*periods, *(ResolutionDiscriminator(w, config.channels) for w in config.windows)])

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [discriminator(wave) for discriminator in self.all]

    def own_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Hinge: real waves [B, n] above 1, made ones below -1."""
        pairs = zip(self(real), self(made), strict=True)
        return torch.stack([F.relu(1 - r).mean() + F.relu(1 + m).mean() for (r, _), (m, _) in pairs]).mean()

    def makers_losses(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        """What the codec wants small: "adversarial", and "matching", the relative distance of the features."""
        adversarial, matching = [], []
        with torch.no_grad():
            wanted = self(real)
        for (score, features), (_, targets) in zip(self(made), wanted, strict=True):
            adversarial.append(F.relu(1 - score).mean())
            distances = [(f - t).abs().mean() / t.abs().mean() for f, t in zip(features, targets, strict=True)]
            matching.append(cast(Tensor, sum(distances)) / len(distances))
        return {"adversarial": torch.stack(adversarial).mean(), "matching": torch.stack(matching).mean()}

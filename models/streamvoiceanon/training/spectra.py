"""Distances between waves that hear as spectrograms do, at several resolutions at once.

Multi-resolution STFT: Yamamoto et al., "Parallel WaveGAN", 2020 (arXiv 1910.11480). Mel at several resolutions: Kumar
et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023 (arXiv 2306.06546).
"""

from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

FLOOR = 1e-4  # 80 dB below full scale: what is quieter is not worth a weight


@dataclass(frozen=True)
class SpectrumConfig:
    """`windows` (samples) of the spectrograms, each with a quarter of it as hop, and how many mel bands each has."""

    windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    bands: tuple[int, ...] = (10, 20, 40, 80, 120)


class SpectralDistance(nn.Module):
    """Waves [B, n] and their targets to the scalars "stft" and "mel"; it has no weights."""

    def __init__(self, sample_rate: int, config: SpectrumConfig) -> None:
        super().__init__()
        self.config = config
        for window, bands in zip(config.windows, config.bands, strict=True):
            self.register_buffer(f"window{window}", torch.hann_window(window), persistent=False)
            filters = torchaudio.functional.melscale_fbanks(
                window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, mel_scale="slaney"
            )
            mean = filters / filters.sum(0).clamp(min=1e-9)  # a band is the mean of its bins
            self.register_buffer(f"filters{window}", mean, persistent=False)

    def magnitude(self, wave: Tensor, window: int) -> Tensor:
        """Map [B, n] to amplitudes [B, frames, window / 2 + 1]: a sine of amplitude a peaks at a."""
        shape = self.get_buffer(f"window{window}")
        spectrum = torch.stft(wave, window, window // 4, window=shape * (2.0 / shape.sum()), return_complex=True)
        squares = torch.view_as_real(spectrum).square().sum(-1)
        return (squares + 0.01 * FLOOR**2).sqrt().transpose(1, 2)

    def forward(self, wave: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Mean over resolutions: of spectral convergence plus log-magnitudes' distance, and of log-mel's distance."""
        stft, mel = [], []
        for window in self.config.windows:
            ours, theirs = self.magnitude(wave.float(), window), self.magnitude(target.float(), window)
            convergence = (ours - theirs).norm() / theirs.norm().clamp(min=FLOOR)
            stft.append(convergence + (ours.clamp(min=FLOOR).log() - theirs.clamp(min=FLOOR).log()).abs().mean())
            filters = self.get_buffer(f"filters{window}")
            heard, wanted = ((x @ filters).clamp(min=FLOOR).log() for x in (ours, theirs))
            mel.append((heard - wanted).abs().mean())
        return {"stft": torch.stack(stft).mean(), "mel": torch.stack(mel).mean()}

"""Distances between waves that hear as spectrograms do, at several resolutions at once.

Multi-resolution STFT: Yamamoto et al., "Parallel WaveGAN", 2020 (arXiv 1910.11480). Mel at several resolutions: Kumar
et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023 (arXiv 2306.06546).
"""

from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

FLOOR = 1e-5


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
                window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, norm="slaney", mel_scale="slaney"
            )
            self.register_buffer(f"filters{window}", filters, persistent=False)

    def magnitude(self, wave: Tensor, window: int) -> Tensor:
        """Map [B, n] to magnitudes [B, frames, window / 2 + 1]."""
        shape = self.get_buffer(f"window{window}")
        spectrum = torch.stft(wave, window, window // 4, window=shape, return_complex=True)
        squares = torch.view_as_real(spectrum).square().sum(-1)
        return (squares + 1e-9).sqrt().transpose(1, 2)

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

"""A head that speaks as a voice does: pulses at the pitch and noise, each through a filter of its own.

A spectral head (`spectral.py`) has to learn phases, which distances of spectrograms do not teach; without
discriminators and very many steps it buzzes. Here phases come from the source: a train of pulses whose pitch is told
from the codes, which is band-limited and goes on from frame to frame, and white noise. Both are shaped by magnitudes,
the pulses at minimum phase, as a vocal tract does. This is differentiable source-filter synthesis (Wang et al., 2019,
arXiv 1904.12088; Engel et al., "DDSP", 2020, arXiv 2001.04643). Pieces overlap as those of the spectral head do, so it
adds no latency either.
"""

import math

import torch
from torch import Tensor, nn

from models.streamvoiceanon.contour import SAMPLE_RATE
from models.streamvoiceanon.conv import CausalConvTranspose1d, ConvNeXtBlock
from models.streamvoiceanon.linear import Linear
from models.streamvoiceanon.spectral import LOUDEST, SpectralConfig, overlap_add
from models.streamvoiceanon.state import State

NOISES = 997  # pieces of noise, which are used in turn: ten seconds
LOWEST, HIGHEST = math.log2(50.0), math.log2(600.0)  # octaves above 1 Hz, of the pitch
MIDDLE = math.log2(150.0)
TOP = 7_600.0  # hertz: no harmonic lies above


class HarmonicGenerator(nn.Module):
    """Features [B, n mel frames, width] to samples [B, n x mel hop] at 16 kHz."""

    window: Tensor
    noise: Tensor

    def __init__(self, width: int, mel_hop: int, config: SpectralConfig) -> None:
        super().__init__()
        finer = mel_hop // config.hop
        if mel_hop % config.hop or config.window % config.hop:
            raise ValueError(f"a hop of {config.hop} does not divide {mel_hop} and a window of {config.window} samples")
        self.config = config
        self.up = CausalConvTranspose1d(width, width, finer, finer)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = Linear(width, config.window + 2)  # log-magnitudes of the two filters
        self.pitch = Linear(width, 2)  # octaves above MIDDLE, and the logit of being voiced
        with torch.device("cpu"):
            # Twice the root of a Hann window: those that overlap n times add up to n / 2.
            window = torch.hann_window(config.window).sqrt()
            noise = torch.randn(NOISES, config.window, generator=torch.Generator().manual_seed(0))
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("noise", torch.fft.rfft(noise * window, norm="ortho"), persistent=False)
        self._scale = 2.0 * config.hop / config.window

    def initial_state(self, batch: int) -> State:
        rest = self.window.new_zeros(batch, self.config.window - self.config.hop)
        turns = self.window.new_zeros(batch, dtype=torch.float64)
        count = self.window.new_zeros(batch, dtype=torch.int64)
        blocks = tuple(block.initial_state(batch) for block in self.blocks)  # type: ignore[operator]
        return self.up.initial_state(batch), blocks, rest, turns, count

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, n, width] to [B, n x mel hop], and the state on."""
        x, past = self.shape(x, state)
        octaves, voiced = self.tell(x)
        return self.speak(x, octaves, voiced > 0, past)

    def shape(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map features [B, n, width] to those of pieces, [B, n x mel hop / hop, width], and part of the state on."""
        up, blocks, *rest = state
        x, up = self.up(x, up)
        after = []
        for block, past in zip(self.blocks, blocks, strict=True):
            x, past = block(x, past)
            after.append(past)
        return self.norm(x), (up, tuple(after), *rest)

    def tell(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features of pieces [B, n, width] to their pitch in octaves above 1 Hz and the logit of their voicing."""
        octaves, voiced = self.pitch(x).float().unbind(-1)
        return (octaves + MIDDLE).clamp(LOWEST, HIGHEST), voiced

    def speak(self, x: Tensor, octaves: Tensor, voiced: Tensor, state: State) -> tuple[Tensor, State]:
        """Map features of pieces [B, n, width] with their pitch [B, n], bool where voiced, to samples [B, n x hop]."""
        up, blocks, rest, turns, count = state
        hop, window = self.config.hop, self.config.window
        pulses_log, noise_log = self.out(x).float().clamp(max=LOUDEST).chunk(2, dim=-1)
        cycles = octaves.double().exp2() / SAMPLE_RATE  # a sample
        begins = []
        for piece in range(cycles.shape[1]):  # one after the other, so that chunks of any length give the same
            begins.append(turns)
            turns = (turns + cycles[:, piece] * hop) % 1.0
        at = torch.stack(begins, dim=1).unsqueeze(2) + cycles.unsqueeze(2) * torch.arange(window, device=x.device)
        pulses = pulse_train((at % 1.0).float(), cycles.float())
        source = torch.fft.rfft(pulses * self.window, norm="ortho") * voiced.unsqueeze(2)
        place = (count.unsqueeze(1) + torch.arange(cycles.shape[1], device=x.device)) % NOISES
        spectrum = source * minimum_phase(pulses_log) + self.noise[place] * noise_log.exp()
        pieces = torch.fft.irfft(spectrum, n=window, norm="ortho") * (self.window * self._scale)
        samples, rest = overlap_add(pieces, rest)
        return samples, (up, blocks, rest, turns, count + cycles.shape[1])


def pulse_train(turns: Tensor, cycles: Tensor) -> Tensor:
    """Map phases [B, n, window], in turns from 0 to 1, to pulses of unit power, with all harmonics below TOP.

    `cycles` [B, n] is the pitch in cycles a sample. The sum of K cosines in closed form (Dirichlet's kernel).
    """
    harmonics = (TOP / SAMPLE_RATE / cycles).floor().clamp(min=1.0).unsqueeze(2)
    half = torch.pi * turns
    below = half.sin()
    near = below.abs() < 1e-4
    kernel = torch.where(near, 2 * harmonics + 1, ((2 * harmonics + 1) * half).sin() / torch.where(near, 1.0, below))
    return (kernel - 1.0) / (2.0 * harmonics).sqrt()


def minimum_phase(log_magnitude: Tensor) -> Tensor:
    """Map log-magnitudes [..., n / 2 + 1] to the spectrum of the filter with the least delay, by its cepstrum."""
    cepstrum = torch.fft.irfft(log_magnitude)
    size = cepstrum.shape[-1]
    fold = torch.zeros(size, device=cepstrum.device)
    fold[0] = fold[size // 2] = 1.0
    fold[1 : size // 2] = 2.0
    return torch.fft.rfft(cepstrum * fold).exp()

"""A head that speaks as a voice does: pulses at the pitch and noise, each through a filter of its own.

A spectral head (`spectral.py`) has to learn phases, which distances of spectrograms do not teach; without
discriminators and very many steps it buzzes. Here phases come from the source: a train of pulses, band-limited and
going on from sample to sample, and white noise. Every ten milliseconds of either pass a filter of minimum phase, whose
answer reaches into what follows. This is differentiable source-filter synthesis (Wang et al., 2019, arXiv 1904.12088;
Engel et al., "DDSP", 2020, arXiv 2001.04643). The pitch itself is one of the codes (`PitchBook`), as it was measured;
between frames the head corrects it. A filter of minimum phase answers at once, so the head adds no latency.
"""

import math

import torch
from torch import Tensor, nn

from models.streamvoiceanon.contour import SAMPLE_RATE, measure
from models.streamvoiceanon.linear import Linear
from models.streamvoiceanon.spectral import LOUDEST, PieceNetwork, SpectralConfig, overlap_add
from models.streamvoiceanon.state import State

NOISES = 997  # pieces of noise, which are used in turn: ten seconds
QUEFRENCY = 200  # samples: what a filter's cepstrum may reach, so that its answer is short
LOWEST, HIGHEST = math.log2(55.0), math.log2(520.0)  # octaves above 1 Hz, of the pitch
MIDDLE = math.log2(150.0)
CORRECTION = 0.25  # octaves at most that a piece's pitch is off its frame's
LEVEL = -4.0  # of the log-magnitudes of filters that have not learnt anything: about as loud as speech
TOP = 7_600.0  # hertz: no harmonic lies above
TURN = 1 << 40  # a whole turn of the pulses' phase, in integers: their sums are exact, whatever the chunks


class PitchBook(nn.Module):
    """A codebook that is the pitch of a frame: 0 where it has none, else 1 to `codes` - 1 from LOWEST to HIGHEST."""

    channels = 2

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        if codes < 3:
            raise ValueError(f"{codes} codes: silence, the lowest pitch and the highest are three")
        self.codes = codes
        self.project_out = Linear(self.channels, width)

    def hear(self, frames: Tensor) -> Tensor:
        """Map frames of samples [..., frame samples] to codes [...], int64."""
        octaves, voiced = measure(frames)
        step = (octaves - LOWEST) / (HIGHEST - LOWEST) * (self.codes - 2)
        return torch.where(voiced, 1 + step.round().clamp(0, self.codes - 2).long(), 0)

    def values(self, codes: Tensor) -> Tensor:
        """Map codes [...] to octaves above MIDDLE, 0 where there is no pitch, and to whether there is one, [..., 2]."""
        voiced = (codes > 0).float()
        octaves = LOWEST - MIDDLE + (codes - 1) * ((HIGHEST - LOWEST) / (self.codes - 2))
        return torch.stack([octaves * voiced, voiced], dim=-1)

    def octaves(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Map `values` [..., 2], or means of them, to octaves above 1 Hz and to whether one is likelier than none."""
        octaves, voiced = values.float().unbind(-1)
        return MIDDLE + octaves / voiced.clamp(min=1e-4), voiced > 0.5

    def decode(self, values: Tensor) -> Tensor:
        """Map `values` [..., 2], or means of them, to features [..., width]."""
        return self.project_out(values)


class HarmonicGenerator(PieceNetwork):
    """Features [B, n mel frames, width] and a pitch a frame to samples [B, n x mel hop] at 16 kHz."""

    noise: Tensor
    silence: Tensor

    def __init__(self, width: int, mel_hop: int, config: SpectralConfig) -> None:
        super().__init__(width, mel_hop, config)
        if config.window < 2 * QUEFRENCY:
            raise ValueError(f"a window of {config.window} samples is too short for filters: {2 * QUEFRENCY} at least")
        self.out = Linear(width, config.window + 2)  # log-magnitudes of the two filters
        self.pitch = Linear(width, 2)  # the correction of the pitch, and the logit of being voiced
        with torch.device("cpu"):
            noise = torch.randn(NOISES, config.hop, generator=torch.Generator().manual_seed(0))
            silence = torch.zeros(config.window - config.hop)
        self.register_buffer("noise", torch.fft.rfft(noise, n=config.window), persistent=False)
        self.register_buffer("silence", silence, persistent=False)

    def initial_state(self, batch: int) -> State:
        """States of the network, of the pitch that goes on (octaves above MIDDLE) and of the source; fresh is zero."""
        frame, piece = (self.silence.new_zeros(batch) for _ in range(2))
        turns, count = (self.silence.new_zeros(batch, dtype=torch.int64) for _ in range(2))
        return self.initial_piece_state(batch), frame, (piece, self.silence.repeat(batch, 1), turns, count)

    def forward(self, x: Tensor, octaves: Tensor, voiced: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, n, width], and [B, frames] of the pitch that codes say, to [B, n x mel hop], and the state on."""
        network, last, source = state
        x, network = self.pieces(x, network)
        octaves, likely, last = self.tell(x, octaves, voiced, last)
        samples, source = self.speak(x, octaves, likely > 0, source)
        return samples, (network, last, source)

    def tell(self, x: Tensor, octaves: Tensor, voiced: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map features of pieces [B, n, width] and the pitch of frames to octaves and the logit of being voiced [B, n].

        A frame without a pitch goes on with the `last` [B], octaves above MIDDLE, which is returned as well.
        """
        known = torch.cat([last.unsqueeze(1), octaves.to(last.dtype) - MIDDLE], dim=1)
        place = torch.arange(known.shape[1], device=known.device) * torch.nn.functional.pad(voiced, (1, 0))
        known = known.gather(1, place.cummax(1).values)
        frames = known[:, 1:].repeat_interleave(x.shape[1] // octaves.shape[1], dim=1)
        off, likely = self.pitch(x).float().unbind(-1)
        pieces = (frames + MIDDLE + CORRECTION * off.tanh()).clamp(LOWEST, HIGHEST)
        return pieces, likely, known[:, -1]

    def speak(self, x: Tensor, octaves: Tensor, voiced: Tensor, state: State) -> tuple[Tensor, State]:
        """Map features of pieces [B, n, width] with their pitch [B, n], bool where voiced, to samples [B, n x hop]."""
        last, rest, turns, count = state
        hop, window = self.config.hop, self.config.window
        pulses_log, noise_log = (self.out(x).float() + LEVEL).clamp(max=LOUDEST).chunk(2, dim=-1)
        before = torch.cat([last.unsqueeze(1) + MIDDLE, octaves[:, :-1]], dim=1)
        ramp = torch.arange(1, hop + 1, device=x.device) / hop
        cycles = torch.lerp(before.unsqueeze(2), octaves.unsqueeze(2), ramp).double().exp2() / SAMPLE_RATE  # a sample
        moved = (cycles * TURN).round().long().flatten(1).cumsum(1)
        at = (turns.unsqueeze(1) + moved) % TURN
        pulses = pulse_train((at.double() / TURN).float().view_as(cycles), cycles.float())
        source = torch.fft.rfft(pulses * voiced.unsqueeze(2), n=window)
        place = (count.unsqueeze(1) + torch.arange(octaves.shape[1], device=x.device)) % NOISES
        spectrum = source * minimum_phase(pulses_log) + self.noise[place] * minimum_phase(noise_log)
        samples, rest = overlap_add(torch.fft.irfft(spectrum, n=window), rest)
        return samples, (octaves[:, -1] - MIDDLE, rest, at[:, -1], count + octaves.shape[1])


def pulse_train(turns: Tensor, cycles: Tensor) -> Tensor:
    """Map phases, in turns from 0 to 1, to pulses of unit power of the same shape, with all harmonics below TOP.

    `cycles`, of that shape as well, is the pitch in cycles a sample. The sum of K cosines in closed form (Dirichlet's
    kernel).
    """
    harmonics = (TOP / SAMPLE_RATE / cycles).floor().clamp(min=1.0)
    half = torch.pi * turns
    below = half.sin()
    near = below.abs() < 1e-4
    kernel = torch.where(near, 2 * harmonics + 1, ((2 * harmonics + 1) * half).sin() / torch.where(near, 1.0, below))
    return (kernel - 1.0) / (2.0 * harmonics).sqrt()


def minimum_phase(log_magnitude: Tensor) -> Tensor:
    """Map log-magnitudes [..., n / 2 + 1] to the spectrum of the filter with the least delay, by its cepstrum.

    What lies beyond QUEFRENCY is left out: the magnitude is smooth, and the answer short.
    """
    cepstrum = torch.fft.irfft(log_magnitude)
    fold = torch.zeros(cepstrum.shape[-1], device=cepstrum.device)
    fold[0] = 1.0
    fold[1:QUEFRENCY] = 2.0
    return torch.fft.rfft(cepstrum * fold).exp()

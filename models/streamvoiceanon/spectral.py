"""A head that speaks by inverse Fourier transforms: for the small codec, where weights are dear and time is not.

The features are brought to a finer rate, pass ConvNeXt blocks there, and become magnitude and phase of short spectra
whose inverse transforms are windowed and overlap (Siuzdak, "Vocos", 2023, arXiv 2306.00814; here causal). A spectrum
reaches from its own instant into the future, where later ones add to it, so a sample is final as soon as the frame that
it belongs to is known: the head adds no latency.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.streamvoiceanon.conv import CausalConvTranspose1d, ConvNeXtBlock
from models.streamvoiceanon.linear import Linear
from models.streamvoiceanon.state import State

LOUDEST = 5.0  # of the log-magnitude: e^5 is far beyond what speech in [-1, 1] needs


@dataclass(frozen=True)
class SpectralConfig:
    """`hop` divides the mel hop and `window` is a multiple of it, both in samples; `depth` counts ConvNeXt blocks.

    With `pulses` phases come from a source instead of the network, and the first codebook is the pitch (`harmonic.py`).
    """

    hop: int = 160
    window: int = 640
    depth: int = 5
    pulses: bool = False


class PieceNetwork(nn.Module):
    """What a head makes of features before it speaks: the features of pieces, one a hop."""

    def __init__(self, width: int, mel_hop: int, config: SpectralConfig) -> None:
        super().__init__()
        finer = mel_hop // config.hop
        if mel_hop % config.hop or config.window % config.hop:
            raise ValueError(f"a hop of {config.hop} does not divide {mel_hop} and a window of {config.window} samples")
        self.config = config
        self.up = CausalConvTranspose1d(width, width, finer, finer)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def initial_piece_state(self, batch: int) -> State:
        return self.up.initial_state(batch), tuple(block.initial_state(batch) for block in self.blocks)  # type: ignore[operator]

    def pieces(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map mel frames' features [B, n, width] to pieces' [B, n x mel hop / hop, width], and the state on."""
        up, blocks = state
        x, up = self.up(x, up)
        after = []
        for block, past in zip(self.blocks, blocks, strict=True):
            x, past = block(x, past)
            after.append(past)
        return self.norm(x), (up, tuple(after))


class SpectralGenerator(PieceNetwork):
    """Features [B, n mel frames, width] to samples [B, n x mel hop]."""

    window: Tensor

    def __init__(self, width: int, mel_hop: int, config: SpectralConfig) -> None:
        super().__init__(width, mel_hop, config)
        self.out = Linear(width, config.window + 2)
        with torch.device("cpu"):
            window = torch.hann_window(config.window)
        # Hann windows that overlap n times add up to n / 2.
        self.register_buffer("window", window * 2 * config.hop / config.window, persistent=False)

    def initial_state(self, batch: int) -> State:
        rest = self.window.new_zeros(batch, self.config.window - self.config.hop)
        return self.initial_piece_state(batch), rest

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, n, width] to [B, n x mel hop], and the state on."""
        before, rest = state
        x, before = self.pieces(x, before)
        log_magnitude, phase = self.out(x).chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.float().clamp(max=LOUDEST).exp(), phase.float())
        pieces = torch.fft.irfft(spectrum, n=self.config.window, norm="ortho") * self.window
        samples, rest = overlap_add(pieces, rest)
        return samples, (before, rest)


def overlap_add(pieces: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Add pieces [B, n, window] that start a hop apart to the rest [B, window - hop] of those before.

    Return samples [B, n x hop] and the new rest. The oldest is added first, so that chunks of any length give the same
    sums to the last bit.
    """
    count, window = pieces.shape[1:]
    hop = window - rest.shape[1]
    parts = pieces.unflatten(2, (-1, hop))  # (B, n, overlaps, hop)
    overlaps = parts.shape[2]
    sums = torch.cat([rest.unflatten(1, (-1, hop)), parts.new_zeros(len(parts), count, hop)], dim=1)
    for i in reversed(range(overlaps)):
        sums[:, i : i + count] += parts[:, :, i]
    return sums[:, :count].flatten(1), sums[:, count:].flatten(1)

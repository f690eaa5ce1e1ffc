"""Whisper's encoder made causal: the trunk of a content encoder that begins where Whisper's training ended.

The layers are those of Whisper (Radford et al., 2022, arXiv 2212.04356), so that its weights fit. What differs: a query
sees the last `window` positions and none that follow; log-mel frames and convolutions end at their last sample, which
makes all features 200 samples late; levels are floored at one, not below the loudest of a recording that is not over
yet; and positions lie on a ring, because a stream has
no thirtieth second: each frequency of Whisper's sinusoids is moved to the nearest that is whole on the ring.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from models.streamvoiceanon import fused, kernels
from models.streamvoiceanon.conv import CausalConv1d
from models.streamvoiceanon.linear import Linear
from models.streamvoiceanon.state import State
from models.streamvoiceanon.transformer import KeyValueCache, Sight, TransformerState, new_caches, run_layers

SAMPLE_RATE = 16_000  # hertz
WINDOW, HOP = 400, 160  # samples
FLOOR = -6.5  # of the log-mel spectrum, decades: Whisper's own lies 8 below the loudest of the recording
RING = 3_000  # positions, 60 seconds
LARGEST_PERIOD = 10_000.0


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of Whisper tiny's encoder; `window` counts positions of 20 ms."""

    bands: int = 80
    width: int = 384
    heads: int = 6
    hidden: int = 1536
    layers: int = 4
    window: int = 192


class WhisperMel(nn.Module):
    """Samples at 16 kHz to Whisper's log-mel frames, a hundred a second."""

    window: Tensor
    filters: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        with torch.device("cpu"):
            filters = torchaudio.functional.melscale_fbanks(
                WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
            )
            window = torch.hann_window(WINDOW)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the first one: silence [batch, window - hop]."""
        return self.window.new_zeros(batch, WINDOW - HOP)

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples [B, n x hop] to log-mel frames [B, n, bands], and the state on."""
        samples = torch.cat([state, samples], dim=1)
        spectrum = torch.view_as_real(torch.fft.rfft(samples.unfold(1, WINDOW, HOP) * self.window))
        with torch.autocast(samples.device.type, enabled=False):
            mel = (spectrum.square().sum(-1) @ self.filters.T).clamp(min=10.0**FLOOR).log10()
        return (mel + 4.0) / 4.0, samples[:, samples.shape[1] - state.shape[1] :]


class WhisperAttention(nn.Module):
    """Causal self-attention over a key-value cache; where in time a position lies its vector says."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv, self.wo = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor, cache: KeyValueCache, sight: Sight) -> Tensor:
        """Map [B, n, width] to [B, n, width]; writes the new keys and values into `cache`."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.wo(sight.attend(q, k, v, cache))


class WhisperLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    packed: fused.PackedLayer | None = None

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = WhisperAttention(config.width, config.heads)
        self.w1, self.w2 = Linear(config.width, config.hidden), Linear(config.hidden, config.width)

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights as `kind` and run the whole layer in one call, for inference on a CPU."""
        maps = (self.attention.wqkv, self.attention.wo, self.w1, self.w2)
        qkv, out, up, down = (linear.weight for linear in maps)
        biases = tuple(linear.bias for linear in maps)
        self.packed = fused.PackedLayer(
            (qkv, out, up, down),
            (None, None),
            tuple((norm.weight, norm.bias) for norm in (self.attention_norm, self.ffn_norm)),  # type: ignore[arg-type]
            self.attention.heads,
            self.ffn_norm.eps,
            kind,
            biases,  # type: ignore[arg-type]
        )
        for linear in maps:
            linear.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor, cache: KeyValueCache, sight: Sight) -> Tensor:
        """Map [B, n, width] to [B, n, width]; writes the new keys and values into `cache`."""
        x = x + self.attention(self.attention_norm(x), cache, sight)
        return x + self.w2(F.gelu(self.w1(self.ffn_norm(x))))


class WhisperTrunk(nn.Module):
    """Log-mel frames [B, 2n, bands] to features [B, n, width], fifty a second."""

    places: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = CausalConv1d(config.bands, config.width, 3)
        self.conv2 = CausalConv1d(config.width, config.width, 3, stride=2)
        self.layers = nn.ModuleList(WhisperLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("places", ring_table(config.width), persistent=False)

    def initial_state(self, batch: int, chunk: int, places: Tensor | None = None) -> State:
        """The state of fresh streams, for chunks of at most `chunk` positions.

        `places` [batch] are where on the ring they begin, at 0 without.
        """
        zeros = torch.zeros(batch, dtype=torch.int64)
        return (
            self.conv1.initial_state(batch),
            self.conv2.initial_state(batch),
            TransformerState(new_caches(self.layers, batch, self.config.window + chunk - 1), zeros),
            zeros.clone() if places is None else places,
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map [B, 2n, bands] to [B, n, width], and the state on."""
        first, second, seen, places = state
        x, first = self.conv1(x, first)
        x, second = self.conv2(F.gelu(x), second)
        length = x.shape[1]
        at = (places.unsqueeze(1) + torch.arange(length)) % RING
        x = F.gelu(x) + self.places[at.to(x.device)]
        sight = Sight(seen, length, self.config.window)
        x = run_layers(self.layers, x, seen.caches, sight)
        return self.norm(x), (first, second, seen.moved(length), (places + length) % RING)


def ring_table(width: int) -> Tensor:
    """Whisper's sinusoids [RING, width], first the sines and then the cosines, each whole on the ring."""
    with torch.device("cpu"):
        half = width // 2
        rates = torch.exp(-math.log(LARGEST_PERIOD) / (half - 1) * torch.arange(half))  # radians a position
        whole = (rates * RING / (2 * math.pi)).round()
        angles = torch.outer(torch.arange(RING).double(), whole.double()) * (2 * math.pi / RING)
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()
